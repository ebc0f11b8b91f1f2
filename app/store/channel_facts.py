"""What the database knows of all channels beside their sums: pauses, remedies, newest failures. A page reads them with
one statement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from time import time
from typing import NamedTuple

from app.contract.pauses import Pause
from app.contract.remedies import LIFETIME, LearntRemedy
from app.store.database import Database, Row
from app.store.pauses import COOLDOWN_ENDED, pause_of
from app.store.recent_errors import CHANNEL, MOST, NEWEST, RecentError
from app.store.remedies import remedy_of

#: Seconds after which every worker has noticed an order and reported its state.
NOTICED = 4
#: Each part: its kind, its channel, three numbers, five texts, and the key that orders its rows.
_ALL = f"""
    SELECT 'pause', channel, began_at, ends_at, {{now}}, actor, reason, NULL, NULL, NULL, 0
    FROM channel_pause
    WHERE ends_at IS NULL OR ends_at > {{now}} OR (ends_at = {COOLDOWN_ENDED} AND began_at > {{now}} - {NOTICED})
    UNION ALL
    SELECT 'remedy', channel, learnt_at, NULL, NULL, model, digest, remedy, NULL, NULL, learnt_at
    FROM remedy WHERE learnt_at > ?
    UNION ALL
    SELECT 'error', e.name, e.at, e.status, NULL, e.code, e.message, e.owner, r.id, r.request_id, e.pk
    FROM (SELECT * FROM recent_error WHERE kind = '{CHANNEL}' ORDER BY pk DESC LIMIT {MOST}) e
    LEFT JOIN response r ON r.pk = e.response
"""


class ChannelFacts(NamedTuple):
    pauses: Sequence[Pause]
    cooldowns_ended: frozenset[str]
    """Channels whose cooldown was ended a moment ago: workers may not have reported it yet."""
    remedies: Sequence[LearntRemedy]
    """Oldest first."""
    errors: Mapping[str, Sequence[RecentError]]
    """By channel, newest first."""


class ChannelFactsStore:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._all = _ALL.format(now=database.dialect.now)

    def read(self) -> ChannelFacts:
        rows = self._database.read(lambda session: session.rows(self._all, (int(time()) - LIFETIME,)))
        kinds: dict[str, list[Row]] = {"pause": [], "remedy": [], "error": []}
        for kind, *facts, _ in sorted(rows, key=lambda row: row[-1]):
            kinds[kind].append(tuple(facts))
        remedies = [
            remedy_of((channel, model, digest, text, at))
            for channel, at, _, _, model, digest, text, *_ in kinds["remedy"]
        ]
        orders = [
            pause_of((channel, *times, by, why, now)) for channel, *times, now, by, why, _, _, _ in kinds["pause"]
        ]
        return ChannelFacts(
            [order for order in orders if order.until != COOLDOWN_ENDED],
            frozenset(order.channel for order in orders if order.until == COOLDOWN_ENDED),
            [learnt for learnt in remedies if learnt is not None],
            _errors(reversed(kinds["error"])),
        )


def _errors(rows: Iterable[Row]) -> Mapping[str, Sequence[RecentError]]:
    found: dict[str, list[RecentError]] = {}
    for name, at, status, _, code, message, owner, response, request in rows:
        named = found.setdefault(name, [])
        if len(named) < NEWEST:
            named.append(RecentError(CHANNEL, name, at, status, code, message, owner, response, request))
    return found
