"""The query of a listing: order, after, limit; and the event after which a stream resumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.errors import InvalidRequest

MAX_LIMIT = 100
DEFAULT_LIMIT = 20
ORDERS = ("asc", "desc")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which part of a list is wanted. `after` is the id of the item before it."""

    order: str = "desc"
    after: str | None = None
    limit: int = DEFAULT_LIMIT


def read_page(arguments: Mapping[str, str]) -> PageRequest:
    """Raises InvalidRequest."""
    order = arguments.get("order") or "desc"
    if order not in ORDERS:
        raise InvalidRequest(
            f"Invalid value: '{order[:64]}'. Supported values are: 'asc' and 'desc'.",
            code="invalid_value",
            param="order",
        )
    return PageRequest(order, arguments.get("after") or None, _limit(arguments.get("limit")))


def read_starting_after(arguments: Mapping[str, str]) -> int | None:
    """The number of the last event that the client received. Raises InvalidRequest."""
    text = arguments.get("starting_after")
    if text is None or text == "":
        return None
    _check_integer("starting_after", text)
    if int(text) < 0:
        raise InvalidRequest(
            f"Invalid 'starting_after': integer below minimum value. Expected a value >= 0, but got {text} instead.",
            code="integer_below_min_value",
            param="starting_after",
        )
    return int(text)


def _check_integer(name: str, text: str) -> None:
    if not text.lstrip("-").isdecimal() or not text.isascii() or len(text) > 10:
        raise InvalidRequest(
            f"Invalid type for '{name}': expected an integer, but got a string instead.",
            code="invalid_type",
            param=name,
        )


def _limit(text: str | None) -> int:
    if text is None or text == "":
        return DEFAULT_LIMIT
    _check_integer("limit", text)
    limit = int(text)
    if limit < 1:
        raise InvalidRequest(
            f"Invalid 'limit': integer below minimum value. Expected a value >= 1, but got {limit} instead.",
            code="integer_below_min_value",
            param="limit",
        )
    if limit > MAX_LIMIT:
        raise InvalidRequest(
            f"Invalid 'limit': integer above maximum value. Expected a value <= {MAX_LIMIT}, but got {limit} instead.",
            code="integer_above_max_value",
            param="limit",
        )
    return limit
