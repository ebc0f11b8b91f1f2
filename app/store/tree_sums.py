"""One row a tree: whose it is, its newest turn, and sums over its turns, so that a list of conversations reads no
response. Its key is that of the root. A turn is counted once, when it has ended; requests that were relayed without
translation are no turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import add
from typing import Any, NamedTuple

from app.contract.records import Draft, Outcome
from app.contract.usage import Usage
from app.ids import is_response
from app.store.database import Session
from app.store.dialects import Dialect

#: What a turn has used.
USED = ("input_tokens", "cached_tokens", "output_tokens", "cost", "unpriced")
COUNTERS = (
    "turns",
    "branches",
    "compactions",
    "failovers",
    "failed",
    "cancelled",
    "incomplete",
    "unstored",
    "deleted",
    *USED,
)
"""`branches` counts the turns that continue a response which was continued before. `cost` is the sum of the known ones,
in micro-units; `unpriced` counts the turns that used tokens and whose cost is unknown."""

#: The columns of `Newest`.
NEWEST = ("newest", "model", "client", "context", "newest_at")
COLUMNS = ("root", "owner", "first_at", *NEWEST, *COUNTERS)

MAX_NAME = 191
"""Characters of a model's or a client's name that a row has."""
#: How far a tree is climbed to its root.
HIGHEST = 20_000

_PLACE = {name: position for position, name in enumerate(COUNTERS)}
NOTHING = (0,) * len(COUNTERS)
_READ = f"SELECT {', '.join(COLUMNS)} FROM tree WHERE root = ?"
# The last to end, also if another that ended in the same second is written later: processes commit in any order.
_IS_NEWEST = "newest_at < ? OR (newest_at = ? AND newest <= ?)"
# MySQL assigns from the left and sees the new values, so what the conditions read comes last.
_UPDATE = (
    f"UPDATE tree SET {', '.join(f'{name} = {name} + ?' for name in COUNTERS)},"
    f" model = CASE WHEN {_IS_NEWEST} THEN ? ELSE model END,"
    f" client = CASE WHEN {_IS_NEWEST} THEN ? ELSE client END,"
    f" context = CASE WHEN {_IS_NEWEST} THEN COALESCE(?, context) ELSE COALESCE(context, ?) END,"
    f" newest = CASE WHEN {_IS_NEWEST} THEN ? ELSE newest END,"
    " newest_at = CASE WHEN newest_at < ? THEN ? ELSE newest_at END"
    " WHERE root = ?"
)
_UPDATE_USED = (
    f"UPDATE tree SET {', '.join(f'{name} = {name} + ?' for name in USED)},"
    " context = CASE WHEN newest = ? THEN COALESCE(?, context) ELSE context END WHERE root = ?"
)
_TOP = (
    "WITH RECURSIVE line (pk, above, steps) AS ("
    " SELECT r.pk, COALESCE(r.parent, r.inferred, w.retry_of), 0 FROM response r"
    " LEFT JOIN thread_turn w ON w.response = r.pk WHERE r.pk = ? AND r.owner = ?"
    " UNION ALL"
    " SELECT r.pk, COALESCE(r.parent, r.inferred, w.retry_of), l.steps + 1 FROM line l"
    " JOIN response r ON r.pk = l.above AND r.owner = ? LEFT JOIN thread_turn w ON w.response = r.pk"
    f" WHERE l.steps < {HIGHEST})"
    " SELECT pk FROM line ORDER BY steps DESC LIMIT 1"
)
_TREE_OF = "(SELECT COALESCE(response.root, response.pk) FROM response WHERE response.pk = ?)"
_COUNT_DELETED = f"UPDATE tree SET deleted = deleted + 1 WHERE root = {_TREE_OF}"
_DELETE_EMPTIED = f"DELETE FROM tree WHERE root = {_TREE_OF} AND deleted >= turns"
_ENDING = "SELECT pk, id, owner, root, created_at, model, client, kept FROM response WHERE "


class Turn(NamedTuple):
    """A turn as the row of its tree counts it."""

    owner: str
    began_at: int
    ended_at: int
    model: str
    client: str | None
    context: int | None
    """Tokens of its context with its answer; None if they are unknown."""
    counts: tuple[int, ...]
    """By the names of `COUNTERS`."""


class Newest(NamedTuple):
    """The newest turn of a tree, which is the last to end."""

    response: int
    model: str
    client: str | None
    context: int | None
    """Tokens of its context with its answer; while they are unknown, those of the turn before."""
    ended_at: int

    @property
    def place(self) -> tuple[int, int]:
        """The order of ends; of the same second, that of the keys."""
        return self.ended_at, self.response


@dataclass(frozen=True, slots=True)
class Statements:
    """The SQL of the rows of trees in one dialect."""

    replace: str
    unless_there: str
    hold: str

    @classmethod
    def of(cls, dialect: Dialect) -> Statements:
        values = f"({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
        return cls(
            # SQLite gives a key again when the newest rows were removed: a row that is there is of a tree that is gone.
            replace=f"REPLACE INTO tree {values}",
            unless_there=dialect.unless_there("tree", COLUMNS),
            hold=dialect.hold,
        )


@dataclass(slots=True)
class Change:
    """What one transaction adds to one row."""

    owner: str
    first_at: int
    newest: Newest
    counts: Sequence[int] = NOTHING
    is_new: bool = False
    """The root is written in the same transaction."""

    def add(self, newest: Newest, counts: Sequence[int]) -> None:
        self.counts = list(map(add, self.counts, counts))
        older, newer = sorted((self.newest, newest), key=lambda turn: turn.place)
        self.newest = newer._replace(context=older.context) if newer.context is None else newer

    def row(self, root: int) -> tuple[Any, ...]:
        return (root, self.owner, self.first_at, *self.newest, *self.counts)

    def update(self, root: int) -> tuple[Any, ...]:
        turn = self.newest
        place = (turn.ended_at, turn.ended_at, turn.response)
        return (
            *self.counts,
            *(*place, turn.model),
            *(*place, turn.client),
            *(*place, turn.context, turn.context),
            *(*place, turn.response),
            *(turn.ended_at, turn.ended_at),
            root,
        )


class TreeSums:
    """What one transaction adds to the rows of trees."""

    def __init__(self, session: Session, statements: Statements) -> None:
        self._session = session
        self._statements = statements
        self._changes: dict[int, Change] = {}

    def add(self, response: int, root: int | None, turn: Turn, branches: int = 0) -> None:
        """Counts a turn that has ended. `root`: the key of the root; None if the turn is the root itself."""
        newest = Newest(response, turn.model, turn.client, turn.context, turn.ended_at)
        counts = (turn.counts[0], branches, *turn.counts[2:])
        key = root or response
        change = self._changes.get(key)
        if change is None:
            self._changes[key] = Change(turn.owner, turn.began_at, newest, counts, is_new=root is None)
        else:
            change.add(newest, counts)

    def add_usage(self, response: int, root: int | None, turn: Turn) -> None:
        """Adds what a turn has used that was counted before this was known."""
        used = turn.counts[_PLACE[USED[0]] :]
        self._session.run(_UPDATE_USED, (*used, response, turn.context, root or response))

    def join(self, response: int, root: int, branches: int) -> None:
        """Lets a response that was a root of its own go on in another tree, with all that came of it."""
        pending = self._changes.pop(response, None)
        if pending is None or not pending.is_new:
            self._session.run("UPDATE response SET root = ? WHERE root = ?", (root, response))
            self._take(response, root)
        if pending is not None:
            self._merge(root, pending)
        if root in self._changes:
            change = self._changes[root]
            change.counts = [*change.counts[:1], change.counts[1] + branches, *change.counts[2:]]

    def _take(self, root: int, into: int) -> None:
        """Removes a row, and adds it to that of another tree."""
        row = self._session.row(f"{_READ}{self._statements.hold}", (root,))
        if row is None:
            return
        _, owner, first_at, *rest = row
        self._session.run("DELETE FROM tree WHERE root = ?", (root,))
        self._merge(into, Change(owner, first_at, Newest(*rest[: len(NEWEST)]), rest[len(NEWEST) :]))

    def _merge(self, root: int, change: Change) -> None:
        known = self._changes.get(root)
        if known is None:
            self._changes[root] = change
            change.is_new = False
        else:
            known.add(change.newest, change.counts)

    def flush(self) -> None:
        """Writes the rows in sorted order: two processes that change the same ones cannot lock each other out."""
        changes = sorted(self._changes.items())
        if new := [change.row(root) for root, change in changes if change.is_new]:
            self._session.run_many(self._statements.replace, new)
        for root, change in changes:
            if not change.is_new and not self._session.run(_UPDATE, change.update(root)):
                self._add_to_moved(root, change)

    def _add_to_moved(self, root: int, change: Change) -> None:
        """The row is not there: the tree has joined another one meanwhile, or an earlier release wrote the root."""
        top = top_of(self._session, root, change.owner)
        if top != root:
            self._session.run("UPDATE response SET root = ? WHERE root = ? OR pk = ?", (top, root, root))
        empty = Change(change.owner, change.first_at, change.newest)
        self._session.run(self._statements.unless_there, empty.row(top))
        self._session.run(_UPDATE, change.update(top))


# --- values -----------------------------------------------------------------------------------------------------


def turn_of(draft: Draft, outcome: Outcome, *, stored: bool) -> Turn | None:
    """What a turn adds beside its branch; None for a request that is no turn."""
    if not is_response(draft.id):
        return None
    is_compaction = outcome.compaction is not None and "failed" not in outcome.compaction
    counts = (
        1,
        0,
        int(outcome.compacted or is_compaction),
        failovers((attempt.channel, attempt.error) for attempt in outcome.attempts) if outcome.attempts else 0,
        int(outcome.status == "failed"),
        int(outcome.status == "cancelled"),
        int(outcome.status == "incomplete"),
        int(not stored),
        0,
        *_tokens(outcome.usage),
    )
    model, client = draft.model[:MAX_NAME], draft.client[:MAX_NAME] or None
    return Turn(draft.owner, draft.created_at, outcome.completed_at, model, client, _context(outcome), counts)


def failovers(attempts: Iterable[tuple[str, str | None]]) -> int:
    """How often a turn went on at another channel after a failure; of each attempt its channel and its error."""
    tried = list(attempts)
    return sum(error is not None and channel != following for (channel, error), (following, _) in pairwise(tried))


def _tokens(usage: Usage | None) -> Sequence[int]:
    if usage is None:
        return (0, 0, 0, 0, 0)
    return (
        usage.input_tokens,
        usage.cached_tokens,
        usage.output_tokens,
        usage.cost or 0,
        int(usage.cost is None),
    )


def _context(outcome: Outcome) -> int | None:
    after = outcome.compaction.get("after") if outcome.compaction else None
    if isinstance(after, int):
        return after
    return outcome.usage.total_tokens if outcome.usage is not None else None


def top_of(session: Session, response: int, owner: str) -> int:
    """The key of the root of a response's tree, found by its ancestors."""
    found = session.row(_TOP, (response, owner, owner))
    return int(found[0]) if found else response


