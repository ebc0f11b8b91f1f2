"""Sums that grow with each ended response and each call of a tool, so that no report scans rows. What one transaction
adds to a counter is gathered first and written once, in sorted order.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import add, itemgetter
from typing import Any, NamedTuple, TypeVar

from app.contract.usage import Usage
from app.store.database import Session
from app.store.dialects import Dialect

COUNTERS = (
    "requests",
    "failed",
    "estimated",
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost",
    "priced",
    "unused",
)
"""`cost` is the sum of the known ones, in micro-units. `priced` counts the responses whose cost is known, `unused`
those that used no tokens; the cost of all others is unknown."""

#: Upper bounds of the buckets in milliseconds. The last bucket of each has none.
FIRST_TOKEN_BOUNDS = (50, 100, 200, 300, 500, 750, 1000, 1500, 2000, 3000, 5000, 7500, 10_000, 20_000, 60_000)
TOTAL_BOUNDS = (100, 250, 500, 1000, 2000, 3000, 5000, 7500, 10_000, 15_000, 20_000, 30_000, 60_000, 120_000, 300_000)
BUCKETS = len(TOTAL_BOUNDS) + 1
FIRST_TOKEN_BUCKETS = tuple(f"first_{number}" for number in range(BUCKETS))
TOTAL_BUCKETS = tuple(f"total_{number}" for number in range(BUCKETS))
#: All columns of the sums by day.
COLUMNS = (*COUNTERS, *FIRST_TOKEN_BUCKETS, *TOTAL_BUCKETS)

DAY_SECONDS = 86_400
HOUR_SECONDS = 3600
#: Seconds of a slot in the sums of a channel, and how long these and the sums of hours are stored.
SLOT_SECONDS = 300
SLOTS_SECONDS = 48 * HOUR_SECONDS
SLOT_COUNTERS = ("requests", "failed", "input_tokens", "output_tokens", "cost", *FIRST_TOKEN_BUCKETS, "errors")
"""`errors` counts the failed attempts on the channel, whichever channel has answered in the end."""
#: Columns of the sums of an hour.
HOUR_COUNTERS = ("requests", "failed", "input_tokens", "cached_tokens", "output_tokens", "cost", "priced", "unused")
HOUR_COLUMNS = (*HOUR_COUNTERS, *FIRST_TOKEN_BUCKETS)

TOOL_COUNTERS = ("calls", "failed", "ms", "bytes")
#: How long a call took: buckets with the bounds of the first token.
TOOL_BUCKETS = tuple(f"took_{number}" for number in range(BUCKETS))
TOOL_COLUMNS = (*TOOL_COUNTERS, *TOOL_BUCKETS)

#: Where the buckets begin among the columns.
_FIRST_TOKEN = len(COUNTERS)
_TOTAL = _FIRST_TOKEN + BUCKETS
_SLOT_PLACES = tuple(COLUMNS.index(name) for name in SLOT_COUNTERS[:-1])
_hour_columns = itemgetter(*map(COLUMNS.index, HOUR_COLUMNS))

K = TypeVar("K")


class Place(NamedTuple):
    """Where a response is counted."""

    day: str
    """YYYY-MM-DD in UTC."""
    slot: int
    """Five minutes: unix time divided by `SLOT_SECONDS`."""
    token: int
    """0 for none."""
    model: str
    channel: str
    """Empty if none was asked."""
    client: str


@dataclass(frozen=True, slots=True)
class Statements:
    """The SQL of the sums in one dialect."""

    day: str
    client: str
    slot: str
    hour: str
    tool: str

    @classmethod
    def of(cls, dialect: Dialect) -> Statements:
        return cls(
            day=dialect.add("usage_day", ["day", "token", "model", "channel"], COLUMNS),
            client=dialect.add("usage_client", ["day", "client"], COLUMNS),
            slot=dialect.add("usage_slot", ["slot", "channel"], SLOT_COUNTERS),
            hour=dialect.add("usage_hour", ["hour", "token", "model", "channel", "client"], HOUR_COLUMNS),
            tool=dialect.add("usage_tool", ["day", "server", "tool"], TOOL_COLUMNS),
        )


class Sums:
    """What one transaction adds."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self._places: dict[Place, list[int]] = {}
        self._errors: Counter[tuple[int, str]] = Counter()
        """Failed attempts by slot and channel."""
        self._tools: dict[tuple[str, str, str], list[int]] = {}

    def add(self, place: Place, *, failed: bool, usage: Usage | None, first_byte_ms: int | None, total_ms: int) -> None:
        sums = self._places.get(place)
        if sums is None:
            sums = self._places[place] = [0] * len(COLUMNS)
        sums[: len(COUNTERS)] = map(add, sums, _counts(failed, usage))
        if first_byte_ms is not None:
            sums[_FIRST_TOKEN + bisect_left(FIRST_TOKEN_BOUNDS, first_byte_ms)] += 1
        sums[_TOTAL + bisect_left(TOTAL_BOUNDS, total_ms)] += 1

    def add_error(self, slot: int, channel: str) -> None:
        self._errors[slot, channel] += 1

    def add_call(self, day: str, server: str, tool: str, *, failed: bool, milliseconds: int, size: int) -> None:
        sums = self._tools.setdefault((day, server, tool), [0] * len(TOOL_COLUMNS))
        sums[: len(TOOL_COUNTERS)] = map(add, sums, (1, int(failed), milliseconds, size))
        sums[len(TOOL_COUNTERS) + bisect_left(FIRST_TOKEN_BOUNDS, milliseconds)] += 1

    def flush(self, session: Session) -> None:
        statements = self._statements
        if self._tools:
            session.run_many(statements.tool, [(*key, *counts) for key, counts in sorted(self._tools.items())])
        if not self._places:
            return
        hours = [(place, _hour_columns(sums)) for place, sums in self._places.items()]
        for sql, rows in (
            (statements.client, _rows(self._places.items(), lambda place: (place.day, place.client))),
            (statements.slot, _rows(self._slots(), lambda slot_and_channel: slot_and_channel)),
            (statements.hour, _rows(hours, _by_hour)),
            (statements.day, _rows(self._places.items(), _by_day)),
        ):
            session.run_many(sql, rows)

    def _slots(self) -> Iterator[tuple[tuple[int, str], Sequence[int]]]:
        for place, sums in self._places.items():
            yield (place.slot, place.channel), [*(sums[position] for position in _SLOT_PLACES), 0]
        for slot_and_channel, errors in self._errors.items():
            yield slot_and_channel, [*(0 for _ in _SLOT_PLACES), errors]


