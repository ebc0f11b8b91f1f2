"""The writer: one thread per process that runs many write jobs in one transaction, so that a busy gateway pays for one
commit and not for sixty-four. It knows no table: a job is a function of the open group.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from app.errors import StoreUnavailable
from app.metrics.measures import OFF, Measures
from app.store import at_fork
from app.store.database import Conflict, Database, Refused, Session, unavailable

log = logging.getLogger(__name__)

SECONDS = 5.0
"""Seconds for which a job may wait in the queue."""
GRACE = 10.0
"""Seconds that a running job may take: the database's own timeouts end it before."""
BACKLOG = 1000
"""Length of the queue from which on posted jobs are dropped: no caller waits for those."""
CLOSING = 10.0


class Group(Protocol):
    """Shared by the jobs of one transaction; `flush` writes the rows that they gathered."""

    def flush(self) -> None: ...


G = TypeVar("G", bound=Group)
T = TypeVar("T")


#: Called with None after a commit, or with the error of the transaction.
OnDone = Callable[[BaseException | None], None]


class _Job(Generic[G]):
    __slots__ = ("_claim", "_done", "deadline", "error", "on_done", "result", "write")

    def __init__(self, write: Callable[[G], Any], deadline: float, on_done: OnDone | None = None) -> None:
        self.write = write
        self.deadline = deadline
        self.on_done = on_done
        self.result: Any = None
        self.error: BaseException | None = None
        self._claim = threading.Lock()
        self._done = threading.Lock()
        self._done.acquire()

    def claim(self) -> bool:
        """True for the first caller: the writer begins the job, or the waiting thread withdraws it."""
        return self._claim.acquire(blocking=False)

    def end(self, result: Any = None, error: BaseException | None = None) -> None:
        self.result = result
        self.error = error
        self._done.release()
        if self.on_done is not None:
            self.on_done(error)

    def wait(self) -> Any:
        if not self._done.acquire(timeout=max(0.0, self.deadline - time.monotonic())):
            if self.claim():
                raise StoreUnavailable("The response store is too busy at the moment. Please try again.")
            if not self._done.acquire(timeout=GRACE):
                raise StoreUnavailable("The response store did not answer in time. Please try again.")
        error, self.error = self.error, None
        if error is None:
            return self.result
        try:
            raise error
        finally:
            # The traceback refers to this frame, and this frame to the error: the cycle would hold the unwritten rows.
            del error


class Writer(Generic[G]):
    def __init__(
        self, database: Database, open_group: Callable[[Session], G], *, limit: int, measures: Measures = OFF
    ) -> None:
        self._database = database
        self._measures = measures
        self._open_group = open_group
        self._limit = limit
        self._closed = False
        self.reset()
        at_fork.reset_after_fork(self)

    def reset(self) -> None:
        self._jobs: queue.SimpleQueue[_Job[G] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._dropped = 0

    def do(self, write: Callable[[G], T], *, seconds: float = SECONDS) -> T:
        """Returns once the transaction that `write` became part of is committed."""
        job: _Job[G] = _Job(write, time.monotonic() + seconds)
        self._put(job)
        result: T = job.wait()
        return result

    def post(self, write: Callable[[G], object], on_done: OnDone | None = None) -> bool:
        """Returns at once; False when the queue is full: then the job is lost. `on_done` is called by the writer, once
        it is known how the job went.
        """
        if self._closed or self._jobs.qsize() >= BACKLOG:
            self._drop()
            return False
        self._put(_Job(write, float("inf"), on_done))
        return True

    def close(self) -> None:
        """Writes the waiting jobs, then ends the thread."""
        with self._starting:
            self._closed = True
            thread = self._thread
        if thread is not None:
            self._jobs.put(None)
            thread.join(CLOSING)

    @property
    def waiting(self) -> int:
        return self._jobs.qsize()

    @property
    def dropped(self) -> int:
        return self._dropped

    def _put(self, job: _Job[G]) -> None:
        if self._closed:
            raise StoreUnavailable("The response store is closed.")
        self._jobs.put(job)
        if self._thread is None or not self._thread.is_alive():
            self._start()

    def _start(self) -> None:
        with self._starting:
            if not self._closed and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._run, args=(self._jobs,), name="store-writer", daemon=True)
                self._thread.start()

    def _drop(self) -> None:
        self._dropped += 1
        if self._dropped % BACKLOG == 1:
            log.warning("The store's writer is behind: %d metadata rows were dropped so far.", self._dropped)

    def _run(self, jobs: queue.SimpleQueue[_Job[G] | None]) -> None:
        while self._write_next(jobs):
            pass

    def _write_next(self, jobs: queue.SimpleQueue[_Job[G] | None]) -> bool:
        """False after the last job. A function of its own, so that finished jobs are released during the next wait."""
        group, more = self._gather(jobs)
        if group:
            self._write(group)
        return more

    def _gather(self, jobs: queue.SimpleQueue[_Job[G] | None]) -> tuple[list[_Job[G]], bool]:
        """The waiting jobs, at least one; False beside them when they are the last."""
        group: list[_Job[G]] = []
        job = jobs.get()
        while job is not None:
            if job.claim():
                group.append(job)
            if len(group) == self._limit:
                return group, True
            try:
                job = jobs.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _write(self, jobs: list[_Job[G]]) -> None:
        try:
            results = self._transaction(jobs)
        except BaseException as error:
            # Every error goes to the waiting callers. An unreachable database fails all jobs; any other error may come
            # from one row, and the other rows are written without it.
            if len(jobs) > 1 and (isinstance(error, Refused) or not isinstance(error, StoreUnavailable)):
                for job in jobs:
                    self._write([job])
            else:
                self._fail(jobs, error)
        else:
            self._measures.group_written(len(jobs))
            for job, result in zip(jobs, results, strict=True):
                job.end(result)

    def _transaction(self, jobs: list[_Job[G]]) -> list[Any]:
        def write(session: Session) -> list[Any]:
            group = self._open_group(session)
            results = [job.write(group) for job in jobs]
            group.flush()
            return results

        now = time.monotonic()
        deadline = max(now, min(now + SECONDS, *(job.deadline for job in jobs)))
        return self._database.transaction(write, deadline)

    def _fail(self, jobs: list[_Job[G]], error: BaseException) -> None:
        if isinstance(error, Conflict):
            error = unavailable(error)
        for job in jobs:
            if job.deadline == float("inf") and job.on_done is None:
                log.warning("metadata row dropped, database error: %s", type(error).__name__)
            job.end(error=error)
