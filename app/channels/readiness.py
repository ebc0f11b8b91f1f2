"""Waiting for a descriptor, while the client and the deadlines of the request are watched."""

from __future__ import annotations

import select
from time import monotonic
from typing import Protocol

from app.errors import ClientGone


class Watch(Protocol):
    """What is seen to while an upstream is waited for."""

    @property
    def client_fd(self) -> int | None:
        """The descriptor on which the client's hanging up is seen."""
        ...

    def pause(self) -> float:
        """Seconds that may pass until the next `tick`."""
        ...

    def tick(self) -> None:
        """Does what is due, and raises what ends the waiting."""
        ...


class Late(Exception):
    """A deadline of ours has passed. (The kernel's own TimeoutError is a connection that is dead.)"""


def wait_ready(descriptor: int, watch: Watch | None, timeout: float, events: int = select.POLLIN) -> None:
    """Until it is ready. Raises Late, ClientGone when the client leaves first, or what the watch raises."""
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
