"""The newest trees, as rows of a list. Every query reads an index; a filter that has none reads the newest `MOST` of
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from app.ids import known_id
from app.store.database import Database, Session
from app.store.tree import SHORTEST
from app.store.tree_sums import COLUMNS, COUNTERS

MOST = 10_000
"""Trees, and responses, that a search without an index reads; a count ends there too."""
FOUND = 100
"""Responses whose ids begin as it was searched for."""
SHOWN_TURNS = 60
"""The newest turns of each tree of which the list shows the context."""
TITLE = 4096
"""Characters of the root's input that a title is made of."""

_ORDER = "ORDER BY newest_at DESC, root DESC"
_ROW = (
    f"SELECT {', '.join(f't.{name}' for name in COLUMNS)}, r.id, n.id, r.kept, SUBSTR(c.input, 1, {TITLE})"
    " FROM ({keys}) k CROSS JOIN tree t ON t.root = k.root LEFT JOIN response r ON r.pk = t.root"
    " LEFT JOIN response n ON n.pk = t.newest"
    " LEFT JOIN content c ON c.response = t.root AND t.owner = ?"
)
_WITH_ID = "SELECT COALESCE(root, pk) AS found FROM response WHERE id = ?"
_BEGIN_SO = f"SELECT COALESCE(root, pk) AS found FROM response WHERE id >= ? AND id < ? ORDER BY id LIMIT {FOUND}"
#: Among the responses and the trees that were written last.
_END_SO = (
    "SELECT found FROM (SELECT COALESCE(root, pk) AS found, (id LIKE ?) AS fits FROM response"
    f" ORDER BY pk DESC LIMIT {MOST}) newest WHERE fits = 1"
    f" UNION SELECT r.pk AS found FROM (SELECT root FROM tree {_ORDER} LIMIT {MOST}) listed"
    " JOIN response r ON r.pk = listed.root WHERE r.id LIKE ?"
)
_POINT = (
    "SELECT pk, COALESCE(root, pk), COALESCE(parent, inferred), input_tokens,"
    " CASE WHEN compaction IS NULL OR compaction LIKE '%\"failed\"%' THEN 0 ELSE 1 END AS compacted FROM response"
)
_NEWEST_POINTS = f"SELECT * FROM ({_POINT} WHERE root = ? ORDER BY pk DESC LIMIT {SHOWN_TURNS}) points"
_COUNT = f"(SELECT COUNT(*) FROM (SELECT 1 FROM tree WHERE {{where}} LIMIT {MOST + 1}) counted)"

#: What a tree can be searched for, as conditions on its row.
CONDITIONS: Mapping[str, str] = {
    "branch": "branches > 0",
    "compaction": "compactions > 0",
    "failover": "failovers > 0",
    "error": "failed > 0",
    "unstored": "unstored >= turns",
}


class Place(NamedTuple):
    """Where a page begins: behind this tree."""

    newest_at: int
    root: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which trees are listed: those that have all of the stated values."""

    owner: str | None = None
    model: str | None = None
    """Of the newest turn, as the client."""
    client: str | None = None
    has: str | None = None
    """One of `CONDITIONS`."""
    id: str | None = None
    """The id of a response of the tree, the beginning of one, or its end."""

    @property
    def is_filtered(self) -> bool:
        """By something that has no index."""
        return any((self.model, self.client, self.has))


@dataclass(frozen=True, slots=True)
class TreeRow:
    """One tree. Times are unix seconds."""

    root: int
    owner: str
    first_at: int
    newest_at: int
    model: str
    """Of the newest turn."""
    client: str | None
    context: int | None
    """Tokens of the newest turn's context with its answer; None if they are unknown."""
    counts: Mapping[str, int]
    """By the names of `tree_sums.COUNTERS`."""
    id: str
    """Of the root; of the newest turn if the root was pruned."""
    newest: str | None
    """The id of the newest turn."""
    stored: bool | None
    """Whether the root's content was stored; None if the root was pruned."""
    input: str | None
    """How the root's input begins, as JSON that may be cut; None if it is not stored, or is another owner's."""

    @property
    def place(self) -> Place:
        return Place(self.newest_at, self.root)

    @property
    def cost(self) -> int | None:
        """Micro-units: the sum of the known costs; None if none is known."""
        counts = self.counts
        return None if counts["unpriced"] and not counts["cost"] else counts["cost"]

    def wire(self) -> dict[str, Any]:
        counts = {name: count for name, count in self.counts.items() if name != "cost"}
        return {
            "id": self.id,
            "newest": self.newest,
            "owner": self.owner,
            "first_at": self.first_at,
            "newest_at": self.newest_at,
            "model": self.model,
            "client": self.client,
            "context": self.context,
            **counts,
            "cost_micros": self.cost,
        }


class Point(NamedTuple):
    """A turn of a tree, as a list draws its context."""

    key: int
    root: int
    above: int | None
    """The key of its parent, named or inferred."""
    input_tokens: int | None
    is_compaction: int


