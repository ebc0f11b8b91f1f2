"""Waits for a descriptor, and watches the client and the deadlines of the request at the same time."""

from __future__ import annotations

import select
from time import monotonic
from typing import Protocol

from app.errors import ClientGone


class Watch(Protocol):
    """Checks to make while a thread waits for an upstream."""

    @property
    def client_fd(self) -> int | None:
        """The descriptor that shows when the client disconnects."""
        ...

    def pause(self) -> float:
        """The most seconds until the next `tick`."""
        ...

    def tick(self) -> None:
        """Does the checks that are due. Raises the error that ends the wait."""
        ...


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
