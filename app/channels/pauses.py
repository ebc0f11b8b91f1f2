"""What operators have ordered of channels, as this process knows it: which are out of service, and which cooldowns have
ended.

A request asks this memory and never the database: `refresh` replaces it at each tick of the lease keeper. A pause ends
by itself, also while the database does not answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Protocol

from app.contract.pauses import Orders, Pause
from app.errors import StoreUnavailable


class PauseStorage(Protocol):
    def read(self) -> Orders:
        """Everything that is in force. Raises StoreUnavailable."""
        ...


class Pauses:
    """By channel. Every method may be called from any thread."""

    def __init__(self, storage: PauseStorage | None = None, clock: Callable[[], float] = monotonic) -> None:
        self._storage = storage
        self._clock = clock
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self._known: Mapping[str, tuple[Pause, float | None]] = {}
        """Each pause with the time of its end on this process's clock."""
        self._ended: Mapping[str, int] = {}
        """The orders to end a cooldown that were found last."""
        self._is_read = storage is None

    def of(self, channel: str) -> Pause | None:
        """The pause that keeps this channel from new requests now."""
        if not self._is_read:
            self._read_first()
        if (known := self._known.get(channel)) is None:
            return None
        pause, end = known
        if end is None:
            return pause
        left = end - self._clock()
        return replace(pause, left=left) if left > 0 else None

    def refresh(self) -> list[str]:
        """Reads the orders that all processes share. Returns the channels whose cooldown is to end now, once for each
        order. Raises StoreUnavailable."""
        if self._storage is None:
            return []
        # One at a time: an earlier read must not replace what a later one has found.
        with self._refreshing:
            began = self._clock()
            found = self._storage.read()
            ends = ((pause, None if pause.left is None else began + pause.left) for pause in found.pauses)
            self._known = {pause.channel: (pause, end) for pause, end in ends}
            before, self._ended = self._ended, found.cooldowns_ended
            return [channel for channel, at in self._ended.items() if before.get(channel) != at]

    def _read_first(self) -> None:
        """The first request of a process may come before the first tick."""
        with self._lock:
            if not self._is_read:
                with suppress(StoreUnavailable):
                    self.refresh()
                self._is_read = True
