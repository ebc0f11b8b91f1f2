"""Background responses: queued, claimed and requeued. The row names the worker that runs it. A claim is one
compare-and-set, so that one worker at a time runs a response, however often its id is in the queue.
"""

from __future__ import annotations

from collections.abc import Callable

from app.contract.records import LIFECYCLE_EVENTS, Draft, EventBatch, Job
from app.store import events
from app.store.database import Database, Row, Session
from app.store.grouped_writes import Group
from app.store.leases import HELD, Leases
from app.store.responses import Responses, set_output
from app.store.tool_calls import has_calls
from app.store.writer import Writer

RUNS = 2
"""How often a response is started when its worker died before any output event."""

UNATTENDED = 5
"""Seconds that a response may wait before operators see that no worker runs it."""

#: Puts the id of a response into the job queue; called within the transaction that queues the response.
AddInTransaction = Callable[[str], object]

_CLAIMED = (
    "SELECT r.pk, r.owner, r.token, r.created_at, j.request, j.traceparent, j.tracestate,"
    " (SELECT COALESCE(MAX(e.last), -1) FROM event e WHERE e.response = r.pk)"
    " FROM response r JOIN job j ON j.response = r.pk WHERE r.id = ?"
)
_QUEUED = (
    "SELECT j.response, j.rung_at FROM job j JOIN response r ON r.pk = j.response"
    " WHERE r.id = ? AND r.status = 'queued'"
)
_LEFT = (
    "SELECT r.pk, r.id, r.owner, j.runs, (SELECT COALESCE(MAX(e.last), -1) FROM event e WHERE e.response = r.pk)"
    " FROM response r JOIN job j ON j.response = r.pk WHERE r.worker = ? AND r.status = 'in_progress'"
)


