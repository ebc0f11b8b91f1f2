"""The texts in which people state what a token may do, read for the options of the command and the fields of the page.
Each function raises ValueError with a sentence that names the text.
"""

from __future__ import annotations

from datetime import UTC, datetime
from time import time

from marshmallow import ValidationError

from app.contract.limits import MOST, NO_LIMIT, Budget, budgets
from app.schemas.table_values import Scalar, identifier
from app.settings import parse_duration
from app.store.pruning import LEAST_AGE

#: Words in place of a limit: none at all, and the one that the channel table sets for all tokens.
NONE, DEFAULT = "none", "default"
#: In place of an expiry.
NEVER = "never"
#: In place of names: every model, every channel.
ALL = ("*",)

_YEAR = 366 * 86_400
LONGEST_RETENTION = 100 * _YEAR
LONGEST_OVERLAP = 90 * 86_400


def models(text: str) -> tuple[str, ...]:
    """Names or globs of models, separated by commas; empty for every model (`*`)."""
    found = _names(text)
    return () if found == ALL else found


def tools(text: str) -> tuple[str, ...]:
    """Labels or globs of tool servers, separated by commas; empty for `none`."""
    found = _names(text)
    return () if found == (NONE,) else found


def tags(text: str) -> tuple[str, ...] | None:
    """Tags of channels, separated by commas; empty for every channel (`*`), None for `default`."""
    if text == DEFAULT:
        return None
    found = _names(text)
    if found == ALL:
        return ()
    for tag in found:
        try:
            identifier(Scalar(tag))
        except ValidationError as error:
            raise ValueError(f"{tag!r}: a tag {error.messages[0]}") from error
    return found


def amount(text: str) -> int | None:
    """A whole number above zero, `NO_LIMIT` for `none`, None for `default`."""
    if text == DEFAULT:
        return None
    if text == NONE:
        return NO_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MOST)) and 0 < int(text) <= MOST):
        raise ValueError(f"{text!r} is neither a number above 0 nor {NONE} or {DEFAULT}")
    return int(text)


def budget_list(text: str) -> tuple[Budget, ...] | None:
    """Budgets, separated by commas: `2Mtok/day,50usd/month`; empty for `none`, None for `default`."""
    if text == DEFAULT:
        return None
    if text == NONE:
        return ()
    try:
        return budgets(text.split(","))
    except ValueError as error:
        raise ValueError(f"{text!r} {error}; or {NONE}, or {DEFAULT}") from error


def expiry(text: str) -> int | None:
    """A duration from now (`90d`, `12h`) or a date (`2027-01-31`) in UTC, as unix seconds; None for `never`."""
    if text == NEVER:
        return None
    now = int(time())
    moment = _moment(text, now)
    if moment is None:
        raise ValueError(f"{text!r} is neither a duration such as 90d nor a date such as 2027-01-31")
    if moment <= now:
        raise ValueError(f"{text!r} is in the past: the token would never work")
    return moment


def _names(text: str) -> tuple[str, ...]:
    """An empty name is an error: an unset variable of a script makes one."""
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise ValueError(f"{text!r} holds an empty name")
    return found


def _moment(text: str, now: int) -> int | None:
    seconds = parse_duration(text)
    if seconds is not None:
        return now + seconds if seconds <= 100 * _YEAR else None
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None
    return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())


def retention(text: str) -> int | None:
    """A duration of at least a day, in seconds; None for `default`, that of the other tokens."""
    if text == DEFAULT:
        return None
    seconds = parse_duration(text)
    if seconds is None or not LEAST_AGE <= seconds <= LONGEST_RETENTION:
        raise ValueError(f"{text!r} is not a duration such as 7d or 4w, of at least 1d, nor {DEFAULT}")
    return seconds


def overlap(text: str) -> int:
    """How long an earlier secret still works: `24h`, or `0s` for not at all; in seconds."""
    seconds = parse_duration(text)
    if seconds is None or seconds > LONGEST_OVERLAP:
        raise ValueError(f"{text!r} is not a duration such as 24h, 0s or 7d, of at most 90d")
    return seconds
