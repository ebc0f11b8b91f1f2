"""The newest responses of all owners as lines of a log, and those that end while someone follows. For an operator: no
request of a client reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import orjson

from app.contract.records import RUNNING
from app.store.database import Database, Session

MOST = 10_000
"""Rows that are read at most for the newest lines."""
WINDOW = 1000
LOOK_BACK = 500
"""Keys of which some may become visible later than their successors: they are given before the commit."""

_COLUMNS = (
    "SELECT r.pk, r.id, r.status, r.created_at, r.completed_at, r.model, r.channel, t.name, r.owner, r.input_tokens,"
    " r.cached_tokens, r.output_tokens, r.estimated, r.cost, r.first_byte_ms, r.total_ms, r.request_id, r.error"
    " FROM response r LEFT JOIN token t ON t.pk = r.token"
)
_NEWEST = f"{_COLUMNS} WHERE r.pk < ? ORDER BY r.pk DESC LIMIT {WINDOW}"
_NEXT = f"{_COLUMNS} WHERE r.pk > ? ORDER BY r.pk LIMIT {WINDOW}"
_NAMED = f"{_COLUMNS} WHERE r.pk IN ({{marks}}) ORDER BY r.pk"


class LogRow(NamedTuple):
    """A response without its content."""

    key: int
    id: str
    status: str
    created_at: int
    completed_at: int | None
    model: str
    channel: str | None
    token: str | None
    owner: str
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    estimated: int
    cost_micros: int | None
    """Micro-units; None if a price is not known."""
    first_byte_ms: int | None
    total_ms: int | None
    request_id: str | None
    error: str | None
    """Its code."""

    @property
    def running(self) -> bool:
        return self.status in RUNNING

    def wire(self) -> dict[str, Any]:
        wire = self._asdict()
        del wire["key"]
        return {**wire, "estimated": bool(self.estimated)}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows are shown: those that have all of the stated values."""

    token: str | None = None
    owner: str | None = None
    model: str | None = None
    status: str | None = None

    def has(self, row: LogRow) -> bool:
        return all(getattr(row, name) == value for name, value in asdict(self).items() if value is not None)


class RequestLog:
    def __init__(self, database: Database) -> None:
        self._database = database

    def newest(self, count: int, wanted: Wanted) -> tuple[list[LogRow], bool]:
        """So many of the wanted rows, oldest first, and whether all rows were searched: only the newest `MOST` are."""
        found: list[LogRow] = []
        below, read = 2**63 - 1, 0
        while len(found) < count and read < MOST:
            rows = self._read(_NEWEST, (below,))
            if not rows:
                return found[::-1], True
            found += filter(wanted.has, rows)
            below, read = rows[-1].key, read + len(rows)
        return found[:count][::-1], len(found) >= count

    def follow(self) -> Follower:
        """From now on."""
        return Follower(self._read)

    def _read(self, sql: str, parameters: Iterable[int]) -> list[LogRow]:
        return [_row(row) for row in self._database.read(partial(Session.rows, sql=sql, parameters=tuple(parameters)))]


class Follower:
    """The rows that are new or have ended since the last look."""

    def __init__(self, read: Callable[[str, Iterable[int]], list[LogRow]]) -> None:
        self._read = read
        newest = read(_NEWEST, (2**63 - 1,))
        self._highest = newest[0].key if newest else 0
        self._seen = {row.id for row in newest}
        self._running = {row.key for row in newest if row.running}

    def look(self) -> list[LogRow]:
        """The new rows and those that have ended meanwhile; a row that is running is among them once before its end."""
        ended = [row for row in self._still_running() if not row.running]
        self._running.difference_update(row.key for row in ended)
        return ended + self._new()

    def _still_running(self) -> list[LogRow]:
        keys = sorted(self._running)[-WINDOW:]
        found = self._read(_NAMED.format(marks=", ".join("?" * len(keys))), keys) if keys else []
        # Those that are gone were deleted.
        self._running = {row.key for row in found}
        return found

    def _new(self) -> list[LogRow]:
        new: list[LogRow] = []
        recent: set[str] = set()
        after = self._highest - LOOK_BACK
        while rows := self._read(_NEXT, (after,)):
            after = rows[-1].key
            recent.update(row.id for row in rows)
            new += [row for row in rows if row.id not in self._seen]
        # SQLite gives a key again when the newest rows were removed.
        self._highest = after if recent else 0
        self._seen = recent
        self._running.update(row.key for row in new if row.running)
        return new


def _row(row: tuple[Any, ...]) -> LogRow:
    *facts, error = row
    return LogRow._make([*facts, orjson.loads(error).get("code") if error else None])
