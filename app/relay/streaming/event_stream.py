"""The steps of a streamed turn: open a channel, send the head, relay the events, store the row, send the end.

Before the head has been sent, a failure is an exception and becomes a status line. Afterwards only events can report
it. Before the first output event, another channel may continue the stream under the same id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from app import sse
from app.channels.selection import SelectedChannel
from app.contract.items import Item, is_hidden
from app.contract.turn import Answer, Turn
from app.errors import ClientGone, ContextTooLong, GatewayError, InternalError, UpstreamError
from app.formats import Decoder, Emitter
from app.relay.attempts import TurnAttempt, TurnAttempts, open_flow
from app.relay.lease_keeper import RunningStreams
from app.relay.recorder import Recorder
from app.relay.request_context import RequestContext
from app.relay.streaming.client_connection import ClientConnection
from app.relay.streaming.lifecycle_events import head_events, opening_types, terminal_events
from app.relay.streaming.transport import Flow, StreamTiming, ThreadTransport, send_early
from app.request_watch import Watch

log = logging.getLogger(__name__)

#: Makes the turn shorter whose context an upstream found too long.
AfterRefusal = Callable[[ContextTooLong], tuple[Turn, TurnAttempts]]


class StreamStart:
    """The start of one stream: its row is committed before any event names it.

    The head leaves with the first valid event of an upstream, or alone after `header_timeout`; heartbeats follow it
    then.
    """

    def __init__(
        self,
        turn: Turn,
        recorder: Recorder,
        context: RequestContext,
        watch: Watch,
        running: RunningStreams,
        timing: StreamTiming,
    ) -> None:
        self.id = turn.id
        self.length = len(opening_types(turn.background))
        self.sent = 0
        """Number of events that have been sent."""
        self.recorder = recorder
        self._has_row = turn.store
        self._context = context
        self._stop = watch.stop
        self._running = running
        self._timing = timing
        self._committed = False
        send_early(context, watch, timing, self._due)

    def commit(self) -> None:
        """Commits the row before the client can learn its id. Raises StoreUnavailable."""
        if self._committed:
            return
        self.recorder.begin()
        self._committed = True
        if self._has_row:
            # A response without a row cannot be cancelled by another worker.
            self._running.add(self.id, self._stop.request)
        if self._context.connection is not None:
            self._context.connection.set_write_timeout(self._timing.client_write_timeout)

    def head(self, defaults: Mapping[str, Any]) -> bytes:
        """The part of the head that has not been sent. The caller sends it now."""
        if self.sent == self.length:
            return b""
        events = head_events(self.recorder.in_progress_response(defaults), (), Emitter())
        rest = b"".join(islice(events, self.sent, None))
        self.sent = self.length
        return rest

    def items(self, items: Sequence[Item]) -> tuple[bytes, int]:
        """What of the head has not been sent, then the events of finished items, and the number of the next event."""
        numbers = Emitter(self.length)
        return self.head({}) + b"".join(event for item in items for event in numbers.item(item)), numbers.sequence

    def failure(
        self,
        error: GatewayError,
        number: int | None = None,
        partial: Callable[[], Sequence[Item]] = tuple,
        selected: SelectedChannel | None = None,
    ) -> bytes:
        """Stores the failure of the stream. Returns its last events, `error` and `response.failed`, numbered from
        `number`.

        This is the last border of a stream: each step stores and reports less, so the stream always gets its end.
        """
        if number is None:
            number = self.length
        steps: Sequence[tuple[GatewayError, Callable[[], Sequence[Item]]]] = (
            (error, partial),
            (error, tuple),
            (InternalError(), tuple),
        )
        for reported, items in steps:
            try:
                response = self.recorder.fail(reported, items(), selected)
                return terminal_events(response, number, error=reported.event())
            except Exception:  # The border that must not die: the next step needs less to succeed.
                log.exception("response %s: storing or encoding its failure failed", self.id)
        error = InternalError()
        return terminal_events(self.recorder.failed(error), number, error=error.event())

    def end(self) -> None:
        self._running.remove(self.id)

    def _due(self) -> bytes:
        """The head or a heartbeat. Raises StoreUnavailable."""
        if self.sent:
            return sse.HEARTBEAT
        events = b"".join(head_events(self.recorder.in_progress_response({}), (), Emitter()))
        self.commit()
        self.sent = self.length
        return events


@dataclass(slots=True)
class _ActiveAttempt:
    """The attempt that is serving the turn."""

    attempt: TurnAttempt
    flow: Flow[Decoder]
    ready: bytes = b""
    """The output that came with the first valid event."""

    @property
    def selected(self) -> SelectedChannel:
        return self.attempt.selected

    @property
    def decoder(self) -> Decoder:
        return self.flow.decoder

    def take_ready(self) -> bytes:
        ready, self.ready = self.ready, b""
        return ready


class EventStream:
    """A streamed response as bytes. The server iterates it once `open` has returned; `close` ends it at any time."""

    def __init__(
        self,
        turn: Turn,
        attempts: TurnAttempts,
        stream_start: StreamStart,
        watch: Watch,
        connection: ClientConnection | None,
        transport: ThreadTransport,
        after_refusal: AfterRefusal,
    ) -> None:
        """`connection`: the client's socket, if the transport may write to it directly. `after_refusal`: the turn and
        its attempts after a context that was too long; raises the refusal if nothing helps."""
        self._turn = turn
        self._stream_start = stream_start
        self._numbers = Emitter(stream_start.length)
        """Numbers the gateway's own events, and knows those of the next exchange."""
        self._leading = self._leading_events(turn.leading_items)
        self._after_refusal = after_refusal
        self._recorder = stream_start.recorder
        self._watch = watch
        self._connection = connection
        self._transport = transport
        self._attempts = attempts
        self._active: _ActiveAttempt | None = None
        self._ended = False
        self._events = self._run()

    def open(self) -> EventStream:
        """Returns once an upstream has accepted and the row is committed. Raises GatewayError or ClientGone."""
        try:
            self._begin()
            self._stream_start.commit()
        except ClientGone:
            self.close()
            raise
        except BaseException:
            # The caller records and reports the failure.
            self._ended = True
            self.close()
            raise
        return self

    @property
    def dropped(self) -> Sequence[str]:
        """Types of the tools that the accepting channel did not receive."""
        return self._active.attempt.dropped if self._active else ()

    @property
    def adapted(self) -> Sequence[str]:
        """What the accepting channel did not receive as the client sent it."""
        return self._active.attempt.adapted if self._active else ()

    def __iter__(self) -> Iterator[bytes]:
        return self._events

    def close(self) -> None:
        """Ends the stream at any time: closes the upstream, and stores the partial output of an unfinished response."""
        try:
            self._events.close()
            self._end_early()
        finally:
            self._stream_start.end()

    # --- the steps

    def _begin(self) -> None:
        """What comes before the head. Raises GatewayError, ClientGone."""
        for _ in self._shortened_until_accepted():
            pass

    def _run(self) -> Generator[bytes, None, None]:
        try:
            if begun := self._head() + self._ready():
                yield begun
            self._recorder.first_byte()
            yield from self._output_events()
            yield self._end()
        except GeneratorExit:
            self._end_early()
            self._abort_client()
            raise
        except ClientGone:
            self._end_early()
            self._abort_client()
        except GatewayError as error:
            yield self._failure(error)
        except Exception:
            # The one border that must not die: after the head only an event can report a failure.
            log.exception("response %s failed", self._turn.id)
            yield self._failure(InternalError())
        finally:
            self._close_active()

    def _output_events(self) -> Iterator[bytes]:
        """The events of the first channel that sends an output event."""
        while True:
            active = self._active_attempt()
            try:
                if ready := active.take_ready():
                    yield ready
                yield from self._transport.transfer(active.flow)
                return
            except UpstreamError as error:
                if active.decoder.started:
                    raise
                self._attempt_failed(active, error)
                yield from self._go_on()

    def _go_on(self) -> Iterator[bytes]:
        """Moves to the next channel. Yields the items that the gateway puts before the answer, if there are any now."""
        for _ in self._shortened_until_accepted():
            if events := self._stream_start.head({}) + self._take_leading():
                yield events

    def _shortened_until_accepted(self) -> Iterator[None]:
        """Moves to the next channel that accepts. Yields each time that the context has become shorter for it."""
        while True:
            try:
                return self._next_channel()
            except ContextTooLong as refusal:
                self._start_over(refusal)
            yield

    def _start_over(self, refusal: ContextTooLong) -> None:
        """Continues with a shorter context. Raises the refusal if there is none."""
        known = len(self._turn.leading_items)
        self._turn, self._attempts = self._after_refusal(refusal)
        self._leading += self._leading_events(self._turn.leading_items[known:])

    def _next_channel(self) -> None:
        """Moves to the next channel that accepts. Raises GatewayError when every attempt fails."""
        self._attempts.first(self)

    def run(self, attempt: TurnAttempt) -> None:
        """The step of one attempt: opens its stream up to the first valid event."""
        active = self._active = _ActiveAttempt(attempt, *self._opened(attempt))
        try:
            active.ready += self._transport.accept(active.flow)
        except UpstreamError:
            self._active = None
            raise
        attempt.selected.accepted()
        self._recorder.answered_by(attempt.selected.channel.name)
        attempt.keep_open()

    def _opened(self, attempt: TurnAttempt) -> tuple[Flow[Decoder], bytes]:
        """The stream of a channel that has accepted, and its first events."""
        return open_flow(attempt, self._numbers.sequence, self._watch, self._connection)

    def _ready(self) -> bytes:
        """The output that came with the first valid event."""
        return self._active.take_ready() if self._active else b""

    def _attempt_failed(self, active: _ActiveAttempt, error: UpstreamError) -> None:
        active.attempt.failed(error)
        self._close_active()

    # --- the gateway's own events

    def _head(self) -> bytes:
        defaults = self._active.decoder.defaults if self._active else {}
        return self._stream_start.head(defaults) + self._take_leading()

    def _leading_events(self, items: Sequence[Item]) -> bytes:
        """The events of the items before the answer that the client gets."""
        return b"".join(event for item in items if not is_hidden(item) for event in self._numbers.item(item))

    def _take_leading(self) -> bytes:
        leading, self._leading = self._leading, b""
        return leading

    def _end(self) -> bytes:
        """The terminal event, once its row is committed."""
        answer, selected, number = self._answered()
        ended = self._recorder.ended(answer, selected)
        # Encode before the commit, so that a response that cannot be encoded is not stored.
        ending = terminal_events(ended.response, number)
        self._recorder.store(ended)
        self._ended = True
        return ending

    def _answered(self) -> tuple[Answer, SelectedChannel, int]:
        """The answer, its channel, and the number of the next event. Raises UpstreamError for a failed one."""
        active = self._active_attempt()
        answer = self._answer_of(active)
        active.attempt.succeeded()
        return answer, active.selected, active.decoder.sequence

    def _answer_of(self, active: _ActiveAttempt) -> Answer:
        """The whole answer. Raises UpstreamError for a failed one."""
        answer = active.decoder.answer
        assert answer is not None
        if answer.status == "failed":
            raise _error_of_failed(answer)
        active.attempt.path = active.decoder.path
        return answer

    def _failure(self, error: GatewayError) -> bytes:
        active, number, partial, selected = self._active, self._number(), self._partial(), self._selected()
        if active is not None and isinstance(error, UpstreamError):
            self._attempt_failed(active, error)
        ending = self._stream_start.failure(error, number, partial, selected)
        self._ended = True
        return ending

    def _number(self) -> int:
        """The number of the next event."""
        return self._active.decoder.sequence if self._active else self._numbers.sequence

    def _partial(self) -> Callable[[], Sequence[Item]]:
        """Reads the output so far."""
        return self._active.decoder.partial if self._active else tuple

    def _selected(self) -> SelectedChannel | None:
        return self._active.selected if self._active else None

    # --- leaving

    def _end_early(self) -> None:
        """Stores the partial output as a cancelled response, once."""
        ended, self._ended = self._ended, True
        try:
            if not ended:
                self._cancel()
        finally:
            self._close_active()

    def _cancel(self) -> None:
        try:
            self._recorder.cancel(self._partial()(), self._selected())
        except Exception:
            # The client has left. The row still needs its end, without the output.
            log.exception("response %s: storing its partial output failed", self._turn.id)
            self._recorder.cancel()

    def _abort_client(self) -> None:
        """Drops the bytes that the client has not read: it has left or stopped reading."""
        if self._connection is not None:
            self._connection.abort()

    def _close_active(self) -> None:
        if self._active is not None:
            self._active.attempt.close()
            self._active = None

    def _active_attempt(self) -> _ActiveAttempt:
        assert self._active is not None
        return self._active


def _error_of_failed(answer: Answer) -> UpstreamError:
    if answer.failure is not None:
        answer.failure.code = answer.failure.name
        return answer.failure
    error = answer.error or {}
    return UpstreamError(error.get("message") or "The model's server failed.", code=error.get("code"))
