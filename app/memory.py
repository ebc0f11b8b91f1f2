"""What large bodies take of this process: the allocator's settings, and a budget that all of them share."""

from __future__ import annotations

import ctypes
import gc
import threading
from contextlib import suppress
from time import monotonic

from app.errors import PayloadTooLarge, Unavailable

MIB = 1024 * 1024

#: glibc's numbers of two settings, and their value here. By itself glibc raises both with the first large buffer that
#: is freed, and each of its arenas may then keep as much.
_THRESHOLDS = {-3: MIB, -1: MIB}
#: Seconds for which a request may wait until others have given back what it needs.
PATIENCE = 2.0
#: Requests that may wait so at once: each holds a thread.
_WAITING = 32
#: Bytes that have to have been freed before it is worth a look at the heap.
_WORTH_A_TRIM = 4 * MIB


def fix_thresholds() -> None:
    """Large buffers come from the system and go back to it. For a process that has no threads yet."""
    # Only glibc has these settings.
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for name, value in _THRESHOLDS.items():
            mallopt(name, value)


def _trim() -> None:
    """Pages that are free inside the heap go back to the system: the small buffers that idle threads keep pin them."""
    gc.collect(0)
    # Only glibc has the call.
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


class Budget:
    """The bytes that large bodies may take of this process, all of them together. What was taken and given back is also
    given back to the system, now and then."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._freed = 0
        self._again = False
        self._waiting = 0
        self._room = threading.Condition()

    def take(self, size: int, patience: float) -> None:
        """Raises Unavailable when that much is not free within `patience` seconds."""
        with self._room:
            if self.taken + size > self.limit and not self._wait(size, patience):
                raise Unavailable(
                    "This server holds as many large requests as it can. Please try again.",
                    code="server_is_overloaded",
                    retry_after=2,
                )
            self.taken += size

    def give(self, size: int) -> None:
        with self._room:
            self.taken -= size
            self._freed += size
            if self._waiting:
                self._room.notify_all()

    def give_back(self) -> None:
        """To the system; nothing while little was freed. Other threads may hold the last of it for a moment, hence once
        more."""
        with self._room:
            enough = self._freed >= _WORTH_A_TRIM
            self._freed = 0 if enough else self._freed
        if enough or self._again:
            self._again = enough
            _trim()

    def _wait(self, size: int, patience: float) -> bool:
        """True once there is room, which the caller takes while he still holds the lock."""
        if self._waiting >= _WAITING:
            return False
        until = monotonic() + patience
        self._waiting += 1
        try:
            return self._room.wait_for(lambda: self.taken + size <= self.limit, max(0.0, until - monotonic()))
        finally:
            self._waiting -= 1


class Share:
    """What one request, connection or exchange has of the budget. It is closed by whoever opened it."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = 0

    @property
    def limit(self) -> int:
        return self._budget.limit

    def grow(self, size: int, patience: float = PATIENCE) -> None:
        """Raises Unavailable, or PayloadTooLarge for what would not fit into an empty process."""
        if self.size + size > self._budget.limit:
            raise PayloadTooLarge(
                f"This request takes more memory than the {self._budget.limit // MIB} MiB that one may take here. "
                "Send less at once."
            )
        self._budget.take(size, patience)
        self.size += size

    def shrink(self, size: int) -> None:
        """To this size, where it is larger."""
        if size < self.size:
            given, self.size = self.size - size, size
            self._budget.give(given)

    def close(self) -> None:
        self.shrink(0)
