"""What the thread of a request sees to while it waits for an upstream: the client, the end of the worker, a stop, a
time limit, and what the client of a stream is owed meanwhile.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic

from app.errors import ClientGone, EndedElsewhere, GatewayError, ShuttingDown, StoreUnavailable
from app.relay.streaming.timing import Drain

#: How long a silent request may overlook that the worker is to end, or that it was stopped.
TICK = 1.0

#: What a tick raises that is no failure of the upstream: nothing else is tried.
INTERRUPTIONS = (EndedElsewhere, ShuttingDown, StoreUnavailable)


class Stop:
    """Asks a stream to end, from any thread."""

    __slots__ = ("requested", "wake")

    def __init__(self) -> None:
        self.requested = False
        self.wake: Callable[[], None] | None = None
        """Wakes whoever waits for something else meanwhile."""

    def request(self) -> None:
        self.requested = True
        if wake := self.wake:
            wake()


#: Sends the client what is due; returns when the next is.
OnDue = Callable[[], float]


class Watch:
    """One a request. Code that waits polls `client_fd`, waits no longer than `pause` says, then calls `tick`."""

    __slots__ = ("_deadline", "_drain", "_due", "_on_due", "_timeout_error", "client_fd", "stop")

    def __init__(self, client_fd: int | None, drain: Drain, stop: Stop | None = None) -> None:
        """`client_fd`: the descriptor on which a hang-up is seen, where there is one."""
        self.client_fd = client_fd
        self.stop = stop or Stop()
        self._drain = drain
        self._due = inf
        self._on_due: OnDue | None = None
        self._deadline = inf
        self._timeout_error: GatewayError | None = None

    def schedule(self, due: float, on_due: OnDue) -> None:
        """From the moment `due` on, `on_due` is called whenever the time that it returned has come."""
        self._due, self._on_due = due, on_due

    @contextmanager
    def limited(self, seconds: float, timeout_error: GatewayError) -> Iterator[None]:
        """Waiting that goes on for longer than this raises `timeout_error`."""
        self._deadline, self._timeout_error = monotonic() + seconds, timeout_error
        try:
            yield
        finally:
            self._deadline, self._timeout_error = inf, None

    def pause(self) -> float:
        """Seconds that may pass until the next `tick`."""
        return max(0.0, min(TICK, min(self._due, self._deadline) - monotonic()))

    def wait(self, seconds: float) -> None:
        """Waits for something else than an answer. Raises ClientGone, and what `tick` does."""
        poll = select.poll()
        if self.client_fd is not None:
            poll.register(self.client_fd, select.POLLRDHUP)
        deadline = monotonic() + seconds
        while (left := deadline - monotonic()) > 0:
            if poll.poll(1000 * min(left, self.pause())):
                raise ClientGone
            self.tick()

    def check(self) -> None:
        """Raises EndedElsewhere once a stop was asked for, ShuttingDown when the drain of the worker is over."""
        if self.stop.requested:
            raise EndedElsewhere
        if self._drain.expired:
            raise ShuttingDown

    def tick(self) -> None:
        """Raises what `check` does, the error of a limit that has passed, and what sending raises."""
        self.check()
        now = monotonic()
        if now >= self._deadline and self._timeout_error is not None:
            raise self._timeout_error
        if now >= self._due and self._on_due is not None:
            self._due = self._on_due()
