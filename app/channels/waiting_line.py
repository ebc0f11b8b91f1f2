"""Requests of this process that wait for a slot of full channels, the oldest first."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from app.request_watch import Bell


class WaitingLines:
    """One line for each channel that requests wait for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[str, deque[Bell]] = {}

    @property
    def waiting(self) -> int:
        """Requests in any line. One that waits for several channels counts once."""
        with self._lock:
            return len({place for line in self._lines.values() for place in line})

    def __contains__(self, channel: str) -> bool:
        """Whether requests wait for this channel, so that a new one may not pass them."""
        return channel in self._lines

    @contextmanager
    def joined(self, channels: Iterable[str]) -> Iterator[Bell]:
        """A place at the end of these lines: a bell that rings when the request should look again. Leaving wakes the
        next request of each."""
        names = list(channels)
        place = Bell()
        with self._lock:
            for name in names:
                self._lines.setdefault(name, deque()).append(place)
        try:
            yield place
        finally:
            with self._lock:
                for name in names:
                    self._leave(name, place)
                place.close()

    def is_first(self, channel: str, place: Bell) -> bool:
        with self._lock:
            return self._lines[channel][0] is place

    def freed(self, channel: str) -> None:
        """A slot of the channel is free: wakes the request that has waited longest."""
        if channel in self._lines:
            with self._lock:
                self._wake_first(channel)

    def _leave(self, channel: str, place: Bell) -> None:
        line = self._lines[channel]
        line.remove(place)
        if line:
            self._wake_first(channel)
        else:
            del self._lines[channel]

    def _wake_first(self, channel: str) -> None:
        if line := self._lines.get(channel):
            line[0].ring()
