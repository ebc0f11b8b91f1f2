"""Passthrough of endpoints such as chat completions: selects a channel and relays the bytes in both directions.

Before the first valid chunk a failure is an exception and another channel is tried. Afterwards the bytes of one
upstream are relayed unchanged, and only an event can report a failure.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app import sse
from app.channels.affinity import Affinity, first_user_item
from app.channels.selection import Channels, SelectedChannel
from app.channels.upstream import Exchange
from app.contract.records import Token
from app.contract.token_estimate import estimate_items
from app.errors import ClientGone, GatewayError, InternalError, UpstreamError, unknown_passthrough_model
from app.formats import Codec, PassthroughDecoder, PassthroughEndpoint, PassthroughSummary, StreamCodec, adapted
from app.limits.limiter import Estimate, Limiter
from app.relay.attempts import EVENTS, JSON, ChannelAttempt, ChannelAttempts
from app.relay.client_thread import ThreadNames
from app.relay.passthrough_recorder import PassthroughRecorder
from app.relay.request_context import RequestContext
from app.relay.streaming.client_connection import ClientConnection
from app.relay.streaming.transport import Flow, StreamTiming, ThreadTransport, send_early
from app.request_watch import Watch
from app.store.store import Store

Request = Mapping[str, Any]

log = logging.getLogger(__name__)


class PassthroughRelay:
    def __init__(self, store: Store, channels: Channels, transport: ThreadTransport, limiter: Limiter) -> None:
        self._store = store
        self._limiter = limiter
        self._channels = channels
        self._transport = transport

    def create(
        self, endpoint: PassthroughEndpoint, codec: Codec, token: Token, request: Request, context: RequestContext
    ) -> bytes:
        """The upstream's answer, byte for byte. Raises GatewayError, or ClientGone when the client has left."""
        context.hold_bytes(context.size)
        recorder = PassthroughRecorder(self._store, endpoint, token, request, context)
        watch = Watch(context.client_fd, self._transport.timing.drain)
        with recorder.recorded_failures():
            attempts = self._attempts(endpoint.path, token, request, context, recorder, watch)
            self._admit(token, request, context, recorder)
            body, summary, selected = attempts.first(_Unstreamed(endpoint.path, codec, request, watch))
        recorder.finish(selected, summary)
        return body

    def stream(
        self, endpoint: PassthroughEndpoint, codec: StreamCodec, token: Token, request: Request, context: RequestContext
    ) -> Iterable[bytes]:
        """The upstream's chunks, from the first valid one on. Raises as `create` does; after an early heartbeat a
        failure is an event instead."""
        context.hold_bytes(context.size)
        recorder = PassthroughRecorder(self._store, endpoint, token, request, context)
        watch = Watch(context.client_fd, self._transport.timing.drain)
        early_heartbeats = _EarlyHeartbeats(context, watch, self._transport.timing)
        try:
            with recorder.recorded_failures():
                attempts = self._attempts(endpoint.path, token, request, context, recorder, watch)
                self._admit(token, request, context, recorder)
                active = attempts.first(
                    _Streamed(endpoint.path, codec, request, context.connection, watch, self._transport)
                )
            return PassthroughStream(active, recorder)
        except GatewayError as error:
            if not early_heartbeats.sent:
                raise
            return [_failure(error)]

    def _admit(self, token: Token, request: Request, context: RequestContext, recorder: PassthroughRecorder) -> None:
        """Counts the request against the limits of its token. Raises as `Limiter.admit` does."""
        limits = self._limiter.limits_of(token)
        if not limits.any:
            return
        estimate = _estimate(request) if limits.counts_tokens else Estimate()
        try:
            admission = self._limiter.admit(token, limits, request["model"], estimate)
        except GatewayError as error:
            context.response_headers.update(error.headers)
            raise
        context.response_headers.update(admission.headers)
        recorder.admission = admission

    def _attempts(
        self,
        path: str,
        token: Token,
        request: Request,
        context: RequestContext,
        recorder: PassthroughRecorder,
        watch: Watch,
    ) -> ChannelAttempts:
        model = request["model"]
        if not token.may_use(model):
            raise unknown_passthrough_model(model)
        affinity = Affinity(
            token.owner,
            session=ThreadNames.key_of(request, context.thread_headers),
            # A request without messages belongs to no conversation: each one may go to another channel.
            beginning=lambda: _beginning(request) or (context.request_id,),
            tags=token.limits.tags,
        )
        candidates = self._channels.select_for_passthrough(path, model, affinity, wait=watch.wait)
        return ChannelAttempts(candidates, recorder.add_attempt)


def _estimate(request: Request) -> Estimate:
    most = request.get("max_completion_tokens") or request.get("max_tokens")
    return Estimate(estimate_items([request]), most if isinstance(most, int) and most > 0 else 0)


def _beginning(request: Request) -> Sequence[Any]:
    """The first message and the first one of the user, which all turns of a conversation share."""
    messages = [message for message in request.get("messages") or () if isinstance(message, dict)]
    return (*messages[:1], first_user_item(messages)) if messages else ()


class _EarlyHeartbeats:
    """Sends the HTTP header and heartbeats while no upstream has accepted."""

    def __init__(self, context: RequestContext, watch: Watch, timing: StreamTiming) -> None:
        self.sent = False
        self._context = context
        self._timing = timing
        send_early(context, watch, timing, self._due)

    def _due(self) -> bytes:
        if not self.sent and self._context.connection is not None:
            self._context.connection.set_write_timeout(self._timing.client_write_timeout)
        self.sent = True
        return sse.HEARTBEAT


