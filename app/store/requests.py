"""Single requests for pages, newest first. A page reads at most the newest 10,000 rows from where it begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from app.contract.records import RUNNING
from app.ids import known_id
from app.store.database import Database, Row, Session

#: Rows among which one page searches.
MOST = 10_000
_END = 2**63 - 1

_COLUMNS = (
    "SELECT r.pk, r.id, r.status, r.created_at, r.completed_at, r.model, r.upstream_model, r.channel,"
    " t.name AS token_name, r.token, r.owner, r.client, r.input_tokens, r.cached_tokens, r.output_tokens,"
    " r.reasoning_tokens, r.estimated, r.cost, r.first_byte_ms, r.total_ms, r.request_id, r.streamed, r.kept,"
    " r.deleted_at, p.id AS parent_id, p.channel AS parent_channel, r.error, r.incomplete_details, r.attempts,"
    " r.compaction"
    " FROM response r LEFT JOIN token t ON t.pk = r.token LEFT JOIN response p ON p.pk = COALESCE(r.parent, r.inferred)"
)


class RequestRow(NamedTuple):
    """One request without its content."""

    key: int
    id: str
    status: str
    created_at: int
    completed_at: int | None
    model: str
    upstream_model: str | None
    channel: str | None
    token: str | None
    """Its name."""
    token_key: int | None
    owner: str
    client: str | None
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    estimated: int
    cost: int | None
    """Micro-units."""
    first_byte_ms: int | None
    total_ms: int | None
    request_id: str | None
    streamed: int
    stored: int
    deleted_at: int | None
    parent: str | None
    """The response that it continues, as far as that is known."""
    parent_channel: str | None
    error: Mapping[str, Any] | None
    incomplete_details: Mapping[str, Any] | None
    attempts: Sequence[Mapping[str, Any]]
    """Empty when the first one sufficed."""
    compaction: Mapping[str, Any] | None

    @property
    def running(self) -> bool:
        return self.status in RUNNING

    @property
    def has_content(self) -> bool:
        return bool(self.stored) and self.deleted_at is None


#: Conditions without a parameter, by the name of a status or a kind.
STATUSES: Mapping[str, str] = {
    "completed": "r.status = 'completed'",
    "failed": "r.status = 'failed'",
    "incomplete": "r.status = 'incomplete'",
    "cancelled": "r.status = 'cancelled'",
    # One failure and an attempt after it.
    "2nd try or later": "r.status = 'completed' AND r.attempts LIKE '%\"error\":\"%'",
    "in flight": "r.status IN ('queued', 'in_progress')",
}
KINDS: Mapping[str, str] = {
    "streamed": "r.streamed = 1",
    "JSON": "r.streamed = 0",
    "compaction": "r.compaction IS NOT NULL",
    "not stored": "r.kept = 0",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which requests are shown: those that have all of the stated values. An empty one matches all."""

    request: str = ""
    """Its request id."""
    owner: str = ""
    token: str = ""
    model: str = ""
    channel: str = ""
    """Also one that was tried in vain."""
    client: str = ""
    status: str = ""
    """One of `STATUSES`."""
    kind: str = ""
    """One of `KINDS`."""

    def condition(self) -> tuple[str, list[str]]:
        """SQL that begins with AND, or nothing; and its parameters. The owner is not among it."""
        conditions, parameters = [], []
        for value, sql in (
            (self.request, "r.request_id = ?"),
            (self.token, "t.name = ?"),
            (self.model, "r.model = ?"),
            (self.client, "r.client = ?"),
        ):
            if value:
                conditions.append(sql)
                parameters.append(value)
        if self.channel:
            conditions.append("(r.channel = ? OR INSTR(r.attempts, ?) > 0)")
            parameters += [self.channel, f'"channel":{orjson.dumps(self.channel).decode()}']
        conditions += [table[name] for table, name in ((STATUSES, self.status), (KINDS, self.kind)) if name in table]
        return "".join(f" AND {condition}" for condition in conditions), parameters


class RequestPage(NamedTuple):
    rows: Sequence[RequestRow]
    before: int | None
    """The key below which older rows are, as far as it is known that there are some."""
    searched: bool
    """Whether rows were searched only as far as the newest `MOST`."""
    selected: RequestRow | None
    """The one that was asked for by its id, on this page or not."""


class Requests:
    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self, scope: str | None, wanted: Wanted, count: int, before: int | None = None, selected: str = ""
    ) -> RequestPage:
        """The newest of the wanted requests, from below the key `before`, in at most two statements. `scope`: the owner
        whose requests are read; None for all. `selected`: id of a response that is read as well."""
        query = _Query(scope, wanted, _END if before is None else before, selected)
        return self._database.read(lambda session: _page(session, query, count))

    def find(self, scope: str | None, response_id: str) -> RequestRow | None:
        """One request by the id of its response; None for that of another owner than `scope`."""
        if not known_id(response_id):
            return None
        of_scope = "" if scope is None else " AND r.owner = ?"
        values = [response_id, *([] if scope is None else [scope])]
        row = self._database.read(lambda session: session.row(f"{_COLUMNS} WHERE r.id = ?{of_scope}", values))
        found = None if row is None else _row(row)
        return found if found is not None and found.id == response_id else None


@dataclass(frozen=True, slots=True)
class _Query:
    scope: str | None
    wanted: Wanted
    end: int
    selected: str

    def condition(self) -> tuple[str, list[str]]:
        """SQL that begins with AND, or nothing; and its parameters. No index leads from an owner to the rows, so that
        the owner is a filter like any other."""
        condition, parameters = self.wanted.condition()
        owner = self.wanted.owner if self.scope is None else self.scope
        return (f" AND r.owner = ?{condition}", [owner, *parameters]) if owner else (condition, parameters)


def _page(session: Session, query: _Query, count: int) -> RequestPage:
    condition, parameters = query.condition()
    floor = _floor(session, query) if condition else 0
    sql = (
        f"SELECT * FROM ({_COLUMNS} WHERE r.pk < ? AND r.pk >= ?{condition} ORDER BY r.pk DESC LIMIT {count + 1}) page"
    )
    values: list[Any] = [query.end, floor, *parameters]
    if known_id(query.selected):
        of_scope = "" if query.scope is None else " AND r.owner = ?"
        sql = f"{sql} UNION ALL {_COLUMNS} WHERE r.id = ?{of_scope}"
        values += [query.selected, *([] if query.scope is None else [query.scope])]
    found = list(map(_row, session.rows(sql, values)))
    selected = next((row for row in found if query.selected and row.id == query.selected), None)
    if selected is not None:
        # It was read by itself, and with the page if it is there: a union keeps no order.
        found.remove(selected)
    rows = sorted(found, key=lambda row: -row.key)
    if len(rows) > count:
        return RequestPage(rows[:count], rows[count - 1].key, searched=False, selected=selected)
    return RequestPage(rows, floor or None, searched=floor > 0, selected=selected)


def _floor(session: Session, query: _Query) -> int:
    """The lowest key among the rows that are searched; 0 when these are all."""
    sql = f"SELECT r.pk FROM response r WHERE r.pk < ? ORDER BY r.pk DESC LIMIT 1 OFFSET {MOST}"
    found = session.row(sql, (query.end,))
    return int(found[0]) + 1 if found else 0


def _json(text: str | None) -> Any:
    return orjson.loads(text) if text else None


def _row(row: Row) -> RequestRow:
    *facts, error, incomplete, attempts, compaction = row
    return RequestRow._make([*facts, _json(error), _json(incomplete), _json(attempts) or (), _json(compaction)])