def _by_day(place: Place) -> tuple[str, int, str, str]:
    return place.day, place.token, place.model, place.channel


def _by_hour(place: Place) -> tuple[int, int, str, str, str]:
    return place.slot * SLOT_SECONDS // HOUR_SECONDS, place.token, place.model, place.channel, place.client


def _counts(failed: bool, usage: Usage | None) -> Sequence[int]:
    if usage is None:
        return (1, int(failed), 0, 0, 0, 0, 0, 0, 0, 0, 1)
    return (
        1,
        int(failed),
        int(usage.estimated),
        usage.input_tokens,
        usage.cached_tokens,
        usage.cache_write_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        usage.cost or 0,
        int(usage.cost is not None),
        0,
    )


def _rows(sums: Iterable[tuple[K, Sequence[int]]], key: Callable[[K], Any]) -> list[tuple[Any, ...]]:
    """One row for each key, sorted: two processes that add to the same rows then cannot lock each other out."""
    rows: dict[Any, Sequence[int]] = {}
    for place, amounts in sums:
        known = rows.get(name := key(place))
        rows[name] = amounts if known is None else list(map(add, known, amounts))
    return [(*name, *amounts) for name, amounts in sorted(rows.items(), key=lambda row: row[0])]


@lru_cache(maxsize=8)
def day_of(number: int) -> str:
    """A day in UTC as YYYY-MM-DD; `number`: days since 1970."""
    return time.strftime("%Y-%m-%d", time.gmtime(number * DAY_SECONDS))


def forget_slots(session: Session, now: int) -> None:
    """Deletes the sums of five minutes and of hours that are too old to be shown."""
    begin = now - SLOTS_SECONDS
    session.run("DELETE FROM usage_slot WHERE slot < ?", (begin // SLOT_SECONDS,))
    session.run("DELETE FROM usage_hour WHERE hour < ?", (begin // HOUR_SECONDS,))
