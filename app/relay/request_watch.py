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

    __slots__ = ("asked", "heard")

    def __init__(self) -> None:
        self.asked = False
        self.heard: Callable[[], None] | None = None
        """Wakes whoever waits for something else meanwhile."""

    def ask(self) -> None:
        self.asked = True
        if heard := self.heard:
            heard()


#: Sends the client what is due; returns when the next is.
Speak = Callable[[], float]


class Watch:
    """One a request. Code that waits polls `client`, waits no longer than `pause` says, then calls `tick`."""

    __slots__ = ("_drain", "_due", "_late", "_speak", "_until", "client", "stop")

    def __init__(self, client: int | None, drain: Drain, stop: Stop | None = None) -> None:
        """`client`: the descriptor on which a hang-up is seen, where there is one."""
        self.client = client
        self.stop = stop or Stop()
        self._drain = drain
        self._due = inf
        self._speak: Speak | None = None
        self._until = inf
        self._late: GatewayError | None = None

    def owe(self, due: float, speak: Speak) -> None:
        """From the moment `due` on, `speak` is called whenever the time that it returned has come."""
        self._due, self._speak = due, speak

    @contextmanager
    def limited(self, seconds: float, late: GatewayError) -> Iterator[None]:
        """Waiting that goes on for longer than this raises `late`."""
        self._until, self._late = monotonic() + seconds, late
        try:
            yield
        finally:
            self._until, self._late = inf, None

    def pause(self) -> float:
        """Seconds that may pass until the next `tick`."""
        return max(0.0, min(TICK, min(self._due, self._until) - monotonic()))

    def wait(self, seconds: float) -> None:
        """Waits for something else than an answer. Raises ClientGone, and what `tick` does."""
        poll = select.poll()
        if self.client is not None:
            poll.register(self.client, select.POLLRDHUP)
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0:
            if poll.poll(1000 * min(left, self.pause())):
                raise ClientGone
            self.tick()

    def check(self) -> None:
        """Raises EndedElsewhere once a stop was asked for, ShuttingDown when the drain of the worker is over."""
        if self.stop.asked:
            raise EndedElsewhere
        if self._drain.expired:
            raise ShuttingDown

    def tick(self) -> None:
        """Raises what `check` does, the error of a limit that has passed, and what sending raises."""
        self.check()
        now = monotonic()
        if now >= self._until and self._late is not None:
            raise self._late
        if now >= self._due and self._speak is not None:
            self._due = self._speak()
