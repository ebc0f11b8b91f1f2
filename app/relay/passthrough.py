"""Chat completions, relayed as they are: a channel that speaks them is chosen, their bytes go up and come back.

Until the first valid chunk has come a failure is an exception, and another channel is asked; from then on the bytes of
one upstream leave as they came, and only an event can say that something went wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

import orjson

from app import sse
from app.contract.records import Token
from app.errors import ClientGone, GatewayError, InternalError, UpstreamError, unknown_chat_model
from app.formats import PassthroughDecoder, PassthroughEndpoint, PassthroughSummary
from app.relay.attempts import EVENTS, JSON, ChannelAttempt, ChannelAttempts
from app.relay.passthrough_recorder import ChatRecorder
from app.relay.ports import Channels, Choice, Exchange
from app.relay.request_context import Asked
from app.relay.request_watch import Watch
from app.relay.streaming.client_connection import Client
from app.relay.streaming.timing import Pace
from app.relay.streaming.transport import Flow, Mover
from app.store.store import Store

Request = Mapping[str, Any]

log = logging.getLogger(__name__)


class ChatRelay:
    def __init__(self, store: Store, channels: Channels, mover: Mover) -> None:
        self._store = store
        self._channels = channels
        self._mover = mover

    def create(self, endpoint: PassthroughEndpoint, token: Token, request: Request, asked: Asked) -> bytes:
        """The upstream's completion, byte for byte. Raises GatewayError, or ClientGone when nobody waits any more."""
        asked.hold_bytes(asked.size)
        recorder = ChatRecorder(self._store, token, request, asked.request_id, asked.entry)
        watch = Watch(asked.client, self._mover.pace.drain)
        with recorder.opening():
            attempts = self._attempts(endpoint.path, token, request, recorder, watch)
            body, account, choice = attempts.first(_Unstreamed(endpoint, request, watch))
        recorder.finish(choice, account)
        return body

    def stream(self, endpoint: PassthroughEndpoint, token: Token, request: Request, asked: Asked) -> Iterable[bytes]:
        """The upstream's chunks, opened: the first one has come. Raises as `create` does, unless that took so long that
        the client has been sent a sign of life before."""
        asked.hold_bytes(asked.size)
        recorder = ChatRecorder(self._store, token, request, asked.request_id, asked.entry)
        watch = Watch(asked.client, self._mover.pace.drain)
        alive = _SignOfLife(asked, watch, self._mover.pace)
        try:
            with recorder.opening():
                attempts = self._attempts(endpoint.path, token, request, recorder, watch)
                line = attempts.first(_Streamed(endpoint, request, asked.connection, watch, self._mover))
            return ChatStream(line, recorder)
        except GatewayError as error:
            if not alive.sent:
                raise
            return [_failure(error)]

    def _attempts(
        self, path: str, token: Token, request: Request, recorder: ChatRecorder, watch: Watch
    ) -> ChannelAttempts:
        model = request["model"]
        if not token.may_use(model):
            raise unknown_chat_model(model)
        choices = self._channels.chat_choices(path, model, owner=token.owner, wait=watch.wait)
        return ChannelAttempts(choices, recorder.tried)


class _SignOfLife:
    """Keeps a client informed whose upstream takes long to accept: the header leaves, and comments."""

    def __init__(self, asked: Asked, watch: Watch, pace: Pace) -> None:
        self.sent = False
        self._asked = asked
        self._pace = pace
        if asked.say is not None:
            watch.owe(asked.came + pace.header, self._speak)

    def _speak(self) -> float:
        """Raises ClientGone."""
        say = self._asked.say
        assert say is not None
        if not self.sent and self._asked.connection is not None:
            self._asked.connection.limit(self._pace.stall)
        say(sse.HEARTBEAT)
        self.sent = True
        return monotonic() + self._pace.heartbeat


def _failure(error: GatewayError) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(error.body())


# --- one channel ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Unstreamed:
    """The step that has a request answered in one piece."""

    endpoint: PassthroughEndpoint
    request: Request
    watch: Watch

    def run(self, attempt: ChannelAttempt) -> tuple[bytes, PassthroughSummary, Choice]:
        body = _opened(attempt, self.endpoint, self.request, JSON, self.watch).read()
        return body, self.endpoint.codec.read_whole(body), attempt.choice


