"""The events of background responses, stored in batches while the response runs and for a while after. A client that
follows the response reads them on any worker. Only the worker that holds the response appends.
"""

from __future__ import annotations

import time
from typing import Any

import orjson

from app import sse
from app.contract.events import ITEM_DONE
from app.contract.records import RUNNING, EventBatch, EventPage
from app.store.database import Database, Session
from app.store.grouped_writes import Group
from app.store.leases import HELD, Leases
from app.store.writer import Writer

PAGE = 32
"""Batches that are read at a time."""
EXPIRED = 200
"""Responses whose events are removed at a time."""

_NEXT = "SELECT first, last, body FROM event WHERE response = ? AND last > ? ORDER BY first LIMIT ?"
_EXPIRED = (
    "SELECT DISTINCT e.response FROM event e LEFT JOIN response r ON r.pk = e.response WHERE e.kept_at < ?"
    " AND (r.pk IS NULL OR r.status NOT IN ('queued', 'in_progress') AND COALESCE(r.completed_at, r.deleted_at) < ?)"
    " LIMIT ?"
)


class Events:
    def __init__(self, database: Database, writer: Writer[Group], leases: Leases) -> None:
        self._database = database
        self._writer = writer
        self._leases = leases
        self._holding = f"SELECT pk FROM response WHERE id = ? AND {HELD}{database.dialect.share}"

    def append(self, response_id: str, batch: EventBatch) -> bool:
        """Returns after the commit. False when this worker no longer holds the response: then it stores nothing."""
        return self._writer.do(lambda group: self._append(group.session, response_id, batch))

    def read(self, owner: str, response_id: str, after: int) -> EventPage | None:
        """Events numbered above `after`; None when there is no such response."""
        return self._database.read(lambda session: _read(session, owner, response_id, after))

    def expire(self, age: int) -> int:
        """Removes the events of responses that ended more than `age` seconds ago. Returns the number of responses."""
        before = int(time.time()) - age
        found = [pk for (pk,) in self._database.read(lambda session: session.rows(_EXPIRED, (before, before, EXPIRED)))]
        if found:
            self._database.transaction(lambda session: forget(session, found))
        return len(found)

    def _append(self, session: Session, response_id: str, batch: EventBatch) -> bool:
        # A cancel or delete waits for this transaction, or this one finds that the response has ended.
        row = session.row(self._holding, (response_id, self._leases.name))
        if row is None:
            return False
        add(session, row[0], batch)
        return True


def add(session: Session, pk: int, batch: EventBatch) -> None:
    """Writes a batch. A retry after a lost commit may bring the same batch with more events in it."""
    session.run("DELETE FROM event WHERE response = ? AND first = ?", (pk, batch.first))
    session.run(
        "INSERT INTO event (response, first, last, body, kept_at) VALUES (?, ?, ?, ?, ?)",
        session.large((pk, batch.first, batch.last, batch.body.decode(), int(time.time()))),
    )


def forget(session: Session, keys: list[int]) -> None:
    session.run(f"DELETE FROM event WHERE response IN ({', '.join('?' * len(keys))})", keys)


def finished_items(session: Session, pk: int) -> list[dict[str, Any]]:
    """The items with an `output_item.done` event, in order."""
    bodies = session.rows("SELECT body FROM event WHERE response = ? ORDER BY first", (pk,))
    events = (event for (body,) in bodies for event in body.split("\n\n") if ITEM_DONE in event)
    decoded = (orjson.loads(data) for _, data in (sse.parse(event.encode()) for event in events) if data is not None)
    return [event["item"] for event in decoded if event.get("type") == ITEM_DONE]


def _read(session: Session, owner: str, response_id: str, after: int) -> EventPage | None:
    found = session.row(
        "SELECT pk, status FROM response WHERE id = ? AND owner = ? AND kept = 1 AND deleted_at IS NULL",
        (response_id, owner),
    )
    if found is None:
        return None
    pk, status = found
    # Read after the status: no event is added to a response that has ended.
    rows = session.rows(_NEXT, (pk, after, PAGE + 1))
    batches = tuple(EventBatch(first, last, body.encode()) for first, last, body in rows[:PAGE])
    last = None
    if status not in RUNNING:
        newest = session.row("SELECT MAX(last) FROM event WHERE response = ?", (pk,))
        last = newest[0] if newest else None
    return EventPage(status, batches, last, more=len(rows) > PAGE)
