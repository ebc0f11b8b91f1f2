"""A request as it arrived, an answer as it is sent, and the type of scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, Protocol

import orjson

JSON = dict[str, Any]
STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}


class Act(Enum):
    """Actions of an upstream in place of sending bytes."""

    HOLD = "say nothing until release() or until the peer hangs up"
    FIN = "close the connection"
    RESET = "close it with a RST"


HOLD, FIN, RESET = Act.HOLD, Act.FIN, Act.RESET


@dataclass(frozen=True, slots=True)
class Pause:
    """Seconds without bytes, for slow answers."""

    seconds: float


Piece = bytes | Act | Pause
Framing = Literal["length", "chunked", "close"]


@dataclass(frozen=True, slots=True)
class Answer:
    """`lead` goes out before the head and `trail` after the body, both unframed; each piece of bytes is one write."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: Iterable[Piece] = ()
    framing: Framing = "length"
    lead: Iterable[Piece] = ()
    trail: Iterable[Piece] = ()
    ending: int = 1
    """The number of pieces at the end of a stream that announce it."""

    @property
    def body(self) -> bytes:
        return b"".join(piece for piece in self.pieces if isinstance(piece, bytes))

    @property
    def streams(self) -> bool:
        return self.headers.get("Content-Type", "").startswith("text/event-stream")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request as it arrived. Header names are lower case; `body` is None when it is no JSON."""

    method: str
    path: str
    headers: Mapping[str, str]
    raw: bytes
    body: Any
    connection: int
    """The number of its connection, counted from 1."""
    number: int
    """The number of the request, counted from 1."""


class Refused(Exception):
    """An answer that is an error of the caller."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param


class Format(Protocol):
    """A module for one wire format."""

    def admit(self, headers: Mapping[str, str], api_key: str | None) -> None:
        """Raises Refused unless the request has this key and the required headers. None accepts any key."""

    def check_model(self, name: Any, models: tuple[str, ...] | None) -> None:
        """Raises Refused unless the model is one of these."""

    def envelope(self, refused: Refused) -> JSON:
        """The body of an error."""

    def failure(self, head: tuple[Piece, ...], error: Refused) -> list[JSON]:
        """The events that break off a stream which began with `head`."""

    def stream(self, body: JSON) -> tuple[Piece, ...]:
        """The stream that says the same as this whole answer."""

    def too_long(self) -> Refused:
        """The refusal of a context that no longer fits."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """The input of a script: the request, and `reply`, the upstream's answer to another body."""

    request: Recorded
    reply: Callable[[JSON], Answer]
    format: Format


Script = Callable[[Exchange, Answer], Answer]


def json_answer(body: JSON, status: int = 200) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, (orjson.dumps(body),))


def event_bytes(event: JSON) -> bytes:
    """An event as OpenAI and Anthropic write it; those of chat completions have no name."""
    name = b"event: %b\n" % event["type"].encode() if "type" in event else b""
    return b"%bdata: %b\n\n" % (name, orjson.dumps(event))


def is_event(piece: Piece) -> bool:
    return isinstance(piece, bytes) and b"data: {" in piece


def parsed(piece: Piece) -> JSON:
    assert isinstance(piece, bytes)
    event: JSON = orjson.loads(piece.partition(b"data: ")[2])
    return event
