"""What large bodies take of this process: the allocator's settings, and a budget that all of them share."""

from __future__ import annotations

import ctypes
import gc
import threading
from contextlib import suppress

MIB = 1024 * 1024

#: glibc's numbers of two settings, and their value here. By itself glibc raises both with the first large buffer that
#: is freed, and each of its arenas may then keep as much.
_THRESHOLDS = {-3: MIB, -1: MIB}
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


class Freed:
    """Counts the bytes of large bodies that are gone, and gives them back to the system now and then."""

    def __init__(self) -> None:
        self._bytes = 0
        self._again = False
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        with self._lock:
            self._bytes += size

    def give_back(self) -> None:
        """Does nothing while little was freed. Other threads may hold the last of it for a moment, hence once more."""
        with self._lock:
            enough, self._bytes = self._bytes >= _WORTH_A_TRIM, 0 if self._bytes >= _WORTH_A_TRIM else self._bytes
        if enough or self._again:
            self._again = enough
            _trim()
