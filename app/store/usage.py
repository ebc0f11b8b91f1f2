"""The sums of usage, read for reports. They grow with each written response (see `sums`), so that no query counts raw
rows; only what no sum knows is read from the newest of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from app.store.database import Database, Row, Session
from app.store.sums import COLUMNS, SLOT_COUNTERS, SLOT_SECONDS, TOOL_COLUMNS

#: Single responses that one report reads.
NEWEST = 10_000

_GROUPED = {
    "day": "u.day",
    "token": "u.token",
    "token_name": "t.name",
    "owner": "t.owner",
    "model": "u.model",
    "channel": "u.channel",
}
_SUMS = ", ".join(f"SUM(u.{counter})" for counter in COLUMNS)

#: What a list of tokens shows of each.
_OF_ONE = "SUM(u.requests), SUM(u.cost), SUM(u.priced), SUM(u.requests - u.priced - u.unused)"

_SINGLE = (
    "SELECT r.completed_at, r.token, t.name, r.owner, r.model, COALESCE(r.channel, ''), COALESCE(r.client, ''),"
    " r.status, r.estimated, r.input_tokens, r.cached_tokens, r.cache_write_tokens, r.output_tokens,"
    " r.reasoning_tokens, r.cost, r.first_byte_ms, r.total_ms"
    f" FROM (SELECT * FROM response ORDER BY pk DESC LIMIT {NEWEST}) r LEFT JOIN token t ON t.pk = r.token"
    " WHERE r.completed_at >= ? AND r.total_ms IS NOT NULL"
)


class SingleResponse(NamedTuple):
    """What a report counts of one response."""

    completed_at: int
    token: int | None
    token_name: str | None
    owner: str
    model: str
    channel: str
    """Empty if none was asked."""
    client: str
    """Empty if unknown."""
    status: str
    estimated: int
    input_tokens: int | None
    cached_tokens: int | None
    cache_write_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    cost: int | None
    first_byte_ms: int | None
    total_ms: int


class TokenSums(NamedTuple):
    requests: int
    cost: int
    """The sum of the known ones, in micro-units."""
    priced: int
    """Responses whose cost is known."""
    unpriced: int
    """Responses that used tokens and whose cost is unknown."""


class UsageSums:
    def __init__(self, database: Database) -> None:
        self._database = database

    def since(self, day: str, by: Sequence[str] = tuple(_GROUPED)) -> list[dict[str, Any]]:
        """Sums of `day` (YYYY-MM-DD, UTC) and later, by any of day, token, token_name, owner, model and channel, in
        their order: the columns of `sums.COLUMNS`. The name and the owner of a removed token are None."""
        groups = ", ".join(_GROUPED[name] for name in by)
        rows = self._rows(
            f"SELECT {groups}, {_SUMS} FROM usage_day u LEFT JOIN token t ON t.pk = u.token WHERE u.day >= ?"
            f" GROUP BY {groups} ORDER BY {groups}",
            day,
        )
        return [_counted(by, row) for row in rows]

    def by_token(self, owner: str | None, day: str) -> dict[int, TokenSums]:
        """What each token has used since a day, by its key; `owner`: only the tokens of an owner."""
        of_owner = "" if owner is None else " JOIN token t ON t.pk = u.token AND t.owner = ?"
        sql = f"SELECT u.token, {_OF_ONE} FROM usage_day u{of_owner} WHERE u.day >= ? GROUP BY u.token"
        parameters = (day,) if owner is None else (owner, day)
        rows = self._database.read(lambda session: session.rows(sql, parameters))
        return {int(row[0]): TokenSums(*_whole(row[1:])) for row in rows}

    def clients(self, day: str) -> list[dict[str, Any]]:
        """Sums by client since a day, each client once."""
        rows = self._rows(f"SELECT u.client, {_SUMS} FROM usage_client u WHERE u.day >= ? GROUP BY u.client", day)
        return [_counted(["client"], row) for row in rows]

    def tools(self, day: str) -> list[dict[str, Any]]:
        """Calls by server and tool since a day, most calls first."""
        sums = ", ".join(f"SUM({counter})" for counter in TOOL_COLUMNS)
        rows = self._rows(
            f"SELECT server, tool, {sums} FROM usage_tool WHERE day >= ? GROUP BY server, tool"
            " ORDER BY SUM(calls) DESC, server, tool",
            day,
        )
        return [dict(zip(("server", "tool", *TOOL_COLUMNS), row, strict=True)) for row in rows]

    def slots(self, since: int) -> list[dict[str, Any]]:
        """Five-minute sums by channel from a unix time on, oldest first; `slot` is the unix time divided by
        `SLOT_SECONDS`; `cooldowns` counts the reports that the channel was in cooldown. Sums of more than two days ago
        are gone."""
        columns = ("slot", "channel", *SLOT_COUNTERS, "cooldowns")
        rows = self._rows(
            f"SELECT {', '.join(columns)} FROM usage_slot WHERE slot >= ? ORDER BY slot, channel", since // SLOT_SECONDS
        )
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def newest(self, since: int) -> list[SingleResponse]:
        """Those of the newest `NEWEST` responses that ended at a unix time or later."""
        return [SingleResponse._make(row) for row in self._rows(_SINGLE, since)]

    def _rows(self, sql: str, since: str | int) -> list[Row]:
        def read(session: Session) -> list[Row]:
            return session.rows(sql, (since,))

        return self._database.read(read)


def _counted(by: Sequence[str], row: Row) -> dict[str, Any]:
    names = len(by)
    return {**dict(zip(by, row[:names], strict=True)), **dict(zip(COLUMNS, _whole(row[names:]), strict=True))}


def _whole(counts: Sequence[Any]) -> tuple[int, ...]:
    """Sums as whole numbers: MySQL gives decimals."""
    return tuple(map(int, counts))
