"""Limits the nesting of JSON from outside, so that it can be written again: orjson reads 1,024 levels and writes 254.

The limits leave room for the levels that the gateway adds around a value: a response in an event, a list, a seal.
"""

from __future__ import annotations

from typing import Any

import orjson

from app import loose_json

#: Levels of a request.
FROM_CLIENTS = 200
#: Levels of an upstream's answer. They are fewer, because a client may send back every item that it received.
FROM_UPSTREAMS = 190

_WRITTEN = 254


class TooDeep(ValueError):
    """`value` is nested too deep; `member` is the name of the member that causes it, if the value is an object."""

    def __init__(self, value: Any, member: str | None) -> None:
        super().__init__(member)
        self.value = value
        self.member = member


def loads(data: bytes | str, levels: int) -> Any:
    """The value. Raises ValueError for invalid JSON, and TooDeep for a value with more levels."""
    value = orjson.loads(data)
    raw = data.encode() if isinstance(data, str) else data
    if may_exceed(raw, 0, len(raw), levels):
        _check(value, levels)
    return value


def from_upstream(data: bytes) -> Any:
    """The value of an upstream's JSON, which may be loose. Raises ValueError and TooDeep."""
    try:
        value = orjson.loads(data)
    except ValueError:
        value = loose_json.loads(data)
    if may_exceed(data, 0, len(data), FROM_UPSTREAMS):
        _check(value, FROM_UPSTREAMS)
    return value


def take(data: bytearray, levels: int) -> Any:
    """The value of a buffer. Empties the buffer before the check, which needs as much memory again."""
    value, suspect = orjson.loads(data), may_exceed(data, 0, len(data), levels)
    data.clear()
    if suspect:
        _check(value, levels)
    return value


def may_exceed(data: bytes | bytearray, begin: int, end: int, levels: int) -> bool:
    """Whether the JSON between two places has enough brackets to be nested too deep. Most has not, and needs no other
    check."""
    return data.count(b"[", begin, end) + data.count(b"{", begin, end) > levels


def _check(value: Any, levels: int) -> None:
    """Raises TooDeep."""
    if _exceeds(value, levels):
        raise TooDeep(value, _deep_member(value, levels))


def _exceeds(value: Any, levels: int) -> bool:
    """Tries the encoder, which is five times as fast as a walk in Python."""
    for _ in range(_WRITTEN - levels):
        value = [value]
    try:
        orjson.dumps(value)
    except TypeError:
        return True
    return False


def _deep_member(value: Any, levels: int) -> str | None:
    members = value.items() if isinstance(value, dict) else ()
    return next((name for name, inner in members if _exceeds(inner, levels - 1)), None)