def _failure(error: GatewayError) -> bytes:
    return b"data: %b\n\n" % orjson.dumps({"error": error.event()})


# --- one channel ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Unstreamed:
    """The step for an unstreamed answer."""

    path: str
    codec: Codec
    request: Request
    watch: Watch

    def run(self, attempt: ChannelAttempt) -> tuple[bytes, PassthroughSummary, SelectedChannel]:
        body = _opened(attempt, self.path, self.codec, self.request, JSON, self.watch).read()
        return body, self.codec.read_whole(body), attempt.selected


@dataclass(frozen=True, slots=True)
class _Streamed:
    """The step that opens a stream and reads up to its first valid chunk."""

    path: str
    codec: StreamCodec
    request: Request
    connection: ClientConnection | None
    watch: Watch
    transport: ThreadTransport

    def run(self, attempt: ChannelAttempt) -> _ActiveAttempt:
        exchange = _opened(attempt, self.path, self.codec, self.request, EVENTS, self.watch)
        limits = attempt.selected.channel.timeouts
        decoder = self.codec.decoder(self.request)
        flow = Flow(exchange, decoder, limits, self.watch, self.connection)
        active = _ActiveAttempt(attempt, self.codec, flow, self.transport)
        active.accept()
        attempt.selected.accepted()
        if self.connection is not None:
            self.connection.set_write_timeout(self.transport.timing.client_write_timeout)
        attempt.keep_open()
        return active


def _opened(attempt: ChannelAttempt, path: str, codec: Codec, request: Request, accept: str, watch: Watch) -> Exchange:
    # What was learnt does not apply here: only the operator's own `params` change what a client sends.
    body, attempt.adapted = adapted(codec.encode(request, attempt.selected.model), attempt.selected.channel)
    return attempt.open(path, body, accept=accept, watch=watch, decode_error=codec.decode_error)


class _ActiveAttempt:
    """The attempt that serves a stream: the channel's chunks, decoded by the endpoint's codec."""

    def __init__(
        self,
        attempt: ChannelAttempt,
        codec: StreamCodec,
        flow: Flow[PassthroughDecoder],
        transport: ThreadTransport,
    ) -> None:
        self.attempt = attempt
        self._codec = codec
        self._flow = flow
        self._decoder = flow.decoder
        self._transport = transport
        self._ready = b""

    @property
    def selected(self) -> SelectedChannel:
        return self.attempt.selected

    @property
    def summary(self) -> PassthroughSummary:
        return self._decoder.summary

    def accept(self) -> None:
        """Reads up to the first valid chunk. Raises UpstreamError."""
        if "json" in self._flow.exchange.headers.get("content-type", ""):
            # The upstream ignored `stream` and sent one JSON body. The client still gets chunks.
            self._ready = self._decoder.feed(self._codec.as_stream(self._flow.exchange.read()))
        else:
            self._ready = self._transport.accept(self._flow)
        self._check()

    def events(self) -> Iterator[bytes]:
        """Whole events to send, except the last one. Raises UpstreamError when the stream breaks."""
        if self._ready:
            yield self._ready
        try:
            yield from self._transport.transfer(self._flow)
        except UpstreamError:
            # With every finish reason received the answer is whole, even if the connection broke.
            if not self.summary.finished:
                raise
            if rest := self._decoder.finish():
                yield rest
        self._check()

    @property
    def ending(self) -> bytes:
        return self._decoder.ending or sse.DONE

    def close(self) -> None:
        self.attempt.close()

    def _check(self) -> None:
        if self._decoder.failure is not None:
            raise self._decoder.failure


# --- the stream -------------------------------------------------------------------------------------------------


class PassthroughStream:
    """A streamed passthrough answer as bytes. The server iterates it; `close` ends it at any time."""

    def __init__(self, active: _ActiveAttempt, recorder: PassthroughRecorder) -> None:
        self._active = active
        self._recorder = recorder
        self._events = self._run()

    def __iter__(self) -> Iterator[bytes]:
        return self._events

    def close(self) -> None:
        """Ends the stream at any time: closes the upstream, and records the usage of an unfinished answer."""
        self._events.close()
        self._cancel()

    def _run(self) -> Generator[bytes, None, None]:
        try:
            self._recorder.first_byte()
            yield from self._active.events()
            yield self._end()
        except ClientGone:
            pass
        except GatewayError as error:
            yield self._failure(error)
        except Exception:
            # The border that must not die: after the first chunk only an event can report a failure.
            log.exception("a stream of passthrough failed")
            yield self._failure(InternalError())
        finally:
            self._cancel()

    def _end(self) -> bytes:
        active = self._active
        active.attempt.succeeded()
        self._recorder.finish(active.selected, active.summary)
        return active.ending

    def _failure(self, error: GatewayError) -> bytes:
        """Reports a failure after the first chunk. No [DONE] follows."""
        active = self._active
        if isinstance(error, UpstreamError):
            active.attempt.failed(error)
        self._recorder.fail(error, active.selected, active.summary)
        return _failure(error)

    def _cancel(self) -> None:
        self._recorder.client_left(self._active.selected, self._active.summary)
        self._active.close()
