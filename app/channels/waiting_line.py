"""Requests of this process that wait for a slot of full channels, the oldest first."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress


class Ticket:
    """A place in the lines of one or more channels. `fileno` becomes readable when the request should look again."""

    __slots__ = ("_wakeup",)

    def __init__(self) -> None:
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._wakeup

    def wake(self) -> None:
        os.eventfd_write(self._wakeup, 1)

    def woken(self) -> None:
        """Takes note of a wake-up, so that the next one shows."""
        # It may have looked by itself.
        with suppress(BlockingIOError):
            os.eventfd_read(self._wakeup)

    def close(self) -> None:
        os.close(self._wakeup)


class WaitingLines:
    """One line for each channel that requests wait for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[str, deque[Ticket]] = {}

    @property
    def waiting(self) -> int:
        """Requests in any line. One that waits for several channels counts once."""
        with self._lock:
            return len({ticket for line in self._lines.values() for ticket in line})

    def __contains__(self, channel: str) -> bool:
        """Whether requests wait for this channel, so that a new one may not pass them."""
        return channel in self._lines

    @contextmanager
    def joined(self, channels: Iterable[str]) -> Iterator[Ticket]:
        """A ticket at the end of these lines. Leaving wakes the next request of each."""
        names = list(channels)
        ticket = Ticket()
        with self._lock:
            for name in names:
                self._lines.setdefault(name, deque()).append(ticket)
        try:
            yield ticket
        finally:
            with self._lock:
                for name in names:
                    self._leave(name, ticket)
                ticket.close()

    def is_first(self, channel: str, ticket: Ticket) -> bool:
        with self._lock:
            return self._lines[channel][0] is ticket

    def freed(self, channel: str) -> None:
        """A slot of the channel is free: wakes the request that has waited longest."""
        if channel in self._lines:
            with self._lock:
                self._wake_first(channel)

    def _leave(self, channel: str, ticket: Ticket) -> None:
        line = self._lines[channel]
        line.remove(ticket)
        if line:
            self._wake_first(channel)
        else:
            del self._lines[channel]

    def _wake_first(self, channel: str) -> None:
        if line := self._lines.get(channel):
            line[0].wake()
