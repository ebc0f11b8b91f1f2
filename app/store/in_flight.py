"""The responses that have not ended, over all workers and hosts, and the reports of the workers. One query finds them
by their worker or their job. A request without a row is known only as an exchange, in the report of its worker.
"""

from __future__ import annotations

from typing import NamedTuple

from app.contract.records import WorkerStatus
from app.store.database import Database, Session
from app.store.leases import status_of

MOST = 1000
"""Responses that are read, the oldest."""

_FACTS = "r.id, r.owner, t.name, r.client, r.model, r.channel, r.status, r.created_at"
#: A dead worker's responses are shown until they are ended; the worker's row is stored for longer.
_RUNNING = (
    f"SELECT {_FACTS}, w.name, {{now}} FROM worker w CROSS JOIN response r ON r.worker = w.pk"
    " LEFT JOIN token t ON t.pk = r.token WHERE r.status = 'in_progress' AND r.deleted_at IS NULL"
)
_QUEUED = (
    f"SELECT {_FACTS}, NULL, {{now}} FROM job j CROSS JOIN response r ON r.pk = j.response"
    " LEFT JOIN token t ON t.pk = r.token WHERE r.status = 'queued' AND r.deleted_at IS NULL"
)
_REPORTS = (
    "SELECT NULL, NULL, NULL, NULL, NULL, status, NULL, status_at, name, {now} FROM worker"
    " WHERE lease_until >= {now} AND status IS NOT NULL"
)
_OWNER = "SELECT owner FROM response WHERE id = ? AND kept = 1 AND deleted_at IS NULL"


class InFlightResponse(NamedTuple):
    id: str
    owner: str
    token: str | None
    """Its name; None when it is gone."""
    client: str | None
    """The program that sent the request; None if unknown."""
    model: str
    channel: str | None
    """None until one has accepted the request."""
    status: str
    """`queued` or `in_progress`."""
    created_at: int
    worker: str | None
    """Name of the worker that holds it; None for a queued one."""
    now: int
    """The database's clock when this was read."""

    @property
    def seconds(self) -> int:
        """How long it has been at work or has waited."""
        return max(0, self.now - self.created_at)


class InFlight:
    def __init__(self, database: Database) -> None:
        self._database = database
        now = database.dialect.now
        self._all = f"{_RUNNING} UNION ALL {_QUEUED} UNION ALL {_REPORTS}".format(now=now)
        self._owned = f"{_RUNNING} AND r.owner = ? UNION ALL {_QUEUED} AND r.owner = ?".format(now=now)

    def read(self, scope: str | None) -> tuple[list[InFlightResponse], list[WorkerStatus]]:
        """Those of one owner, or of all with the reports of the live workers, which are nobody's own. Oldest first."""
        sql, parameters = (self._all, ()) if scope is None else (self._owned, (scope, scope))
        rows = self._database.read(lambda session: session.rows(sql, parameters))
        responses = [InFlightResponse._make(row) for row in rows if row[0] is not None]
        reports = [(worker, text, at, now) for id, *_, text, _, at, worker, now in rows if id is None]
        responses.sort(key=lambda response: (response.created_at, response.id))
        return responses[:MOST], [status_of(*report) for report in sorted(reports)]

    def owner_of(self, response_id: str) -> str | None:
        """The owner of a stored response, for an operator; None for an unknown or deleted one."""

        def read(session: Session) -> str | None:
            row = session.row(_OWNER, (response_id,))
            return None if row is None else str(row[0])

        return self._database.read(read)