class TreeList:
    def __init__(self, database: Database) -> None:
        self._database = database

    def newest(
        self, scope: str | None, reader: str | None, wanted: Wanted, limit: int, before: Place | None = None
    ) -> list[TreeRow]:
        """The newest trees, at most so many. `scope`: the owner whose trees are listed; None for those of all.
        `reader`: the owner whose inputs are read; None for none.
        """
        if scope is not None and wanted.owner not in (None, scope):
            return []
        keys, parameters = _keys(scope or wanted.owner, wanted, limit, before)
        sql = _ROW.format(keys=keys)
        rows = self._database.read(partial(Session.rows, sql=sql, parameters=(*parameters, reader or "")))
        return sorted(map(_row, rows), key=lambda row: row.place, reverse=True)

    def counts(self, scope: str | None, since: int) -> tuple[int, int]:
        """How many trees have a turn that ended since a time, and how many there are; `MOST + 1` for any more."""
        owned, owner = ("owner = ?", [scope]) if scope is not None else ("1 = 1", [])
        sql = f"SELECT {_COUNT.format(where=f'{owned} AND newest_at >= ?')}, {_COUNT.format(where=owned)}"
        row = self._database.read(partial(Session.row, sql=sql, parameters=(*owner, since, *owner)))
        return (int(row[0]), int(row[1])) if row else (0, 0)

    def points(self, trees: Sequence[TreeRow]) -> list[Point]:
        """The roots and the newest turns of these trees."""
        keys = [tree.root for tree in trees]
        if not keys:
            return []
        roots = f"{_POINT} WHERE pk IN ({', '.join('?' * len(keys))})"
        sql = " UNION ALL ".join([roots, *([_NEWEST_POINTS] * len(keys))])
        rows = self._database.read(partial(Session.rows, sql=sql, parameters=(*keys, *keys)))
        return [Point._make(row) for row in rows]


def can_search(text: str) -> bool:
    """Whether the text can be an id, the beginning of one or its end."""
    return known_id(text.lstrip("…"))


def _keys(owner: str | None, wanted: Wanted, limit: int, before: Place | None) -> tuple[str, tuple[Any, ...]]:
    """The SQL of the keys of the listed rows. A condition without an index is a column of the rows that it is asked of:
    temporary tables of numbers are small."""
    fits, stated = _fits(wanted)
    where, values = _where(owner, before)
    if wanted.id is not None:
        found, searched = _found(wanted.id)
        # From the found ones to their trees, never the other way round: those that are none come last, with NULL.
        source = f"({found}) searched LEFT JOIN tree ON tree.root = searched.found AND {where or '1 = 1'}"
        window, parameters = f"SELECT root, newest_at{fits} FROM {source}", (*stated, *searched, *values)
    else:
        condition = f"WHERE {where}" if where else ""
        window, parameters = f"SELECT root, newest_at{fits} FROM tree {condition}", (*stated, *values)
    if not fits:
        return f"{window} {_ORDER} LIMIT {limit}", parameters
    return f"SELECT root FROM ({window} {_ORDER} LIMIT {MOST}) listed WHERE fits = 1 {_ORDER} LIMIT {limit}", parameters


def _fits(wanted: Wanted) -> tuple[str, list[str]]:
    """The column that tells whether a tree fits the filters, with its parameters; empty without filters."""
    filters = {"model = ?": wanted.model, "client = ?": wanted.client}
    stated = {condition: value for condition, value in filters.items() if value}
    conditions = [*stated, *([CONDITIONS[wanted.has]] if wanted.has else [])]
    return (f", ({' AND '.join(conditions)}) AS fits" if conditions else ""), [*stated.values()]


def _where(owner: str | None, before: Place | None) -> tuple[str, tuple[Any, ...]]:
    """The condition for the trees of an owner, behind a place."""
    parts: list[tuple[str, tuple[Any, ...]]] = []
    if owner is not None:
        parts.append(("owner = ?", (owner,)))
    if before is not None:
        parts.append(
            ("newest_at <= ? AND (newest_at < ? OR root < ?)", (before.newest_at, before.newest_at, before.root))
        )
    return " AND ".join(condition for condition, _ in parts), tuple(value for _, values in parts for value in values)


def _found(text: str) -> tuple[str, tuple[str, ...]]:
    """The SQL of the trees of the responses that have such an id."""
    if not text.startswith("resp_"):
        end = text.lstrip("…")
        return _END_SO, (f"%{end}", f"%{end}")
    return (_WITH_ID, (text,)) if len(text) < SHORTEST else (_BEGIN_SO, (text, f"{text}~"))


def _row(row: Sequence[Any]) -> TreeRow:
    values = dict(zip(COLUMNS, row, strict=False))
    root_id, newest_id, stored, input = row[len(COLUMNS) :]
    return TreeRow(
        root=values["root"],
        owner=values["owner"],
        first_at=values["first_at"],
        newest_at=values["newest_at"],
        model=values["model"],
        client=values["client"],
        context=values["context"],
        counts={name: int(values[name]) for name in COUNTERS},
        id=root_id or newest_id or "",
        newest=newest_id,
        stored=None if root_id is None else bool(stored),
        input=input,
    )
