"""What a page needs to say whether anything is wrong: tokens with their use, the states that alerts have written, the
schema's version, and whether background responses have a worker. One query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from app.contract.limits import Limits
from app.store.database import Database
from app.store.token_counters import Counters, Windows

_TOKENS = (
    "SELECT 'token', t.name, t.owner, t.limits, t.expires_at, u.day, u.month, u.day_tokens, u.day_micro,"
    " u.month_tokens, u.month_micro, t.pk, {now} FROM token t LEFT JOIN token_use u ON u.token = t.pk"
    " WHERE t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > {now})"
)
_NOTHING = ", ".join(["NULL"] * 7)
_SYSTEM = (
    f"SELECT 'alert', name, state, NULL, changed_at, {_NOTHING}, {{now}} FROM alert"
    f" UNION ALL SELECT 'schema', NULL, NULL, NULL, MAX(version), {_NOTHING}, {{now}} FROM schema_version"
    f" UNION ALL SELECT 'background', NULL, NULL, NULL, COUNT(*), {_NOTHING}, {{now}} FROM worker"
    " WHERE background = 1 AND lease_until >= {now}"
)


class TokenStanding(NamedTuple):
    """A token that works, and what it has used in the present day and month."""

    key: int
    name: str
    owner: str
    limits: Limits
    """As they are stated for it: the table's are not among them."""
    expires_at: int | None
    counters: Counters


class State(NamedTuple):
    state: str
    changed_at: int | None


@dataclass(frozen=True, slots=True)
class Standing:
    now: int
    """The database's clock."""
    tokens: Sequence[TokenStanding]
    states: Mapping[str, State]
    """By what they are about; empty for an owner."""
    schema: int | None = None
    background_workers: int | None = None
    """Live ones on all hosts."""


class Standings:
    def __init__(self, database: Database) -> None:
        self._database = database
        now = database.dialect.now
        self._owned = f"{_TOKENS} AND t.owner = ?".format(now=now)
        self._all = f"{_TOKENS} UNION ALL {_SYSTEM}".format(now=now)

    def read(self, scope: str | None) -> Standing:
        """`scope`: the owner whose tokens are read, and nothing else; None for all."""
        sql, parameters = (self._all, ()) if scope is None else (self._owned, (scope,))
        rows = self._database.read(lambda session: session.rows(sql, parameters))
        numbers = {kind: number for kind, _, _, _, number, *_ in rows}
        return Standing(
            rows[0][-1] if rows else 0,
            [_token(*row[1:]) for row in rows if row[0] == "token"],
            {name: State(state, at) for kind, name, state, _, at, *_ in rows if kind == "alert"},
            numbers.get("schema"),
            numbers.get("background"),
        )


def _token(
    name: str,
    owner: str,
    limits: str | None,
    expires_at: int | None,
    day: int | None,
    month: int | None,
    day_tokens: int,
    day_micro: int,
    month_tokens: int,
    month_micro: int,
    key: int,
    now: int,
) -> TokenStanding:
    """A day or a month that is over counts as empty."""
    windows = Windows.at(now)
    today = (day_tokens, day_micro) if day is not None and day >= windows.day else (0, 0)
    this_month = (month_tokens, month_micro) if month is not None and month >= windows.month else (0, 0)
    return TokenStanding(
        key,
        name,
        owner,
        Limits.of(orjson.loads(limits)) if limits else Limits(),
        expires_at,
        Counters(0, 0, *today, *this_month),
    )
