"""Server-sent events as bytes: cutting a stream into events, reading one, writing one. No I/O."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from typing import Any

import orjson

END = b"[DONE]"
DONE = b"data: %b\n\n" % END

#: A comment: proxies stay awake and clients never see it. An event without data would break the SDKs.
HEARTBEAT = b": keep-alive\n\n"

#: An event longer than this is no event.
MAX_EVENT = 16 * 1024 * 1024


_EVENT, _DATA = b"event: ", b"data: "
#: The blank line behind an event. A `\r` counts once it is known that no `\n` follows.
_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?=[^\n]))")
_LONGEST_BLANK_LINE = 4
_CR = ord(b"\r")


class EventTooLong(ValueError):
    """More than `MAX_EVENT` bytes without the blank line that ends an event."""


def encode(event: Mapping[str, Any]) -> bytes:
    """One event, named by its `type`, on one data line."""
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))


def parse(raw: bytes) -> tuple[str | None, bytes | None]:
    """Name and data of one event as `Splitter` cuts it; data is None when there is none (a comment)."""
    if raw.startswith(_EVENT):
        # Most events are two lines: their name, and their data.
        first, _, second = raw.partition(b"\n")
        if second.startswith(_DATA) and b"\n" not in second:
            return first[len(_EVENT) :].decode("utf-8", "replace"), second[len(_DATA) :]
    name: str | None = None
    data: list[bytes] = []
    for line in raw.split(b"\n"):
        key, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if key == b"data":
            data.append(value)
        elif key == b"event":
            name = value.decode("utf-8", "replace")
    return name, b"\n".join(data) if data else None


class Splitter:
    """Collects bytes and gives them back as whole events, however they were split.

    Line ends of all three kinds become `\\n`, a byte order mark is dropped. A lone `\\r` at the end of a piece is a
    line end at once; if a `\\n` follows in the next piece, it belongs to it.
    """

    __slots__ = ("_after_cr", "_at_start", "_held", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._held = 0
        self._after_cr = False
        self._at_start = True

    def feed(self, data: bytes) -> bytes:
        """All events that are complete now, each followed by a blank line; the rest is buffered."""
        if not data:
            return b""
        if self._at_start:
            data = self._drop_bom(data)
        if self._after_cr or _CR in data:
            data = self._unify(data)
        if not data:
            return b""
        if self._pieces and (b"\n\n" in data or self._straddles(data)):
            data = b"".join((*self._pieces, data))
            self._pieces, self._held = [], 0
        if data.endswith(b"\n\n"):
            return data
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            self._keep(data)
            return b""
        self._keep(data[end:])
        return data[:end]

    def _straddles(self, data: bytes) -> bool:
        """Whether a blank line began in the piece before."""
        return data.startswith(b"\n") and self._pieces[-1].endswith(b"\n")

    @property
    def rest(self) -> bytes:
        """The bytes after the last whole event."""
        return b"".join(self._pieces)

    def _keep(self, data: bytes) -> None:
        self._pieces.append(data)
        self._held += len(data)
        if self._held > MAX_EVENT:
            raise EventTooLong

    def _drop_bom(self, data: bytes) -> bytes:
        held = b"".join((*self._pieces, data))
        if len(held) < len(codecs.BOM_UTF8) and codecs.BOM_UTF8.startswith(held):
            self._pieces = [held]
            return b""
        self._at_start, self._pieces, self._held = False, [], 0
        return held.removeprefix(codecs.BOM_UTF8)

    def _unify(self, data: bytes) -> bytes:
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
            if not data:
                return b""
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


class Cutter:
    """Cuts a stream into its events, however the bytes were split, and changes none of them."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are complete now, each with its blank line; the rest is buffered."""
        self._held += data
        ends = [found.end() for found in _BLANK_LINE.finditer(self._held, self._searched)]
        events = [bytes(self._held[begin:end]) for begin, end in zip((0, *ends), ends, strict=False)]
        if ends:
            del self._held[: ends[-1]]
        if len(self._held) > MAX_EVENT:
            raise EventTooLong
        self._searched = max(0, len(self._held) - _LONGEST_BLANK_LINE)
        return events

    @property
    def rest(self) -> bytes:
        """The bytes after the last whole event."""
        return bytes(self._held)
