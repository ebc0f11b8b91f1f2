"""A small reader of server-sent events, written from the standard and not from the gateway's own code.

It takes bytes in any portions and notes what the official SDKs stumble over. It knows nothing of what events mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

BOM = b"\xef\xbb\xbf"
SENTINEL = "[DONE]"
LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")


class Event(NamedTuple):
    name: str | None
    data: str
    comments: int
    """How many comment lines came since the event before."""


class Reader:
    """`feed` it bytes and take events; after `finish`, `faults` says what was wrong."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.comments = 0
        self._rest = b""
        self._started = False
        self._since = 0
        self._name: str | None = None
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[Event]:
        self._rest += data
        if not self._started:
            if len(self._rest) < len(BOM) and BOM.startswith(self._rest):
                return []
            self._rest = self._rest.removeprefix(BOM)
            self._started = True
        return [event for line in self._lines() if (event := self._take(line)) is not None]

    def finish(self) -> list[Event]:
        """What a last lone CR still completes; anything else that is left over is a fault."""
        events = []
        if self._rest.endswith(b"\r"):
            line, self._rest = self._rest[:-1], b""
            events = [event for event in [self._take(line)] if event is not None]
        if self._rest or self._data or self._name is not None:
            self.faults.append("the stream ended inside an event")
        return events

    def _lines(self) -> list[bytes]:
        # A CR at the very end stays: the LF that belongs to it may still come.
        *lines, self._rest = LINE_END.split(self._rest)
        return lines

    def _take(self, raw: bytes) -> Event | None:
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            self.faults.append(f"invalid UTF-8: {raw[:60]!r}")
            line = raw.decode("utf-8", "replace")
        if not line:
            return self._dispatch()
        if line.startswith(":"):
            self.comments += 1
            self._since += 1
            return None
        field, _, value = line.partition(":")
        self._field(field, value.removeprefix(" "))
        return None

    def _field(self, field: str, value: str) -> None:
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        else:
            self.faults.append(f"a field no client expects: {field[:40]!r}")

    def _dispatch(self) -> Event | None:
        name, data, since = self._name, self._data, self._since
        self._clear()
        if not data:
            if name is not None:
                self.faults.append(f"event {name!r} without data: openai-python fails on it")
            return None
        self._since = 0
        return Event(name, "\n".join(data), since)

    def _clear(self) -> None:
        self._name = None
        self._data = []


def read(raw: bytes) -> tuple[list[Event], list[str]]:
    """All events of a whole stream, and its faults."""
    reader = Reader()
    events = [*reader.feed(raw), *reader.finish()]
    return events, reader.faults


def follow(portions: Iterable[bytes]) -> Iterator[Event]:
    """Events of a stream that is still being sent, each as soon as it is whole."""
    reader = Reader()
    for portion in portions:
        yield from reader.feed(portion)
    yield from reader.finish()
