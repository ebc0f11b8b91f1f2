"""How a request's thread waits for an upstream, and what it checks meanwhile: the client, the worker's shutdown, a
stop, a timeout, and heartbeats that are due.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from threading import Lock
from time import monotonic

from app.errors import ClientGone, EndedElsewhere, GatewayError, ShuttingDown, StoreUnavailable

#: Seconds after which a waiting request notices a shutdown or a stop, at the latest.
TICK = 1.0

#: Errors of a tick that are no failure of the upstream: no other channel is tried.
INTERRUPTIONS = (EndedElsewhere, ShuttingDown, StoreUnavailable)


class Stop:
    """Lets any thread ask a stream to end."""

    __slots__ = ("requested", "wake")

    def __init__(self) -> None:
        self.requested = False
        self.wake: Callable[[], None] | None = None
        """Wakes a thread that waits elsewhere than in the watch."""

    def request(self) -> None:
        self.requested = True
        if wake := self.wake:
            wake()


def _always() -> bool:
    return True


@dataclass(slots=True)
class Drain:
    """Whether this worker is shutting down, and whether running streams may still continue. `grace` in seconds."""

    grace: float = 20.0
    alive: Callable[[], bool] = _always
    """Returns False once the worker has received its stop signal."""
    _since: float | None = field(default=None)

    @property
    def begun(self) -> bool:
        if self._since is None and not self.alive():
            self._since = monotonic()
        return self._since is not None

    @property
    def expired(self) -> bool:
        return self.begun and self._since is not None and monotonic() - self._since >= self.grace


#: Sends the client's due heartbeat and returns the next due time.
OnDue = Callable[[], float]


class Watch:
    """One a request. Waiting code polls `client_fd`, waits at most `pause` seconds, then calls `tick`."""

    __slots__ = ("_deadline", "_drain", "_due", "_on_due", "_timeout_error", "client_fd", "stop")

    def __init__(self, client_fd: int | None, drain: Drain, stop: Stop | None = None) -> None:
        """`client_fd`: the descriptor that shows the client's hang-up, if there is one."""
        self.client_fd = client_fd
        self.stop = stop or Stop()
        self._drain = drain
        self._due = inf
        self._on_due: OnDue | None = None
        self._deadline = inf
        self._timeout_error: GatewayError | None = None

    def schedule(self, due: float, on_due: OnDue) -> None:
        """Calls `on_due` at `due`, and then at each time that it returns."""
        self._due, self._on_due = due, on_due

    @contextmanager
    def limited(self, seconds: float, timeout_error: GatewayError) -> Iterator[None]:
        """Raises `timeout_error` when the work inside waits for longer than this. Of nested limits the earlier one
        holds."""
        outer = self._deadline, self._timeout_error
        self._deadline, self._timeout_error = min(
            outer, (monotonic() + seconds, timeout_error), key=lambda limit: limit[0]
        )
        try:
            yield
        finally:
            self._deadline, self._timeout_error = outer

    def pause(self) -> float:
        """Seconds until the next `tick` is due."""
        return max(0.0, min(TICK, min(self._due, self._deadline) - monotonic()))

    def wait(self, seconds: float, wake: int | None = None) -> None:
        """Waits for this long without an exchange, or until the descriptor `wake` is readable. Raises ClientGone, and
        what `tick` raises."""
        poll = select.poll()
        if self.client_fd is not None:
            poll.register(self.client_fd, select.POLLRDHUP)
        if wake is not None:
            poll.register(wake, select.POLLIN)
        deadline = monotonic() + seconds
        while (left := deadline - monotonic()) > 0:
            ready = dict(poll.poll(1000 * min(left, self.pause())))
            if self.client_fd in ready:
                raise ClientGone
            if ready:
                return
            self.tick()

    def check(self) -> None:
        """Raises EndedElsewhere after a requested stop, ShuttingDown when the worker's drain is over."""
        if self.stop.requested:
            raise EndedElsewhere
        if self._drain.expired:
            raise ShuttingDown

    def tick(self) -> None:
        """Sends what is due. Raises as `check` does, the timeout's error, and errors of sending."""
        self.check()
        now = monotonic()
        if now >= self._deadline and self._timeout_error is not None:
            raise self._timeout_error
        if now >= self._due and self._on_due is not None:
            self._due = self._on_due()


class Bell:
    """Wakes a thread that polls: an eventfd that other threads ring. A ring may come too late, when the closed
    descriptor is another's already.
    """

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = Lock()

    def fileno(self) -> int:
        """Readable after a ring, until `clear`."""
        return self._descriptor

    def ring(self, _: object = None) -> None:
        """Takes an argument that it does not use, so that it can be a callback."""
        with self._lock:
            if self._descriptor >= 0:
                os.eventfd_write(self._descriptor, 1)

    def clear(self) -> None:
        # It has not rung since.
        with suppress(BlockingIOError):
            os.eventfd_read(self._descriptor)

    def close(self) -> None:
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Late(Exception):
    """A deadline of the gateway has passed. (The kernel's TimeoutError means a dead connection.)"""


def wait_ready(descriptor: int, watch: Watch | None, timeout: float, events: int = select.POLLIN) -> None:
    """Waits until the descriptor is ready. Raises Late, ClientGone when the client disconnects first, and the errors of
    the watch."""
    poll = select.poll()
    poll.register(descriptor, events)
    client_fd = watch.client_fd if watch is not None else None
    if client_fd is not None:
        poll.register(client_fd, select.POLLRDHUP)
    until = monotonic() + timeout
    while True:
        left = max(0.0, until - monotonic())
        pause = left if watch is None else min(left, watch.pause())
        ready = dict(poll.poll(pause * 1000))
        if descriptor in ready:
            return
        if client_fd in ready:
            raise ClientGone
        if watch is not None:
            watch.tick()
        if pause >= left:
            raise Late
