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

_LIST = ", ".join(COLUMNS)
_ORDER = "ORDER BY newest_at DESC, root DESC"
_ROW = (
    f"SELECT {', '.join(f't.{name}' for name in COLUMNS)}, r.id, n.id, r.kept, SUBSTR(c.input, 1, {TITLE})"
    " FROM ({trees}) t LEFT JOIN response r ON r.pk = t.root LEFT JOIN response n ON n.pk = t.newest"
    " LEFT JOIN content c ON c.response = t.root AND t.owner = ?"
)
_WITH_ID = "SELECT COALESCE(root, pk) AS found FROM response WHERE id = ?"
_BEGIN_SO = f"SELECT COALESCE(root, pk) AS found FROM response WHERE id >= ? AND id < ? ORDER BY id LIMIT {FOUND}"
#: Among the responses and the trees that were written last.
_END_SO = (
    f"SELECT COALESCE(root, pk) AS found FROM (SELECT pk, root, id FROM response ORDER BY pk DESC LIMIT {MOST}) newest"
    f" WHERE id LIKE ? UNION SELECT r.pk AS found FROM (SELECT root FROM tree {_ORDER} LIMIT {MOST}) listed"
    " JOIN response r ON r.pk = listed.root WHERE r.id LIKE ?"
)
_POINT = "SELECT pk, COALESCE(root, pk), COALESCE(parent, inferred), input_tokens, compaction FROM response"
_NEWEST_POINTS = f"SELECT * FROM ({_POINT} WHERE root = ? ORDER BY pk DESC LIMIT {SHOWN_TURNS}) points"
_COUNT = f"(SELECT COUNT(*) FROM (SELECT 1 FROM tree {{where}} LIMIT {MOST + 1}) counted)"

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
    stored: bool
    """Whether the root's content was stored."""
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
    compaction: str | None
    """JSON."""


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
        trees, parameters = _trees(scope or wanted.owner, wanted, limit, before)
        rows = self._database.read(
            partial(Session.rows, sql=_ROW.format(trees=trees), parameters=(*parameters, reader or ""))
        )
        return sorted(map(_row, rows), key=lambda row: row.place, reverse=True)

    def counts(self, scope: str | None, since: int) -> tuple[int, int]:
        """How many trees have a turn that ended since a time, and how many there are; `MOST + 1` for any more."""
        recent, recently = _where(scope, ("newest_at >= ?",), (since,))
        all_, any_time = _where(scope, (), ())
        sql = f"SELECT {_COUNT.format(where=recent)}, {_COUNT.format(where=all_)}"
        row = self._database.read(partial(Session.row, sql=sql, parameters=(*recently, *any_time)))
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


def _trees(owner: str | None, wanted: Wanted, limit: int, before: Place | None) -> tuple[str, tuple[Any, ...]]:
    """The SQL of the listed rows."""
    conditions: list[str] = []
    parameters: list[Any] = []
    if before is not None:
        conditions.append("newest_at <= ? AND (newest_at < ? OR root < ?)")
        parameters += (before.newest_at, before.newest_at, before.root)
    if wanted.id is not None:
        found, searched = _found(wanted.id)
        conditions.append(f"root IN (SELECT found FROM ({found}) searched)")
        parameters += searched
    where, values = _where(owner, conditions, parameters)
    if not wanted.is_filtered:
        return f"SELECT {_LIST} FROM tree {where} {_ORDER} LIMIT {limit}", values
    filters = {"model = ?": wanted.model, "client = ?": wanted.client}
    stated = {condition: value for condition, value in filters.items() if value}
    if wanted.has:
        stated[CONDITIONS[wanted.has]] = ""
    window = f"SELECT {_LIST} FROM tree {where} {_ORDER} LIMIT {MOST}"
    sql = f"SELECT {_LIST} FROM ({window}) listed WHERE {' AND '.join(stated)} {_ORDER} LIMIT {limit}"
    return sql, (*values, *filter(None, stated.values()))


def _where(owner: str | None, conditions: Sequence[str], parameters: Sequence[Any]) -> tuple[str, tuple[Any, ...]]:
    if owner is not None:
        conditions, parameters = ("owner = ?", *conditions), (owner, *parameters)
    return (f"WHERE {' AND '.join(conditions)}" if conditions else ""), tuple(parameters)


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
        stored=bool(stored),
        input=input,
    )
