"""Ends of responses that the database could not take. Each is held in memory and written when the database is back, so
that the row agrees with what the client received and does not stay in progress for ever.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from app.errors import StoreUnavailable
from app.store import at_fork
from app.store.database import Refused, Unwritable
from app.store.grouped_writes import Group
from app.store.writer import Writer

log = logging.getLogger(__name__)

LIMIT = 64 * 1024 * 1024
"""Bytes that the ends of one process may hold."""
OVERHEAD = 2048
"""Bytes that an end takes beside its content."""
TOGETHER = 64
"""Ends that follow one that was written."""
REFUSALS = 30
"""Refusals by a reachable database after which an end is written without its content."""

Write = Callable[[Group], object]


@dataclass(slots=True, eq=False)
class _End:
    name: str
    write: Write
    bare: Write
    size: int
    refusals: int = 0

    def shorten(self) -> None:
        self.write, self.size = self.bare, OVERHEAD


class Unwritten:
    def __init__(self, writer: Writer[Group]) -> None:
        self._writer = writer
        self.reset()
        at_fork.reset_after_fork(self)

    def reset(self) -> None:
        self._ends: dict[str, _End] = {}
        self._idle: deque[_End] = deque()
        self._size = 0
        self._changed = threading.Condition()

    def add(self, name: str, write: Write, bare: Write, size: int) -> None:
        """Retries `write` until it is committed. `size`: the bytes that it holds; above the limit, `bare` is retried in
        its place. Of several ends with one name, the first counts.
        """
        end = _End(name, write, bare, size + OVERHEAD)
        with self._changed:
            if name in self._ends:
                return
            if self._size + end.size > LIMIT:
                end.shorten()
            self._ends[name] = end
            self._size += end.size
            self._idle.append(end)

    @property
    def full(self) -> bool:
        return self._size >= LIMIT

    def names(self) -> set[str]:
        with self._changed:
            return set(self._ends)

    def retry(self) -> None:
        """Posts one retry and returns at once. When the database takes it, the others follow."""
        self._post_next(1)

    def drain(self, seconds: float) -> None:
        """Waits until all are written, at most so many seconds."""
        self.retry()
        with self._changed:
            if not self._changed.wait_for(lambda: not self._ends, seconds):
                log.warning("%d ends of responses could not be written", len(self._ends))

    def _post_next(self, count: int) -> None:
        with self._changed:
            ends = [self._idle.popleft() for _ in range(min(count, len(self._idle)))]
        for end in ends:
            if not self._writer.post(end.write, partial(self._on_done, end)):
                self._requeue(end)

    def _on_done(self, end: _End, error: BaseException | None) -> None:
        """Called by the writer."""
        if error is None:
            self._forget(end)
            self._post_next(TOGETHER)
        elif isinstance(error, StoreUnavailable):
            if isinstance(error, Refused):
                self._note_refusal(end)
            self._requeue(end)
        elif isinstance(error, Unwritable) and end.write is not end.bare:
            self._shorten(end)
            self._requeue(end)
        else:
            log.error("the end of %s cannot be written: %r", end.name, error)
            self._forget(end)

    def _note_refusal(self, end: _End) -> None:
        end.refusals += 1
        if end.refusals == REFUSALS:
            self._shorten(end)

    def _shorten(self, end: _End) -> None:
        with self._changed:
            self._size -= end.size
            end.shorten()
            self._size += end.size

    def _requeue(self, end: _End) -> None:
        """Puts the end behind the others, so that a refused one does not delay them."""
        with self._changed:
            self._idle.append(end)

    def _forget(self, end: _End) -> None:
        with self._changed:
            del self._ends[end.name]
            self._size -= end.size
            self._changed.notify_all()
