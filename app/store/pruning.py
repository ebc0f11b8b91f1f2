"""Pruning: removes old responses while other work goes on. Transactions are short, the newest rows come first, and the
parent of a response that stays is never removed.

A response counts as used when it was created, and again when a turn continues from it (see `chain`). That is noted
before the turn begins, so a row that is past its age here is the parent of nothing that is still being made. The age
is the same for all responses, unless a token has a shorter one of its own.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from app.errors import ConfigurationError
from app.store.database import Database, Session
from app.store.responses import forget_settings, item_ids
from app.store.tree_sums import forget_empty

LEAST_AGE = 86_400
"""Seconds. A turn may take as long as this is above `chain.YOUNG` and still find its parent."""
WINDOW = 50
"""Rows that are read, and at most removed, at a time: few, because other writers wait for each transaction."""
_ITEMS = 512
"""Entries of items that one statement removes at most."""
RETRY_SECONDS = 30.0
NEWEST = 2**63 - 1

_ROW = (
    "SELECT pk, parent, owner, kept = 1 AND deleted_at IS NULL, status IN ('queued', 'in_progress'),"
    " COALESCE(continued_at, created_at), token, COALESCE(root, pk) FROM response"
)
_RETENTIONS = "SELECT pk, retention FROM token WHERE retention IS NOT NULL"
_NEXT_ROWS = f"{_ROW} WHERE pk < ? ORDER BY pk DESC LIMIT {WINDOW}"
_NEXT_BRANCHES = f"SELECT pk FROM branch WHERE pk < ? ORDER BY pk DESC LIMIT {WINDOW}"
_NEXT_SETTINGS = f"SELECT pk FROM setting WHERE pk < ? ORDER BY pk DESC LIMIT {WINDOW}"
_EMPTY_BRANCHES = (
    "SELECT b.pk FROM branch b WHERE b.pk BETWEEN ? AND ?"
    " AND NOT EXISTS (SELECT 1 FROM response r WHERE r.branch = b.pk)"
)
_UNUSED_SETTINGS = (
    "SELECT s.pk FROM setting s WHERE s.pk BETWEEN ? AND ?"
    " AND NOT EXISTS (SELECT 1 FROM response r WHERE r.settings = s.pk)"
)


@dataclass(frozen=True, slots=True)
class Pruned:
    responses: int = 0
    """Removed with their content."""
    records: int = 0
    """Rows of unstored responses, and tombstones of deleted ones."""
    share: float = 0.0
    """The share of the rows read so far, from 0 to 1."""


class Old(NamedTuple):
    """The columns that decide whether a row is removed."""

    pk: int
    parent: int | None
    owner: str
    content: int
    running: int
    used_at: int
    token: int | None
    tree: int
    """The key of the root of its tree."""


@dataclass(frozen=True, slots=True)
class Ages:
    """Which responses are past their age: those last used before a time, which may be later for some tokens."""

    before: int
    of_tokens: Mapping[int | None, int]

    @classmethod
    def read(cls, database: Database, before: int) -> Ages:
        """`before`: unix seconds. A token's own retention counts if it is shorter."""
        now = int(time.time())
        rows = database.read(lambda session: session.rows(_RETENTIONS))
        return cls(before, {key: max(before, now - max(LEAST_AGE, retention)) for key, retention in rows})

    def is_past(self, row: Old) -> bool:
        return not row.running and row.used_at < self.of_tokens.get(row.token, self.before)


def count(database: Database, before: int) -> Pruned:
    _check_age(before)
    counted = Pruned()
    for past, share in _windows(database, Ages.read(database, before)):
        counted = _added(counted, past, share)
    return counted


def prune(database: Database, before: int) -> Iterator[Pruned]:
    _check_age(before)
    pruned, ages = Pruned(), Ages.read(database, before)
    for past, share in _windows(database, ages):
        removed = _remove_window(database, past, ages) if past else []
        pruned = _added(pruned, removed, share)
        yield pruned
    _sweep_branches(database)
    _sweep_settings(database)
    yield replace(pruned, share=1.0)


def _check_age(before: int) -> None:
    if before > time.time() - LEAST_AGE:
        raise ConfigurationError(
            "Responses younger than a day are not pruned.",
            fix="Name a longer time, as 30d; DELETE /v1/responses/{id} removes a single response at once.",
        )


def _added(pruned: Pruned, rows: Sequence[Old], share: float) -> Pruned:
    responses = sum(1 for row in rows if row.content)
    return Pruned(pruned.responses + responses, pruned.records + len(rows) - responses, share)


# --- responses --------------------------------------------------------------------------------------------------


def _windows(database: Database, ages: Ages) -> Iterator[tuple[list[Old], float]]:
    """Yields for each window of rows, newest first, the removable rows and the share of all rows read so far."""
    lowest, highest = database.read(_extent)
    needed: set[int] = set()
    cursor = NEWEST
    while rows := database.read(partial(_rows, below=cursor)):
        cursor = rows[-1].pk
        past = []
        for row in rows:
            if ages.is_past(row) and row.pk not in needed:
                past.append(row)
            elif row.parent is not None:
                needed.add(row.parent)
            needed.discard(row.pk)
        yield past, min(1.0, (highest - cursor + 1) / (highest - lowest + 1))


def _extent(session: Session) -> tuple[int, int]:
    found = session.row("SELECT MIN(pk), MAX(pk) FROM response")
    return (found[0] or 0, found[1] or 0) if found else (0, 0)


def _rows(session: Session, below: int) -> list[Old]:
    return [Old._make(row) for row in session.rows(_NEXT_ROWS, (below,))]


