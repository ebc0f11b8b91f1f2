"""Moves the bytes of one stream in the request's thread: waits for the upstream, the client and the clock."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Event
from time import monotonic

from app.errors import ClientGone, EndedElsewhere, ShuttingDown, UpstreamStalled
from app.relay.ports import Exchange, Limits

#: How long a silent stream may overlook that the worker is to end.
_TICK = 1.0


def _always() -> bool:
    return True


@dataclass(slots=True)
class Drain:
    """Whether this worker is ending, and how long running streams may still take. `grace` in seconds."""

    grace: float = 20.0
    alive: Callable[[], bool] = _always
    """False from the moment that the worker was told to stop."""
    _since: float | None = field(default=None)

    @property
    def begun(self) -> bool:
        if self._since is None and not self.alive():
            self._since = monotonic()
        return self._since is not None

    @property
    def expired(self) -> bool:
        return self.begun and self._since is not None and monotonic() - self._since >= self.grace


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: a comment after `heartbeat` of silence towards the client."""

    heartbeat: float
    drain: Drain


#: Given instead of bytes when the client should hear that the stream is alive.
SILENCE = None


def pieces(
    exchange: Exchange, client: int | None, limits: Limits, pace: Pace, stopped: Event
) -> Iterator[bytes | None]:
    """The body as it arrives, `SILENCE` when a heartbeat is due; ends where the body ends.

    Raises ClientGone within a tick of the client's hanging up, UpstreamStalled after `idle` or `total` seconds,
    EndedElsewhere once `stopped` is set, ShuttingDown when the worker's drain is over, UpstreamBroken.
    """
    total = monotonic() + limits.total
    heard = beaten = monotonic()
    while True:
        now = monotonic()
        if stopped.is_set():
            raise EndedElsewhere
        if pace.drain.expired:
            raise ShuttingDown
        if now >= total or now - heard >= limits.idle:
            raise UpstreamStalled("The model's server fell silent in the middle of its answer.")
        if _readable(exchange, client, min(_TICK, total - now, heard + limits.idle - now)):
            data = exchange.receive()
            if data == b"":
                return
            if data is not None:
                heard = beaten = monotonic()
                yield data
        elif monotonic() - beaten >= pace.heartbeat:
            beaten = monotonic()
            yield SILENCE


def _readable(exchange: Exchange, client: int | None, timeout: float) -> bool:
    """Whether the exchange has something to give within the timeout. Raises ClientGone."""
    descriptor = exchange.fileno()
    if descriptor is None:
        timeout = 0.0
    if descriptor is None and client is None:
        return True
    poll = select.poll()
    if descriptor is not None:
        poll.register(descriptor, select.POLLIN)
    if client is not None:
        poll.register(client, select.POLLRDHUP)
    ready = dict(poll.poll(timeout * 1000))
    if client is not None and client in ready:
        raise ClientGone
    return descriptor is None or descriptor in ready
