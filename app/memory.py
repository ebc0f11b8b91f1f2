"""What this process has room for: the memory of large bodies, with the allocator's settings and a budget for all bodies
together, and the number of running requests.
"""

from __future__ import annotations

import ctypes
import gc
import threading
from contextlib import suppress
from time import monotonic

from app.errors import Overloaded, PayloadTooLarge

MIB = 1024 * 1024

#: glibc's numbers of M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, and their values here. By itself glibc raises both with the
#: first large buffer that is freed, and each of its arenas may then keep that much.
_THRESHOLDS = {-3: MIB, -1: MIB}
#: Seconds for which a request may wait for memory that other requests hold.
MAX_WAIT = 2.0
#: Most requests that may wait at once: each holds a thread.
_WAITING = 32
#: Generations of the collector. A collection of all of them delays every stream, so it is rare.
_YOUNGEST, _ALL = 0, 2
#: Freed bytes from which trimming the heap is worth its time.
_WORTH_A_TRIM = 4 * MIB


def fix_thresholds() -> None:
    """Makes the allocator map large buffers and return them to the system. Call it before the first thread starts."""
    # Only glibc has these settings.
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for name, value in _THRESHOLDS.items():
            mallopt(name, value)


def _trim(generation: int) -> None:
    """Returns free pages inside the heap to the system. Small buffers of idle threads keep the heap from shrinking."""
    gc.collect(generation)
    # Only glibc has the call.
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


class Budget:
    """The bytes that all large bodies together may use in this process. `give_back` returns freed memory to the
    system.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._freed = 0
        self._again = False
        self._waiting = 0
        self._room = threading.Condition()

    def take(self, size: int, max_wait: float) -> None:
        """Raises Overloaded when that much is not free within `max_wait` seconds."""
        with self._room:
            if self.taken + size > self.limit and not self._wait(size, max_wait):
                raise Overloaded("This server holds as many large requests as it can. Please try again.")
            self.taken += size

    def give(self, size: int) -> None:
        with self._room:
            self.taken -= size
            self._freed += size
            if self._waiting:
                self._room.notify_all()

    def give_back(self) -> None:
        """Trims the heap when enough was freed, and once more at the next quiet call: other threads may have held the
        last buffers for a moment, and errors hold the requests that they ended until the collector runs."""
        with self._room:
            enough = self._freed >= _WORTH_A_TRIM
            self._freed = 0 if enough else self._freed
        if enough or self._again:
            self._again = enough
            _trim(_YOUNGEST if enough else _ALL)

    def _wait(self, size: int, max_wait: float) -> bool:
        """True when there is room. The caller still holds the lock and takes the room."""
        if self._waiting >= _WAITING:
            return False
        until = monotonic() + max_wait
        self._waiting += 1
        try:
            return self._room.wait_for(lambda: self.taken + size <= self.limit, max(0.0, until - monotonic()))
        finally:
            self._waiting -= 1


class Share:
    """The part of the budget that one request, connection or exchange uses. Its creator closes it."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = 0

    @property
    def limit(self) -> int:
        return self._budget.limit

    def grow(self, size: int, max_wait: float = MAX_WAIT) -> None:
        """Raises Overloaded, and PayloadTooLarge when the size is above the whole budget."""
        if self.size + size > self._budget.limit:
            raise PayloadTooLarge(
                f"This request takes more memory than the {self._budget.limit // MIB} MiB that one may take here. "
                "Send less at once."
            )
        self._budget.take(size, max_wait)
        self.size += size

    def shrink(self, size: int) -> None:
        """Gives back the bytes above `size`."""
        if size < self.size:
            given, self.size = self.size - size, size
            self._budget.give(given)

    def close(self) -> None:
        if self.size:
            self.shrink(0)


class InFlight:
    """Counts the running requests. The limit leaves some threads free to refuse further ones."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0
        self._lock = threading.Lock()

    def enter(self) -> bool:
        with self._lock:
            if self.count >= self.limit:
                return False
            self.count += 1
            return True

    def leave(self) -> None:
        with self._lock:
            self.count -= 1
