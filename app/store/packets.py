"""The size of a statement on MySQL, whose server refuses a larger one than `max_allowed_packet`.

The driver writes each value into the statement, with a backslash before each quote and backslash in it. A body goes
into a statement of its own, so that each may have the whole size.
"""

from __future__ import annotations

from collections.abc import Iterable

from app.errors import TooLargeToStore

#: Bytes of a statement besides its bodies: the other columns, and ids that items get when they are stored.
MARGIN = 65_536
_SMALL = 16_384
#: Bytes of one character at most; the driver escapes only characters of one byte.
_WIDEST = 4
_ESCAPED = ('"', "\\", "'", "\n", "\r", "\0", "\x1a")


def check(packet: int | None, values: Iterable[object]) -> None:
    """Raises TooLargeToStore when these values do not fit into one statement. `packet`: None for no limit."""
    if packet is not None and (size := _over(packet, values)):
        raise TooLargeToStore(size, packet)


def fits(packet: int, *values: str | bytes) -> bool:
    """Whether these values fit into one statement."""
    return not _over(packet, values)


def _over(packet: int, values: Iterable[object]) -> int:
    """The size of the values in a statement if it is too large, else 0."""
    large = [value for value in values if isinstance(value, str | bytes) and len(value) > _SMALL]
    if _WIDEST * sum(map(len, large)) < packet - MARGIN:
        return 0
    size = sum(map(_escaped, large))
    return size if size > packet - MARGIN else 0


def _escaped(value: str | bytes) -> int:
    if isinstance(value, bytes):
        return len(value) + sum(value.count(character.encode()) for character in _ESCAPED)
    return len(value.encode("utf-8", "replace")) + sum(map(value.count, _ESCAPED))
