"""JSON from outside, read only as deep as it can be written again: orjson reads 1,024 levels and writes 254.

The limits leave room for what the gateway puts around a value: a response in an event, a list, a sealed item.
"""

from __future__ import annotations

from typing import Any

import orjson

from app import lone_surrogates

#: Levels of a request.
FROM_CLIENTS = 200
#: Levels of an upstream's answer: fewer, for a client may send back every item that it was given.
FROM_UPSTREAMS = 190

_WRITTEN = 254


class TooDeep(ValueError):
    """`value`: what is too deep; `member`: its top-level member that is, where it is an object."""

    def __init__(self, value: Any, member: str | None) -> None:
        super().__init__(member)
        self.value = value
        self.member = member


def loads(data: bytes | str, levels: int) -> Any:
    """The value. Raises ValueError for what is not JSON, or too deep to be read, and TooDeep for what is too deep."""
    value = orjson.loads(data)
    check(value, len(data), levels)
    return value


def from_upstream(data: bytes) -> Any:
    """The value of an upstream's JSON; halves of characters in it are replaced. Raises ValueError and TooDeep."""
    try:
        return loads(data, FROM_UPSTREAMS)
    except TooDeep:
        raise
    except ValueError:
        readable = lone_surrogates.replace_escapes(data)
        if readable == data:
            raise
        return loads(readable, FROM_UPSTREAMS)


def take(data: bytearray, levels: int) -> Any:
    """The same of a buffer, which is empty afterwards: the check takes as much memory again."""
    value, length = orjson.loads(data), len(data)
    data.clear()
    check(value, length, levels)
    return value


def check(value: Any, length: int, levels: int) -> None:
    """Raises TooDeep. `length`: of the JSON that the value was read from, of which a level takes two characters."""
    if length > 2 * levels and _exceeds(value, levels):
        raise TooDeep(value, _deep_member(value, levels))


def may_exceed(data: bytes, begin: int, end: int, levels: int) -> bool:
    """Whether the JSON between two places could be too deep: whether it has brackets enough."""
    return data.count(b"[", begin, end) + data.count(b"{", begin, end) > levels


def _exceeds(value: Any, levels: int) -> bool:
    """Asks the encoder, which is five times as fast as a walk in Python."""
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
