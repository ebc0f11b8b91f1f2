"""Roots and rows of trees for responses that were written before there were any. Transactions are short, because a
gateway may run meanwhile, and all of it can be run again after it broke off.

It belongs to one step of the migrations: a column that a later step adds to the rows of trees has a default and is not
written here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import orjson

from app.contract.records import CHAINABLE, RUNNING
from app.ids import is_response
from app.store.database import Database, Session
from app.store.tree_sums import COLUMNS, NOTHING, Change, Newest, failovers, top_of

WINDOW = 500
"""Responses that are read, and at most changed, at a time."""
TREES = 100
"""Rows that are written at a time."""

_ABOVE = "COALESCE(r.parent, r.inferred, w.retry_of)"
_LINKED = f"SELECT r.pk, r.owner, r.root, {_ABOVE} FROM response r LEFT JOIN thread_turn w ON w.response = r.pk"
_WINDOW = f"{_LINKED} WHERE r.pk > ? ORDER BY r.pk LIMIT {WINDOW}"
_NAMED = f"{_LINKED} WHERE r.pk IN (%s)"
_ROOTS = f"SELECT pk FROM response WHERE pk > ? AND root IS NULL ORDER BY pk LIMIT {TREES}"
_FACTS = (
    "SELECT r.pk, r.id, r.owner, r.root, r.status, r.kept, r.deleted_at, r.model, r.client, r.created_at,"
    " r.completed_at, r.input_tokens, r.cached_tokens, r.output_tokens, r.cost, r.attempts, r.compaction,"
    " CASE WHEN r.since > 0 AND r.since = r.depth THEN 1 ELSE 0 END,"
    " CASE WHEN b.parent IS NOT NULL AND r.depth = b.fork + 1 THEN 1 ELSE 0 END, r.parent, r.inferred, w.retry_of"
    " FROM response r LEFT JOIN branch b ON b.pk = r.branch LEFT JOIN thread_turn w ON w.response = r.pk"
)
_TURNS = f"{_FACTS} WHERE r.pk IN (%s) UNION ALL {_FACTS} WHERE r.root IN (%s)"


class Linked(NamedTuple):
    """A response and the one above it."""

    pk: int
    owner: str
    root: int | None
    above: int | None


class Ended(NamedTuple):
    """A response as the row of its tree counts it."""

    pk: int
    id: str
    owner: str
    root: int | None
    status: str
    kept: int
    deleted_at: int | None
    model: str
    client: str | None
    created_at: int
    completed_at: int | None
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    cost: int | None
    attempts: str | None
    compaction: str | None
    begins_anew: int
    opens_branch: int
    parent: int | None
    inferred: int | None
    retry_of: int | None


def fill(database: Database) -> Iterator[None]:
    """Yields after each step."""
    after = 0
    while rows := database.read(partial(_linked, sql=_WINDOW, parameters=(after,))):
        after = rows[-1].pk
        database.transaction(partial(_write_roots, rows=rows))
        yield
    after = 0
    while keys := database.read(partial(_roots, after=after)):
        after = keys[-1]
        changes = database.read(partial(_trees, keys=keys))
        write = partial(Session.run_many, sql=database.dialect.unless_there("tree", COLUMNS))
        if changes:
            database.transaction(partial(write, rows=[change.row(key) for key, change in changes.items()]))
        yield


# --- roots --------------------------------------------------------------------------------------------------------


def _linked(session: Session, *, sql: str, parameters: Sequence[int]) -> list[Linked]:
    return [Linked._make(row) for row in session.rows(sql, parameters)]


def _write_roots(session: Session, *, rows: Sequence[Linked]) -> None:
    known = {row.pk: row for row in rows}
    missing = sorted({row.above for row in rows if row.above and row.above not in known})
    found = _linked(session, sql=_NAMED % _marks(missing), parameters=missing) if missing else []
    known |= {row.pk: row for row in found}
    roots: dict[int, int] = {}
    for row in rows:
        root = row.root or _root_of(session, row, known, roots)
        if root not in (None, row.pk):
            roots[row.pk] = root
    changed = [(roots[row.pk], row.pk) for row in rows if row.root is None and row.pk in roots]
    if changed:
        session.run_many("UPDATE response SET root = ? WHERE pk = ?", changed)


def _root_of(session: Session, row: Linked, known: Mapping[int, Linked], roots: Mapping[int, int]) -> int | None:
    above = known.get(row.above or 0)
    if above is None or above.owner != row.owner:
        return None
    if above.root is not None or above.pk in roots:
        return above.root or roots[above.pk]
    # Keys of several servers of one cluster do not rise with time, so the one above may come later.
    return top_of(session, row.pk, row.owner) if above.above else above.pk


# --- rows ---------------------------------------------------------------------------------------------------------


def _roots(session: Session, *, after: int) -> list[int]:
    return [pk for (pk,) in session.rows(_ROOTS, (after,))]


def _trees(session: Session, *, keys: Sequence[int]) -> dict[int, Change]:
    marks = _marks(keys)
    rows = map(Ended._make, session.rows(_TURNS % (marks, marks), [*keys, *keys]))
    turns: defaultdict[int, list[Ended]] = defaultdict(list)
    for row in rows:
        if is_response(row.id) and row.status not in RUNNING:
            turns[row.root or row.pk].append(row)
    # Trees of which all was deleted are not listed.
    left = {root: rows for root, rows in turns.items() if any(row.deleted_at is None for row in rows)}
    return {root: _change(root, rows) for root, rows in sorted(left.items())}


def _change(root: int, rows: Sequence[Ended]) -> Change:
    # The row of a root may be written after that of a turn below it.
    first = next((row for row in rows if row.pk == root), min(rows))
    change = Change(first.owner, first.created_at, _newest(first), NOTHING)
    continued: set[int] = set()
    for row in sorted(rows, key=lambda row: (_ended_at(row), row.pk)):
        goes_on = row.status in CHAINABLE
        is_branch = row.opens_branch or (row.inferred in continued and row.retry_of is None)
        change.add(_newest(row), _counts(row, branches=int(goes_on and bool(is_branch))))
        above = row.parent or row.inferred
        if goes_on and above:
            continued.add(above)
    return change


def _newest(row: Ended) -> Newest:
    after = orjson.loads(row.compaction).get("after") if row.compaction else None
    context = None if row.input_tokens is None else row.input_tokens + (row.output_tokens or 0)
    return Newest(row.pk, row.model, row.client, after if isinstance(after, int) else context, _ended_at(row))


def _ended_at(row: Ended) -> int:
    return row.completed_at or row.created_at


def _counts(row: Ended, branches: int) -> tuple[int, ...]:
    note = orjson.loads(row.compaction) if row.compaction else None
    attempts = orjson.loads(row.attempts) if row.attempts else ()
    return (
        1,
        branches,
        int(bool(row.begins_anew) or (note is not None and "failed" not in note)),
        failovers((attempt["channel"], attempt.get("error")) for attempt in attempts),
        int(row.status == "failed"),
        int(row.status == "cancelled"),
        int(row.status == "incomplete"),
        int(not row.kept),
        int(row.deleted_at is not None),
        row.input_tokens or 0,
        row.cached_tokens or 0,
        row.output_tokens or 0,
        row.cost or 0,
        int(row.input_tokens is not None and row.cost is None),
    )


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
