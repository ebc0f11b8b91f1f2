"""The bodies of `/v1/conversations`: items as they may stand in an `input`, and metadata as on a response."""

from __future__ import annotations

from typing import Any

from app.contract.items import Item
from app.errors import InvalidRequest, missing_parameter
from app.schemas.fields import StringMap, Violation, array_too_long, empty, not_an_object, wrong_type
from app.schemas.items import read_input

MAX_ITEMS = 20

_METADATA = StringMap(max=16, max_key=64, max_value=512)


def read_conversation(body: object) -> dict[str, Any]:
    """`items` and `metadata`, empty where they are not given. Raises InvalidRequest."""
    members = _object(body)
    items = members.get("items")
    return {"items": [] if items is None else _items(items), "metadata": _metadata(members.get("metadata"))}


def read_metadata(body: object) -> dict[str, str]:
    members = _object(body)
    if "metadata" not in members:
        raise missing_parameter("metadata")
    return _metadata(members["metadata"])


def read_added_items(body: object) -> list[Item]:
    members = _object(body)
    if "items" not in members:
        raise missing_parameter("items")
    items = _items(members["items"])
    if not items:
        raise empty("array").at("items")
    return items


def _object(body: object) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise not_an_object(body)
    return body


def _metadata(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    try:
        _METADATA.check(value)
    except Violation as violation:
        raise violation.at("metadata") from None
    return dict(value)


def _items(value: object) -> list[Item]:
    if not isinstance(value, list):
        raise wrong_type("an array of objects", value).at("items")
    if len(value) > MAX_ITEMS:
        raise array_too_long(value, MAX_ITEMS).at("items")
    if not value:
        return []
    items = read_input(value, "items")
    if items[-1]["type"] == "compaction_trigger":
        raise InvalidRequest(
            "Invalid value: 'compaction_trigger'. An item of this type is for the input of a response.",
            code="invalid_value",
            param=f"items[{len(value) - 1}]",
        )
    return items