@dataclass(frozen=True, slots=True)
class _Streamed:
    """The step that opens a stream: the first valid chunk has come."""

    endpoint: PassthroughEndpoint
    request: Request
    connection: Client | None
    watch: Watch
    mover: Mover

    def run(self, attempt: ChannelAttempt) -> _Line:
        exchange = _opened(attempt, self.endpoint, self.request, EVENTS, self.watch)
        limits = attempt.choice.channel.timeouts
        decoder = self.endpoint.codec.decoder(self.request)
        flow = Flow(exchange, decoder, limits, self.watch, self.connection)
        line = _Line(attempt, self.endpoint, flow, self.mover)
        line.accept()
        attempt.choice.accepted()
        if self.connection is not None:
            self.connection.limit(self.mover.pace.stall)
        attempt.go_on()
        return line


def _opened(
    attempt: ChannelAttempt, endpoint: PassthroughEndpoint, request: Request, accept: str, watch: Watch
) -> Exchange:
    body, decode_error = endpoint.codec.encode(request, attempt.choice.model), endpoint.codec.decode_error
    return attempt.open(endpoint.path, body, accept=accept, watch=watch, decode_error=decode_error)


class _Line:
    """The attempt at work on a stream: what its channel sends, decoded by the endpoint."""

    def __init__(
        self,
        attempt: ChannelAttempt,
        endpoint: PassthroughEndpoint,
        flow: Flow[PassthroughDecoder],
        mover: Mover,
    ) -> None:
        self.attempt = attempt
        self._codec = endpoint.codec
        self._flow = flow
        self._passage = flow.decoder
        self._mover = mover
        self._ready = b""

    @property
    def choice(self) -> Choice:
        return self.attempt.choice

    @property
    def account(self) -> PassthroughSummary:
        return self._passage.summary

    def accept(self) -> None:
        """Reads up to the first valid chunk. Raises UpstreamError."""
        if "json" in self._flow.exchange.headers.get("content-type", ""):
            # Asked for a stream and answered in one piece: the client still gets its chunks.
            self._ready = self._passage.feed(self._codec.as_stream(self._flow.exchange.read()))
        else:
            self._ready = self._mover.accept(self._flow)
        self._check()

    def events(self) -> Iterator[bytes]:
        """Whole events to send on, but for the one that ends the stream. Raises UpstreamError when it breaks."""
        if self._ready:
            yield self._ready
        try:
            yield from self._mover.move(self._flow)
        except UpstreamError:
            # Once every reason has been given the answer is whole, however the connection ended.
            if not self.account.finished:
                raise
            if rest := self._passage.finish():
                yield rest
        self._check()

    @property
    def ending(self) -> bytes:
        return self._passage.ending or sse.DONE

    def close(self) -> None:
        self.attempt.close()

    def _check(self) -> None:
        if self._passage.failure is not None:
            raise self._passage.failure


# --- the stream -------------------------------------------------------------------------------------------------


class ChatStream:
    """A streamed completion as bytes. Iterated by the server; `close` ends it at any time."""

    def __init__(self, line: _Line, recorder: ChatRecorder) -> None:
        self._line = line
        self._recorder = recorder
        self._events = self._walk()

    def __iter__(self) -> Iterator[bytes]:
        return self._events

    def close(self) -> None:
        """Whoever stops listening: the upstream is closed and what came is counted."""
        self._events.close()
        self._leave()

    def _walk(self) -> Generator[bytes, None, None]:
        try:
            self._recorder.first_byte()
            yield from self._line.events()
            yield self._end()
        except ClientGone:
            pass
        except GatewayError as error:
            yield self._failure(error)
        except Exception:
            # The border that must not die: chunks have been sent, only one more can say that something went wrong.
            log.exception("a streamed chat completion failed")
            yield self._failure(InternalError())
        finally:
            self._leave()

    def _end(self) -> bytes:
        line = self._line
        line.attempt.succeeded()
        self._recorder.finish(line.choice, line.account)
        return line.ending

    def _failure(self, error: GatewayError) -> bytes:
        """What is left to be said when chunks have been sent; no [DONE] follows."""
        line = self._line
        if isinstance(error, UpstreamError):
            line.attempt.failed(error)
        self._recorder.fail(error, line.choice, line.account)
        return _failure(error)

    def _leave(self) -> None:
        self._recorder.leave(self._line.choice, self._line.account)
        self._line.close()