class Jobs:
    def __init__(self, database: Database, writer: Writer[Group], leases: Leases, responses: Responses) -> None:
        self._database = database
        self._writer = writer
        self._leases = leases
        self._responses = responses
        now = database.dialect.now
        self._insert_job = (
            "INSERT INTO job (response, request, traceparent, tracestate, created_at, rung_at)"
            f" VALUES (?, ?, ?, ?, {now}, {now})"
        )
        self._claim_row = (
            f"UPDATE response SET status = 'in_progress', worker = ? WHERE id = ? AND deleted_at IS NULL"
            f" AND (status = 'queued' OR {HELD})"
        )
        self._held = f"SELECT pk FROM response JOIN job ON response = pk WHERE id = ? AND {HELD}"
        self._release = f"UPDATE response SET status = 'queued', worker = NULL WHERE pk = ? AND {HELD}"
        # The interval doubles while no worker claims the response.
        self._waiting_long = (
            "SELECT j.response, r.id, j.rung_at FROM job j JOIN response r ON r.pk = j.response"
            f" WHERE r.status = 'queued' AND {now} - j.rung_at > ? + (j.rung_at - j.created_at)"
        )
        self._unattended = (
            "SELECT COUNT(*) FROM job j JOIN response r ON r.pk = j.response"
            f" WHERE r.status = 'queued' AND {now} - j.created_at >= {UNATTENDED}"
            f" AND NOT EXISTS (SELECT 1 FROM worker w WHERE w.background = 1 AND w.lease_until >= {now})"
        )
        self._waiting = "SELECT COUNT(*) FROM job j JOIN response r ON r.pk = j.response WHERE r.status = 'queued'"
        self._mark_put_back = f"UPDATE job SET runs = runs - 1, rung_at = {now} WHERE response = ?"
        self._mark_requeued = f"UPDATE job SET rung_at = {now} WHERE response = ? AND rung_at = ?"

    def enqueue(
        self,
        draft: Draft,
        request: bytes,
        first_events: EventBatch,
        add_in_transaction: AddInTransaction,
        trace: tuple[str | None, str | None] = (None, None),
    ) -> None:
        """Commits a `queued` row, the request and the first events; `add_in_transaction` puts it in the queue.
        `trace`: see `Job`."""

        def write(group: Group) -> None:
            pk = self._responses.insert_queued(group, draft)
            if pk is not None:
                group.session.run(self._insert_job, group.session.large((pk, request.decode(), *trace)))
                events.add(group.session, pk, first_events)
                add_in_transaction(draft.id)

        self._writer.do(write)

    def claim(self, response_id: str) -> Job | None:
        """The response, now in progress on this worker; None when it is not queued any more."""
        job = self._database.transaction(lambda session: self._claim(session, response_id))
        if job is not None:
            self._responses.hold(response_id)
        return job

    def requeue(self, response_id: str, add_in_transaction: AddInTransaction) -> bool:
        """Queues the response again, as if it had not started. False when it was not this worker's, and when it has
        called a tool."""
        return self._database.transaction(lambda session: self._requeue(session, response_id, add_in_transaction))

    def postpone(self, response_id: str) -> bool:
        """Makes the response queued again, as if it had not started. `requeue_waiting` queues it after as much time as
        has passed since its creation. False as for `requeue`."""
        return self._database.transaction(lambda session: self._put_back(session, response_id))

    def requeue_postponed(self, response_id: str, add_in_transaction: AddInTransaction) -> bool:
        """Puts a postponed response into the queue now. False when it is not queued any more."""

        def write(session: Session) -> bool:
            row = session.row(_QUEUED, (response_id,))
            return row is not None and self._add_again(session, response_id, row, add_in_transaction)

        return self._database.transaction(write)

    def requeue_waiting(self, add_in_transaction: AddInTransaction) -> list[str]:
        """Queues again the responses that have waited for a lease since they were queued; their ids."""
        return self._database.transaction(lambda session: self._requeue_waiting(session, add_in_transaction))

    def waiting(self) -> int:
        """The number of queued responses."""
        row = self._database.read(lambda session: session.row(self._waiting))
        return int(row[0]) if row else 0

    def unattended(self) -> int:
        """The number of queued responses while no background worker is alive on any host."""
        row = self._database.read(lambda session: session.row(self._unattended))
        return int(row[0]) if row else 0

    def take_back(self, session: Session, worker: int) -> None:
        """Requeues the responses of a dead worker that have no output event and have called no tool. The others get
        their finished items."""
        for pk, _, owner, runs, last in session.rows(_LEFT, (worker,)):
            if runs < RUNS and last < LIFECYCLE_EVENTS and not has_calls(session, pk):
                session.run("UPDATE response SET status = 'queued', worker = NULL WHERE pk = ?", (pk,))
                session.run("UPDATE job SET rung_at = 0 WHERE response = ?", (pk,))
            else:
                set_output(session, self._database.dialect, pk, owner, events.finished_items(session, pk))
                session.run("DELETE FROM job WHERE response = ?", (pk,))

    def _claim(self, session: Session, response_id: str) -> Job | None:
        worker = self._leases.worker(session)
        # Also claims the worker's own response: a retry follows a commit whose answer was lost.
        if session.run(self._claim_row, (worker, response_id, self._leases.name)) != 1:
            return None
        row = session.row(_CLAIMED, (response_id,))
        if row is None:
            return None
        pk, owner, token, created_at, request, *trace, last = row
        session.run("UPDATE job SET runs = runs + 1 WHERE response = ?", (pk,))
        return Job(response_id, owner, token or 0, created_at, request.encode(), last, tuple(trace))

    def _requeue(self, session: Session, response_id: str, add_in_transaction: AddInTransaction) -> bool:
        put_back = self._put_back(session, response_id)
        if put_back:
            add_in_transaction(response_id)
        return put_back

    def _put_back(self, session: Session, response_id: str) -> bool:
        row = session.row(self._held, (response_id, self._leases.name))
        if row is None or has_calls(session, row[0]) or session.run(self._release, (*row, self._leases.name)) != 1:
            return False
        session.run(self._mark_put_back, row)
        return True

    def _requeue_waiting(self, session: Session, add_in_transaction: AddInTransaction) -> list[str]:
        return [
            response_id
            for pk, response_id, rung_at in session.rows(self._waiting_long, (self._leases.lease,))
            if self._add_again(session, response_id, (pk, rung_at), add_in_transaction)
        ]

    def _add_again(self, session: Session, response_id: str, row: Row, add_in_transaction: AddInTransaction) -> bool:
        """Puts a queued response into the queue, unless another worker has just done so. `row`: the key of the job,
        and when it was put there last."""
        is_first = session.run(self._mark_requeued, row) == 1
        if is_first:
            add_in_transaction(response_id)
        return is_first
