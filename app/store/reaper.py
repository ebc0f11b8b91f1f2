"""Ends abandoned responses: those of a worker whose lease has expired, and those that this worker holds without running
them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

import orjson

from app.store import at_fork, tree_sums
from app.store.database import Database, Session
from app.store.jobs import Jobs
from app.store.leases import HELD, Leases
from app.store.recent_errors import trim
from app.store.sums import forget_slots
from app.store.token_counters import end_of_worker
from app.store.unwritten import Unwritten

INTERRUPTED = {
    "message": "The gateway was interrupted while it worked on this response.",
    "type": "server_error",
    "param": None,
    "code": "gateway_interrupted",
}


class Reaper:
    """Ids of this worker's responses, and the end of the abandoned ones."""

    def __init__(self, database: Database, leases: Leases, jobs: Jobs, unwritten: Unwritten) -> None:
        self._database = database
        self._leases = leases
        self._jobs = jobs
        self._unwritten = unwritten
        self._dead = f"SELECT pk FROM worker WHERE lease_until < {database.dialect.now}"
        self._fail = (
            "UPDATE response SET status = 'failed', worker = NULL, completed_at = ?, error = ?"
            f" WHERE id = ? AND {HELD} AND NOT EXISTS (SELECT 1 FROM job WHERE job.response = response.pk)"
        )
        self._trees = tree_sums.Statements.of(database.dialect)
        self._abandoned = f"worker = ? AND status = 'in_progress'{database.dialect.hold}"
        self.reset()
        at_fork.reset_after_fork(self)

    def reset(self) -> None:
        self._unknown: dict[str, float] = {}

    def running(self) -> set[str]:
        """Ids of this worker's responses in progress. A response whose end waits to be written is not among them."""
        return self._held() - self._unwritten.names()

    def reap(self) -> int:
        """Fails the responses of workers whose lease ran out; returns their number. A background response that sent no
        output yet is queued again instead.
        """
        return self._database.transaction(self._reap)

    def reap_own(self, known: Collection[str]) -> int:
        """Fails the responses that this worker has held for a whole lease although they are not `known`; returns their
        number. Such a row comes from a begin that was committed after its request had failed. A response with a job is
        not failed: its job is given back elsewhere.
        """
        now = time.monotonic()
        unknown = self._held().difference(known, self._unwritten.names())
        self._unknown = {response_id: self._unknown.get(response_id, now) for response_id in unknown}
        orphans = [response_id for response_id, since in self._unknown.items() if now - since >= self._leases.lease]
        if not orphans:
            return 0
        return self._database.transaction(lambda session: sum(self._fail_own(session, each) for each in orphans))

    def _held(self) -> set[str]:
        rows = self._database.read(
            lambda session: session.rows(
                "SELECT r.id FROM response r JOIN worker w ON w.pk = r.worker"
                " WHERE w.name = ? AND r.status IN ('queued', 'in_progress') AND r.deleted_at IS NULL",
                (self._leases.name,),
            )
        )
        return {response_id for (response_id,) in rows}

    def _fail_own(self, session: Session, response_id: str) -> int:
        now = int(time.time())
        failed = session.run(self._fail, (*_end(now), response_id, self._leases.name))
        if failed:
            self._count(session, tree_sums.ending(session, "id = ?", (response_id,)), now)
        return failed

    def _count(self, session: Session, ended: Sequence[tree_sums.Ending], at: int) -> None:
        """`at`: as the rows have it, in unix seconds."""
        tree_sums.count_ends(session, self._trees, ended, "failed", at)

    def _reap(self, session: Session) -> int:
        failed, now = 0, int(time.time())
        for (worker,) in session.rows(self._dead):
            self._jobs.take_back(session, worker)
            self._count(session, tree_sums.ending(session, self._abandoned, (worker,)), now)
            failed += session.run(
                "UPDATE response SET status = 'failed', worker = NULL, completed_at = ?, error = ?"
                " WHERE worker = ? AND status = 'in_progress'",
                (*_end(now), worker),
            )
            end_of_worker(session, worker)
        self._leases.forget(session)
        forget_slots(session, now)
        trim(session, now)
        return failed


def _end(at: int) -> tuple[int, str]:
    """Values of `completed_at` and `error`."""
    return at, orjson.dumps(INTERRUPTED).decode()
