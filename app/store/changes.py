"""What has changed since the last look, for the pages that are open: one query for all pages of a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from app.contract.records import WorkerStatus
from app.store.console_sessions import IDLE
from app.store.database import Database
from app.store.leases import status_of

MOST = 1000
"""New rows that one look reads."""
LOOK_BACK = 500
"""Keys of which some may become visible later than their successors: they are given before the commit."""

_FLIGHT = (
    "SELECT 'flight', r.pk, r.id, r.owner, r.status, r.channel, {now} FROM worker w CROSS JOIN response r"
    " ON r.worker = w.pk WHERE r.status = 'in_progress' AND r.deleted_at IS NULL"
)
_QUEUED = (
    "SELECT 'flight', r.pk, r.id, r.owner, r.status, NULL, {now} FROM job j CROSS JOIN response r ON r.pk = j.response"
    " WHERE r.status = 'queued' AND r.deleted_at IS NULL"
)
_WORKERS = (
    "SELECT 'worker', status_at, name, NULL, NULL, status, {now} FROM worker"
    " WHERE lease_until >= {now} AND status IS NOT NULL"
)
_NEWEST = "SELECT 'newest', MAX(pk), NULL, NULL, NULL, NULL, {now} FROM response"
_SESSIONS = (
    "SELECT 'session', 0, s.hash, t.owner, t.console, NULL, {now} FROM console_session s JOIN token t ON t.pk = s.token"
    " WHERE s.hash IN ({sessions}) AND s.ends_at > {now} AND s.used_at > {now} - {idle} AND t.revoked_at IS NULL"
    " AND (t.expires_at IS NULL OR t.expires_at > {now}) AND t.console IS NOT NULL"
)
_ROOTS = "SELECT 'root', pk, id, owner, NULL, NULL, {now} FROM response WHERE id IN ({roots})"
_NEW = (
    "SELECT 'new', n.pk, n.id, n.owner, n.status, NULL, {now}"
    f" FROM (SELECT pk, id, owner, status FROM response WHERE pk > ? ORDER BY pk DESC LIMIT {MOST}) n"
)


class Change(NamedTuple):
    """A response that is at work or new."""

    id: str
    owner: str
    status: str
    channel: str | None = None


@dataclass(frozen=True, slots=True)
class Look:
    flight: Sequence[Change]
    """The responses that have not ended."""
    new: Sequence[Change]
    """Those behind the key that was stated, at most `MOST`, the newest first."""
    newest: int
    """The highest key of all responses."""
    workers: Sequence[WorkerStatus]
    sessions: Mapping[str, tuple[str, str]]
    """Owner and role of each session that still holds, by its hash."""
    roots: Mapping[str, str]
    """The owners of the responses whose trees are followed, by their ids."""


class Changes:
    def __init__(self, database: Database) -> None:
        self._database = database

    def look(self, after: int | None, sessions: Sequence[str], roots: Sequence[str] = ()) -> Look:
        """`after`: the key behind which rows are new; None to read none of them. `sessions`: hashes, at least one.
        `roots`: ids of responses."""
        parts = [_FLIGHT, _QUEUED, _WORKERS, _NEWEST, _SESSIONS]
        parameters: list[int | str] = [*sessions]
        if roots:
            parts.append(_ROOTS)
            parameters += roots
        if after is not None:
            parts.append(_NEW)
            parameters.append(after)
        sql = " UNION ALL ".join(parts).format(
            now=self._database.dialect.now, idle=IDLE, sessions=_marks(sessions), roots=_marks(roots)
        )
        rows = self._database.read(lambda session: session.rows(sql, parameters))
        changes = {kind: [Change._make(row[2:6]) for row in rows if row[0] == kind] for kind in ("flight", "new")}
        return Look(
            changes["flight"],
            changes["new"],
            next(key or 0 for kind, key, *_ in rows if kind == "newest"),
            [status_of(name, text, at, now) for kind, at, name, _, _, text, now in rows if kind == "worker"],
            {hash: (owner, role) for kind, _, hash, owner, role, *_ in rows if kind == "session"},
            {id: owner for kind, _, id, owner, *_ in rows if kind == "root"},
        )


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))
