"""The figures of a period for a page: by hour or day, and by owner, model, channel and client. One query reads them all
from the sums, for everyone or for one owner.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from app.store.database import Database
from app.store.sums import FIRST_TOKEN_BUCKETS, HOUR_COLUMNS, HOUR_COUNTERS, HOUR_SECONDS

#: The parts: one row for each hour or day, for each group, for each client, for the month, and for the conversations.
STEP, GROUP, CLIENT, MONTH, CONVERSATIONS = "step", "group", "client", "month", "conversations"
MOST_CONVERSATIONS = 10_000
"""More are not counted."""

_COUNTERS = ", ".join(f"SUM(u.{counter})" for counter in HOUR_COUNTERS)
_TIMES = ", ".join(f"SUM(u.{bucket})" for bucket in FIRST_TOKEN_BUCKETS)
_NO_TIMES = ", ".join("0" for _ in FIRST_TOKEN_BUCKETS)
_GROUPED = ", ".join(f"g.{counter}" for counter in HOUR_COUNTERS)
_NO_CLIENT = ", ''"
#: MySQL looks a token up once; a subquery with IN it joins to each row.
_OF_OWNER = " AND (SELECT o.owner FROM token o WHERE o.pk = u.token) = ?"


class Figures(NamedTuple):
    """The sums of one row of a part."""

    part: str
    step: int | str
    """The hour, as unix time divided by 3600, or the day as YYYY-MM-DD; 0 in other parts."""
    owner: str
    """Empty for a removed token."""
    model: str
    channel: str
    """Empty if none was asked."""
    client: str
    """Empty if unknown."""
    counts: Sequence[int]
    """Values of `sums.HOUR_COLUMNS`. Only a step has times. Of the conversations, the first is their number."""


class PeriodFigures:
    def __init__(self, database: Database) -> None:
        self._database = database

    def hours(self, scope: str | None, since: int, month: str) -> list[Figures]:
        """From an hour on, which is unix time divided by 3600, and since the day on which the month began. `scope`: the
        owner whose they are; None for all. Hours of more than two days ago are gone."""
        parts: list[tuple[str, str | int]] = [
            (_steps("usage_hour", "hour", scope), since),
            (_groups("usage_hour", "hour", scope, ", client"), since),
            (_month(scope), month),
            (_conversations(scope), since * HOUR_SECONDS),
        ]
        return self._read(scope, parts)

    def days(self, scope: str | None, since: str, month: str) -> list[Figures]:
        """The same from a day on, YYYY-MM-DD in UTC. A month that began since is the sum of its days. The clients of
        one owner are unknown."""
        parts: list[tuple[str, str | int]] = [
            (_steps("usage_day", "day", scope), since),
            (_groups("usage_day", "day", scope), since),
            (_conversations(scope), int(datetime.fromisoformat(since).replace(tzinfo=UTC).timestamp())),
        ]
        if scope is None:
            parts.append((_CLIENTS, since))
        if month < since:
            parts.append((_month(scope), month))
        return self._read(scope, parts)

    def _read(self, scope: str | None, parts: Sequence[tuple[str, str | int]]) -> list[Figures]:
        """`parts`: queries, with where each begins."""
        owner = () if scope is None else (scope,)
        sql = " UNION ALL ".join(query for query, _ in parts)
        parameters = [value for _, begin in parts for value in (begin, *owner)]
        rows = self._database.read(lambda session: session.rows(sql, parameters))
        # MySQL's sums are decimals, and its step is a text because those of other parts are.
        return [Figures._make([*row[:6], [int(count) for count in row[6:]]]) for row in rows]


def _steps(table: str, step: str, scope: str | None) -> str:
    return (
        f"SELECT '{STEP}', u.{step}, '', '', '', '', {_COUNTERS}, {_TIMES} FROM {table} u"
        f" WHERE u.{step} >= ?{_owned(scope)} GROUP BY u.{step}"
    )


def _groups(table: str, step: str, scope: str | None, client: str = "") -> str:
    """`client`: `, column` where the table has one. The tokens are joined to the sums, not to each row."""
    sums = ", ".join(f"SUM({counter}) AS {counter}" for counter in HOUR_COUNTERS)
    return (
        f"SELECT '{GROUP}', 0, COALESCE(t.owner, ''), g.model, g.channel{client or _NO_CLIENT}, {_GROUPED}, {_NO_TIMES}"
        f" FROM (SELECT u.token, u.model, u.channel{client}, {sums} FROM {table} u WHERE u.{step} >= ?{_owned(scope)}"
        f" GROUP BY u.token, u.model, u.channel{client}) g LEFT JOIN token t ON t.pk = g.token"
    )


_CLIENTS = (
    f"SELECT '{CLIENT}', 0, '', '', '', u.client, {_COUNTERS}, {_NO_TIMES} FROM usage_client u"
    " WHERE u.day >= ? GROUP BY u.client"
)


def _month(scope: str | None) -> str:
    return (
        f"SELECT '{MONTH}', 0, '', '', '', '', {_COUNTERS}, {_NO_TIMES} FROM usage_day u"
        f" WHERE u.day >= ?{_owned(scope)} HAVING COUNT(*) > 0"
    )


def _conversations(scope: str | None) -> str:
    """Those with a turn in the period, up to a number that an index gives at once."""
    owned = "" if scope is None else " AND owner = ?"
    nothing = ", ".join("0" for _ in HOUR_COLUMNS[1:])
    return (
        f"SELECT '{CONVERSATIONS}', 0, '', '', '', '', COUNT(*), {nothing} FROM"
        f" (SELECT root FROM tree WHERE newest_at >= ?{owned} LIMIT {MOST_CONVERSATIONS + 1}) n"
    )


def _owned(scope: str | None) -> str:
    return "" if scope is None else _OF_OWNER
