"""What a client may send over a WebSocket: one JSON object a frame, of which `response.create` is answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app import nesting
from app.errors import InvalidRequest, nested_too_deep
from app.schemas.create import read_create, read_warm_up
from app.schemas.fields import Boolean, String, Violation

#: The value of a text's JSON. Raises ValueError, and TooDeep of `app.nesting`.
Parse = Callable[[bytearray], Any]

_CREATE = "response.create"
#: Belong to the frame, not to the request in it; and what a socket does in its own way.
_ENVELOPE = frozenset({"type", "stream_id", "generate", "stream", "stream_options", "background"})
_STREAM_ID = String(min=1, max=512)
_GENERATE = Boolean()


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that could be parsed. Its request is not checked yet."""

    body: dict[str, Any]
    fault: InvalidRequest | None = None
    """Why its request cannot be read, although the frame can."""

    @property
    def stream_id(self) -> str | None:
        """The `stream_id` of all frames that answer it."""
        stream_id = self.body.get("stream_id")
        return stream_id if isinstance(stream_id, str) and stream_id else None

    @property
    def parent(self) -> str | None:
        parent = self.body.get("previous_response_id")
        return parent if isinstance(parent, str) else None


@dataclass(frozen=True, slots=True)
class FrameRequest:
    """The request of a frame, always streamed."""

    request: dict[str, Any]
    generates: bool
    """False for a warm-up: the context is built, nothing is answered."""


def _parse(message: bytearray) -> Any:
    return nesting.loads(bytes(message), nesting.FROM_CLIENTS)


def parse_frame(message: bytearray | bytes, parse: Parse = _parse) -> Frame:
    """The frame of a text; `parse` may empty it. Raises InvalidRequest. Binary messages come as bytes."""
    if isinstance(message, bytes):
        raise InvalidRequest("Send text frames: binary ones are not read.", code="invalid_frame")
    fault = None
    try:
        body = parse(message)
    except nesting.TooDeep as deep:
        body, fault = deep.value, nested_too_deep(deep.member, nesting.FROM_CLIENTS)
    except ValueError:
        raise InvalidRequest("We could not parse the JSON of your frame.", code="invalid_json") from None
    if not isinstance(body, dict):
        raise InvalidRequest("A frame is a JSON object with a 'type'.", code="invalid_frame")
    return Frame(body, fault)


def read_frame(frame: Frame) -> FrameRequest:
    """Raises InvalidRequest. An empty `input` adds nothing, which is enough after a warm-up."""
    body = frame.body
    if frame.fault is not None:
        raise frame.fault
    if body.get("type") != _CREATE:
        raise InvalidRequest(
            f"Frames of type '{_CREATE}' are served here, not {_shown(body.get('type'))}.",
            code="unsupported_frame",
            param="type",
        )
    _check(_STREAM_ID, body, "stream_id")
    _check(_GENERATE, body, "generate")
    request = {name: value for name, value in body.items() if name not in _ENVELOPE}
    if request.get("input") in ("", []):
        del request["input"]
    request["stream"] = True
    if body.get("generate") is False:
        return FrameRequest(read_warm_up(request), generates=False)
    return FrameRequest(read_create(request), generates=True)


def _check(cell: String | Boolean, body: dict[str, Any], name: str) -> None:
    if body.get(name) is None:
        return
    try:
        cell.check(body[name])
    except Violation as violation:
        raise violation.at(name) from None


def _shown(kind: object) -> str:
    return f"'{kind[:64]}'" if isinstance(kind, str) else "one without a type"
