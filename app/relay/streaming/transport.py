"""Moves the bytes of streams, each in its request's own thread: waits for the upstream, the client and the clock.

What a stream is made of, and every rule of when it ends, is here; the pump moves many in one thread by the same rules.
"""

from __future__ import annotations

import select
from collections.abc import Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from app import sse
from app.contract.channel import Timeouts
from app.errors import ClientGone, UpstreamBroken, UpstreamStalled
from app.relay.ports import Exchange
from app.relay.request_watch import TICK, Stop, Watch
from app.relay.streaming.client_connection import ClientConnection
from app.relay.streaming.timing import StreamTiming


class PushMachine(Protocol):
    """What makes of an upstream's body what the client is to have: a decoder, or whatever is fed like one."""

    accepted: bool

    @property
    def answer(self) -> object | None:
        """Nothing more is taken once there is one."""
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
    """When the upstream last said something."""
    last_write: float = field(default_factory=monotonic)
    """When the client was last told something."""
    deadline: float = field(init=False)

    def __post_init__(self) -> None:
        self.deadline = self.last_read + self.limits.total

    @property
    def stop(self) -> Stop:
        return self.watch.stop

    def decode(self, data: bytes) -> bytes:
        """What a piece of the body has to say to the client; an empty piece is the body's end. Raises UpstreamError."""
        if data:
            return self.decoder.feed(data)
        rest = self.decoder.finish()
        if self.decoder.answer is None:
            raise UpstreamBroken("The model's server closed the stream before the response had ended.")
        return rest or b""


def stalled() -> UpstreamStalled:
    return UpstreamStalled("The model's server fell silent in the middle of its answer.")


#: Given instead of bytes after a pause in which nothing came.
_SILENCE = None


class ThreadTransport:
    """Moves each stream in the thread that asks for it. Good wherever a thread may be spent on a stream."""

    def __init__(self, timing: StreamTiming) -> None:
        self.timing = timing

    def start(self) -> None:
        """Begins what runs beside the requests; for a process that serves, after it was forked."""

    def close(self) -> None:
        """Ends it."""

    def accept(self, flow: Flow[Any]) -> bytes:
        """Reads up to the first valid event; what is to be sent on of what came with it. Raises as `transfer` does, and
        what the watch raises."""
        ready = b""
        while not flow.decoder.accepted and flow.decoder.answer is None:
            ready += self._next(flow)
        return ready

    def read(self, flow: Flow[Any]) -> None:
        """Until the decoder has its answer; what it would send on is dropped. Raises as `accept` does."""
        while flow.decoder.answer is None:
            self._next(flow)

    def transfer(self, flow: Flow[Any]) -> Iterable[bytes]:
        """Whole events that the caller sends on, until the decoder has its answer.

        Raises ClientGone within a tick of the client's hanging up, UpstreamStalled after `idle` or `total` seconds,
        EndedElsewhere once a stop was asked for, ShuttingDown when the worker's drain is over, UpstreamBroken, and
        what the decoder raises.
        """
        while flow.decoder.answer is None:
            data = self._receive(flow, TICK)
            if data is not _SILENCE:
                if events := flow.decode(data):
                    yield events
                    # Nobody has listened to the upstream while the client took its time.
                    flow.last_read = flow.last_write = monotonic()
            elif monotonic() - flow.last_write >= self.timing.heartbeat:
                flow.last_write = monotonic()
                yield sse.HEARTBEAT

    def _next(self, flow: Flow[Any]) -> bytes:
        """What the next piece of the body has to say; the watch does what is due."""
        data = self._receive(flow, flow.watch.pause())
        # Not in a silence alone: an upstream that never pauses must not keep what is due from the client.
        flow.watch.tick()
        return flow.decode(data) if data is not _SILENCE else b""

    def _receive(self, flow: Flow[Any], pause: float) -> bytes | None:
        """The next piece of the body, b"" at its end."""
        flow.watch.check()
        now, silence = monotonic(), flow.last_read + flow.limits.idle
        if now >= flow.deadline or now >= silence:
            raise stalled()
        if not _readable(flow, min(pause, flow.deadline - now, silence - now)):
            return _SILENCE
        data = flow.exchange.receive()
        if data is not None:
            flow.last_read = monotonic()
        return data


def _readable(flow: Flow[Any], timeout: float) -> bool:
    """Whether the exchange has something to give within the timeout. Raises ClientGone."""
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
