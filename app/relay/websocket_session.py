"""The turns of one WebSocket: text frames in, text frames out. Knows nothing of the connection itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from time import time
from typing import Protocol, cast

import orjson

from app import sse
from app.contract.events import FAILED
from app.contract.records import Token
from app.errors import ClientGone, GatewayError, InternalError, InvalidRequest
from app.memory import Share
from app.relay.connection_store import ConnectionStore, ConnectionToolCalls
from app.relay.request_context import RequestContext
from app.relay.runs import run_of_request
from app.relay.turn_builder import build_turn
from app.relay.turn_run import TurnParts, WarmUpRun
from app.schemas.frames import Frame, FrameRequest, Parse, parse_frame, read_frame

log = logging.getLogger(__name__)

#: A WebSocket turn ends in one frame, so the `error` event that SSE sends before `response.failed` is left out.
_SSE_ERROR = "error"


class _Events(Protocol):
    def __iter__(self) -> Iterator[bytes]: ...
    def close(self) -> None: ...


class WebSocketSession:
    """The state of one connection: its latest responses, including unstored ones."""

    def __init__(self, parts: TurnParts, share: Share) -> None:
        """`share`: the session's part of the memory for large bodies."""
        self._connection_store = ConnectionStore(parts.store.responses, share)
        tool_calls = ConnectionToolCalls(parts.store.tool_calls, self._connection_store)
        self._parts = parts.with_store(parts.store.with_parts(self._connection_store, tool_calls))

    def answer(
        self,
        token: Token,
        message: bytearray | bytes,
        context: RequestContext,
        send: Callable[[str], None],
        parse: Parse,
    ) -> Generator[str]:
        """The frames that answer a client's message. Closing the generator early ends the turn. Frames that are due
        before the first one go to `send`. Raises ClientGone.
        """
        frame: Frame | None = None
        try:
            frame = parse_frame(message, parse)
            frame_request = read_frame(frame)
            self._check_parent_is_stored(token, frame_request)
            context = replace(context, send_early=partial(_send_events, send, frame.stream_id))
            with closing(_unpacked(self._events(token, frame_request, context))) as events:
                for kind, event in events:
                    if kind == FAILED:
                        self._evict_parent(frame)
                    yield _with_stream_id(event, frame.stream_id)
        except GatewayError as error:
            self._evict_parent(frame)
            yield error_frame(error, frame)
        except ClientGone:
            raise
        except Exception:
            # An error ends the turn, never the connection.
            log.exception("a turn of request %s failed", context.request_id)
            yield error_frame(InternalError(), frame)

    def close(self) -> None:
        self._connection_store.clear()

    def refuse(self, message: bytearray | bytes, error: GatewayError) -> str:
        """The answer to a frame that is not processed."""
        try:
            return error_frame(error, parse_frame(message))
        except InvalidRequest:
            return error_frame(error)

    def _events(self, token: Token, frame_request: FrameRequest, context: RequestContext) -> Iterable[bytes]:
        parts, request = self._parts, frame_request.request
        if frame_request.generates:
            return run_of_request(parts, token, request, context).stream()
        turn = build_turn(parts.store, parts.contexts, token, request, int(time()))
        return WarmUpRun(parts, token, turn, context).stream()

    def _check_parent_is_stored(self, token: Token, frame_request: FrameRequest) -> None:
        """Refuses a stored response after an unstored one: no other connection could load its history."""
        parent, stores = (
            frame_request.request.get("previous_response_id"),
            frame_request.request.get("store", True) and token.stores,
        )
        if stores and parent in self._connection_store:
            raise InvalidRequest(
                f"Previous response with id '{parent}' not found in storage: it was created with 'store' false. Send "
                "'store' false to continue from it.",
                code="previous_response_not_found",
                param="previous_response_id",
            )

    def _evict_parent(self, frame: Frame | None) -> None:
        """After a failed turn the client starts again without this parent."""
        if frame is not None and frame.parent is not None:
            self._connection_store.forget(frame.parent)


def error_frame(error: GatewayError, frame: Frame | None = None) -> str:
    """The one frame of a refused turn, or of a connection that ends."""
    body = error.error()
    body["code"] = body["code"] or "invalid_request_error"
    if headers := {name.lower(): value for name, value in {**error.headers, **error.retry_headers}.items()}:
        body["headers"] = headers
    event = orjson.dumps({"type": "error", "status": error.status, "error": body})
    return _with_stream_id(event, frame.stream_id if frame else None)


def _send_events(send: Callable[[str], None], stream_id: str | None, events: bytes) -> None:
    for _, event in _read(events):
        send(_with_stream_id(event, stream_id))


def _unpacked(events: Iterable[bytes]) -> Generator[tuple[str, bytes]]:
    """The types and the JSON of a stream's events, unchanged, without the framing of SSE."""
    splitter = sse.Splitter()
    with closing(cast(_Events, events)):
        for piece in events:
            yield from _read(splitter.feed(piece))


def _read(events: bytes) -> Iterator[tuple[str, bytes]]:
    for raw in events.split(b"\n\n"):
        kind, data = sse.parse(raw)
        if data is None or data == sse.END:
            continue
        kind = kind or orjson.loads(data)["type"]
        if kind != _SSE_ERROR:
            yield kind, data


def _with_stream_id(event: bytes, stream_id: str | None) -> str:
    if stream_id is not None:
        event = event.rstrip()[:-1] + b"," + orjson.dumps({"stream_id": stream_id})[1:]
    return event.decode("utf-8", "replace")
