"""Moves the bytes of streams, each in its request's own thread: waits for the upstream, the client and the clock.

The parts of a stream and the rules for ending it are here. The pump moves many streams in one thread by the same rules.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from app import sse
from app.channels.upstream import Exchange
from app.contract.channel import Timeouts
from app.errors import ClientGone, UpstreamBroken, UpstreamStalled
from app.relay.request_context import RequestContext
from app.relay.streaming.client_connection import ClientConnection
from app.request_watch import TICK, Drain, Stop, Watch


@dataclass(frozen=True, slots=True)
class StreamTiming:
    """Timeouts of streams, in seconds. `heartbeat`: silence towards the client before a comment is sent.
    `client_write_timeout`: how long the client may read nothing. `header_timeout`: how long the head waits for an
    upstream to accept."""

    heartbeat: float
    drain: Drain
    client_write_timeout: float = 60.0
    header_timeout: float = 10.0


def send_early(context: RequestContext, watch: Watch, timing: StreamTiming, due: Callable[[], bytes]) -> None:
    """Sends the HTTP header and what is `due` once no upstream has accepted for `header_timeout`, then again after each
    `heartbeat`, while the request's thread waits. Does nothing where the server cannot send before the view returns.
    The errors of `due`, and ClientGone, end the wait.
    """
    send = context.send_early
    if send is None:
        return

    def send_due() -> float:
        send(due())
        return monotonic() + timing.heartbeat

    watch.schedule(context.received_at + timing.header_timeout, send_due)


class PushMachine(Protocol):
    """Turns an upstream's body into the client's bytes: a decoder, or any object with the same methods."""

    accepted: bool

    @property
    def answer(self) -> object | None:
        """The whole answer. Once it is set, no more input is read."""
        ...

    def feed(self, data: bytes) -> bytes: ...
    def finish(self) -> bytes | None: ...


M = TypeVar("M", bound=PushMachine)


@dataclass(slots=True)
class Flow(Generic[M]):
    """One upstream's body on its way through a decoder to a client."""

    exchange: Exchange
    decoder: M
    limits: Timeouts
    watch: Watch
    connection: ClientConnection | None
    last_read: float = field(default_factory=monotonic)
    """When the upstream last sent bytes."""
    last_write: float = field(default_factory=monotonic)
    """When the client was last sent bytes."""
    deadline: float = field(init=False)
    next_check: float = 0.0
    """When the watch is checked again. Each piece of a fast stream would pay for a check."""

    def __post_init__(self) -> None:
        self.deadline = self.last_read + self.limits.total

    @property
    def stop(self) -> Stop:
        return self.watch.stop

    def decode(self, data: bytes) -> bytes:
        """The client's events for one piece of the body. An empty piece ends the body. Raises UpstreamError."""
        if data:
            return self.decoder.feed(data)
        rest = self.decoder.finish()
        if self.decoder.answer is None:
            raise UpstreamBroken("The model's server closed the stream before the response had ended.")
        return rest or b""


def stalled() -> UpstreamStalled:
    return UpstreamStalled("The model's server stopped sending in the middle of its answer.")


#: Returned instead of bytes when a pause passed without input.
_SILENCE = None


class ThreadTransport:
    """Moves each stream in the thread of its request."""

    def __init__(self, timing: StreamTiming) -> None:
        self.timing = timing

    def start(self) -> None:
        """Starts the transport's own thread, if it has one. Called in a serving process, after the fork."""

    def measured_lag(self) -> float:
        """Seconds that the transport's own thread needs at the moment to begin with what it is given."""
        return 0.0

    def close(self) -> None:
        """Stops what `start` started."""

    def accept(self, flow: Flow[Any]) -> bytes:
        """Reads up to the first valid event and returns the output that came with it. Raises what `transfer` and the
        watch raise."""
        ready = b""
        while not flow.decoder.accepted and flow.decoder.answer is None:
            ready += self._next(flow)
        return ready

    def read(self, flow: Flow[Any]) -> None:
        """Reads until the decoder has its answer and drops the events. Raises as `accept` does."""
        while flow.decoder.answer is None:
            self._next(flow)

    def transfer(self, flow: Flow[Any]) -> Iterable[bytes]:
        """Whole events for the caller to send, until the decoder has its answer.

        Raises ClientGone within a tick of the client's hang-up, UpstreamStalled after `idle` or `total` seconds,
        EndedElsewhere after a requested stop, ShuttingDown when the worker's drain is over, UpstreamBroken, and the
        decoder's errors.
        """
        while flow.decoder.answer is None:
            data = self._receive(flow, TICK)
            if data is not _SILENCE:
                if events := flow.decode(data):
                    yield events
                    # The upstream was not read while the client was slow, so its idle timeout starts again.
                    flow.last_read = flow.last_write = monotonic()
            elif monotonic() - flow.last_write >= self.timing.heartbeat:
                flow.last_write = monotonic()
                yield sse.HEARTBEAT

    def _next(self, flow: Flow[Any]) -> bytes:
        """The output of the next piece of the body. Also runs the watch's due work."""
        data = self._receive(flow, flow.watch.pause())
        # On every piece, not only in pauses: an upstream that never pauses must not delay the client's heartbeats.
        flow.watch.tick()
        return flow.decode(data) if data is not _SILENCE else b""

    def _receive(self, flow: Flow[Any], pause: float) -> bytes | None:
        """The next piece of the body, b"" at its end, None after a pause without input."""
        now, silence = monotonic(), flow.last_read + flow.limits.idle
        if now >= flow.next_check:
            flow.next_check = now + TICK
            flow.watch.check()
        if now >= flow.deadline or now >= silence:
            raise stalled()
        if not _readable(flow, min(pause, flow.deadline - now, silence - now)):
            return _SILENCE
        data = flow.exchange.receive()
        if data is not None:
            flow.last_read = monotonic()
        return data


def _readable(flow: Flow[Any], timeout: float) -> bool:
    """Whether the exchange has input within the timeout. Raises ClientGone."""
    descriptor, client_fd = flow.exchange.fileno(), flow.watch.client_fd
    if descriptor is None:
        timeout = 0.0
    if descriptor is None and client_fd is None:
        return True
    poll = select.poll()
    if descriptor is not None:
        poll.register(descriptor, select.POLLIN)
    if client_fd is not None:
        poll.register(client_fd, select.POLLRDHUP)
    ready = dict(poll.poll(timeout * 1000))
    if client_fd is not None and client_fd in ready:
        raise ClientGone
    return descriptor is None or descriptor in ready