# --- turns that end without their worker --------------------------------------------------------------------------


class Ending(NamedTuple):
    """A response that has not ended, as it is counted when another than its worker ends it."""

    key: int
    id: str
    owner: str
    root: int | None
    created_at: int
    model: str
    client: str | None
    kept: int


def ending(session: Session, condition: str, parameters: Sequence[Any]) -> list[Ending]:
    """The responses that are about to be ended. `condition`: SQL, with the dialect's `hold` where they may end
    meanwhile."""
    return [Ending._make(row) for row in session.rows(f"{_ENDING}{condition}", parameters)]


def count_ends(session: Session, statements: Statements, ended: Iterable[Ending], status: str, at: int) -> None:
    """Counts turns that were ended as `failed` or `cancelled`; what they used becomes known later or never."""
    sums = TreeSums(session, statements)
    for row in ended:
        if is_response(row.id):
            counts = list(NOTHING)
            counts[_PLACE["turns"]] = counts[_PLACE[status]] = 1
            counts[_PLACE["unstored"]] = int(not row.kept)
            turn = Turn(row.owner, row.created_at, at, row.model, row.client, None, tuple(counts))
            sums.add(row.key, row.root, turn)
    sums.flush()


def count_deleted(session: Session, response: int) -> None:
    """Counts a response whose content was removed. A tree of which nothing is left is listed no more."""
    for sql in (_COUNT_DELETED, _DELETE_EMPTIED):
        session.run(sql, (response,))


def forget_empty(session: Session, roots: Sequence[int]) -> None:
    """Deletes the rows of those trees that have no response any more."""
    marks = ", ".join("?" * len(roots))
    session.run(
        f"DELETE FROM tree WHERE root IN ({marks})"
        " AND NOT EXISTS (SELECT 1 FROM response WHERE response.pk = tree.root)"
        " AND NOT EXISTS (SELECT 1 FROM response WHERE response.root = tree.root)",
        roots,
    )