def _remove_window(database: Database, past: Sequence[Old], ages: Ages) -> list[Old]:
    # Read outside the transaction: the content of a response that has ended never changes, it is only deleted.
    items = {row.pk: database.read(partial(_items, row=row)) for row in past}
    started = time.monotonic()
    removed = database.transaction(
        partial(_remove, hold=database.dialect.hold, past=past, items=items, ages=ages), started + RETRY_SECONDS
    )
    # SQLite has no queue for its lock: waiting writers must find it free now and then.
    time.sleep(time.monotonic() - started)
    return removed


def _items(session: Session, row: Old) -> list[str]:
    bodies = session.row("SELECT input, output FROM content WHERE response = ?", (row.pk,))
    return sorted(item_ids(bodies or ()))


def _remove(session: Session, *, hold: str, past: Sequence[Old], items: dict[int, list[str]], ages: Ages) -> list[Old]:
    keys = [row.pk for row in past]
    held = session.rows(f"{_ROW} WHERE pk IN ({_marks(keys)}) ORDER BY pk{hold}", keys)
    rows = _without_children(session, [row for row in map(Old._make, held) if ages.is_past(row)])
    if rows:
        removed_keys = [row.pk for row in rows]
        _remove_items(session, rows, items)
        session.run(f"DELETE FROM content WHERE response IN ({_marks(removed_keys)})", removed_keys)
        session.run(f"DELETE FROM prefix WHERE response IN ({_marks(removed_keys)})", removed_keys)
        session.run(f"DELETE FROM thread_turn WHERE response IN ({_marks(removed_keys)})", removed_keys)
        session.run(f"DELETE FROM recent_error WHERE response IN ({_marks(removed_keys)})", removed_keys)
        # MariaDB would read the whole table for a subquery here.
        found = session.rows(f"SELECT id FROM response WHERE pk IN ({_marks(removed_keys)})", removed_keys)
        names = [name for (name,) in found]
        session.run(f"DELETE FROM tool_call WHERE response IN ({_marks(names)})", names)
        session.run(f"DELETE FROM response WHERE pk IN ({_marks(removed_keys)})", removed_keys)
        forget_empty(session, sorted({row.tree for row in rows}))
    return rows


def _remove_items(session: Session, rows: Sequence[Old], items: dict[int, list[str]]) -> None:
    """Removes the entries of the items of these responses: many in one statement, because each one is a round trip to
    the server while the rows are locked."""
    names: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        names[row.owner].update(items[row.pk])
    keys = [row.pk for row in rows]
    for owner, of_owner in sorted(names.items()):
        remaining = sorted(of_owner)
        while remaining:
            some, remaining = remaining[:_ITEMS], remaining[_ITEMS:]
            # Statements of few lengths, each of which is prepared once.
            some += some[-1:] * (_padded(len(some)) - len(some))
            # The sum keeps the last column out of the search: each id would be looked up for each response.
            sql = f"DELETE FROM item WHERE owner = ? AND id IN ({_marks(some)}) AND response + 0 IN ({_marks(keys)})"
            session.run(sql, [owner, *some, *keys])


def _padded(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()


def _without_children(session: Session, rows: Sequence[Old]) -> list[Old]:
    """The rows without children outside of `rows`. Children may have any key: keys of several servers of one cluster do
    not rise with time.
    """
    if not rows:
        return []
    parents = {row.pk: row.parent for row in rows}
    marks = _marks(parents)
    found = session.rows(
        f"SELECT DISTINCT parent FROM response WHERE parent IN ({marks}) AND pk NOT IN ({marks})",
        [*parents, *parents],
    )
    needed: set[int] = set()
    waiting: list[int | None] = [parent for (parent,) in found]
    while waiting:
        key = waiting.pop()
        if key in parents and key not in needed:
            needed.add(key)
            waiting.append(parents[key])
    return [row for row in rows if row.pk not in needed]


# --- what they left ---------------------------------------------------------------------------------------------


def _sweep_branches(database: Database) -> None:
    """An empty branch stays empty, and so do the branches below it: a turn continues a branch only from a response in
    it, and that response keeps its ancestors from being pruned.
    """
    for low, high in _ranges(database, _NEXT_BRANCHES):
        if empty := database.read(partial(_keys, sql=_EMPTY_BRANCHES, parameters=(low, high))):
            delete = f"DELETE FROM branch WHERE pk IN ({_marks(empty)})"
            database.transaction(partial(Session.run, sql=delete, parameters=empty), time.monotonic() + RETRY_SECONDS)


def _sweep_settings(database: Database) -> None:
    for low, high in _ranges(database, _NEXT_SETTINGS):
        if unused := database.read(partial(_keys, sql=_UNUSED_SETTINGS, parameters=(low, high))):
            forget = partial(forget_settings, dialect=database.dialect, keys=unused)
            database.transaction(forget, time.monotonic() + RETRY_SECONDS)


def _ranges(database: Database, sql: str) -> Iterator[tuple[int, int]]:
    """The keys of a table in ranges of some hundred, the newest first."""
    cursor = NEWEST
    while keys := database.read(partial(_keys, sql=sql, parameters=(cursor,))):
        cursor = keys[-1]
        yield cursor, keys[0]


def _keys(session: Session, *, sql: str, parameters: Sequence[int]) -> list[int]:
    return [key for (key,) in session.rows(sql, parameters)]


def _marks(values: Sequence[object] | dict[int, int | None]) -> str:
    return ", ".join("?" * len(values))
