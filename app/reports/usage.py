"""Requests, tokens, costs and times, summed by token, owner, model, channel, client, tool or day, for the command and
for pages. Everything comes from sums that were written with the responses. What these do not know, because it concerns
single requests, comes from the newest of them, and the report says so.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from operator import add
from typing import Any

from app.store.store import Store
from app.store.sums import (
    COLUMNS,
    FIRST_TOKEN_BOUNDS,
    FIRST_TOKEN_BUCKETS,
    TOOL_BUCKETS,
    TOOL_COUNTERS,
    TOTAL_BOUNDS,
    TOTAL_BUCKETS,
)
from app.store.usage import SingleResponse

COUNTERS = (
    "requests",
    "failed",
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)
GROUPINGS = ("token", "owner", "model", "channel", "client", "tool", "day")
#: What a report can be filtered by.
FILTERS = ("token", "owner", "model", "channel", "client")

_TIMES = ("first_token_ms", "total_ms")


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds; None without a response that has the time."""

    p50: int | None = None
    p95: int | None = None


@dataclass(frozen=True, slots=True)
class UsageGroup:
    """The sums of one group."""

    name: str
    counts: Mapping[str, int]
    """By the names of `COUNTERS`."""
    cost: int | None
    """Micro-units: the sum of all known costs; None if none is known."""
    unpriced: int
    """Responses that used tokens and whose cost is unknown: `cost` lacks them."""
    first_token: Percentiles = Percentiles()
    """Of streamed responses."""
    total: Percentiles = Percentiles()

    @property
    def cached_share(self) -> float | None:
        """The part of the input that came from the provider's cache, from 0 to 1; None without an input."""
        given = self.counts["input_tokens"]
        return round(self.counts["cached_tokens"] / given, 4) if given else None

    def wire(self, by: str) -> dict[str, Any]:
        return {
            by: self.name,
            **self.counts,
            "cached_share": self.cached_share,
            "cost_micros": self.cost,
            "unpriced": self.unpriced,
            **{
                f"{name}_{mark}": getattr(times, mark)
                for name, times in zip(_TIMES, (self.first_token, self.total), strict=True)
                for mark in ("p50", "p95")
            },
        }


@dataclass(frozen=True, slots=True)
class UsageReport:
    since: str
    """The first day that is counted, in UTC."""
    by: str
    """One of `GROUPINGS`, without `tool`."""
    groups: tuple[UsageGroup, ...]
    total: UsageGroup
    sampled: bool = False
    """Only the newest 10,000 responses were counted, because no sums have such filters."""

    def wire(self) -> dict[str, Any]:
        return {
            "since": self.since,
            "by": self.by,
            "sampled": self.sampled,
            "usage": [group.wire(self.by) for group in self.groups],
        }


@dataclass(frozen=True, slots=True)
class ToolReport:
    """The calls of the tools that the gateway runs."""

    since: str
    rows: tuple[Mapping[str, Any], ...]
    """server, tool, calls, failed, ms (the mean of a call), bytes (all results), p50_ms and p95_ms."""

    def wire(self) -> dict[str, Any]:
        return {"since": self.since, "by": "tool", "usage": [dict(row) for row in self.rows]}


def usage_report(store: Store, by: str, since: str, filters: Mapping[str, str] | None = None) -> UsageReport:
    """Days are in their order; other groups are ordered by cost and output tokens, the most first. `filters`: globs by
    the names of `FILTERS`; all must match."""
    filters = filters or {}
    if not _have_sums(by, filters):
        single = ((_name_of(one, by), _amounts(one)) for one in _newest(store, since, filters))
        return _report(single, by, since, sampled=True)
    rows = store.usage.clients(since) if by == "client" else store.usage.since(since, _keys({by, *filters}))
    matching = (row for row in rows if all(fnmatchcase(_name(row, key), glob) for key, glob in filters.items()))
    return _report(((_name(row, by), [row[column] for column in COLUMNS]) for row in matching), by, since)


def _report(sums: Iterable[tuple[str, Sequence[int]]], by: str, since: str, *, sampled: bool = False) -> UsageReport:
    """`sums`: values of `COLUMNS` under the name of their group; a group may come several times."""
    counted: dict[str, list[int]] = {}
    total = [0] * len(COLUMNS)
    for name, amounts in sums:
        known = counted.get(name)
        counted[name] = [*amounts] if known is None else list(map(add, known, amounts))
        total = list(map(add, total, amounts))
    groups = _ordered(by, (_group(name, amounts) for name, amounts in counted.items()))
    return UsageReport(since, by, groups, _group("total", total), sampled)


def tool_report(store: Store, since: str) -> ToolReport:
    rows = []
    for row in store.usage.tools(since):
        counts = {counter: int(row[counter]) for counter in TOOL_COUNTERS}
        times = call_times([row])
        rows.append(
            {
                **{name: row[name] for name in ("server", "tool")},
                **counts,
                "ms": round(counts["ms"] / counts["calls"]),
                "p50_ms": times.p50,
                "p95_ms": times.p95,
            }
        )
    return ToolReport(since, tuple(rows))


def _have_sums(by: str, filters: Mapping[str, str]) -> bool:
    """Whether sums know the answer: those of clients are not divided further."""
    return by != "client" and "client" not in filters if filters else True


def _keys(names: Iterable[str]) -> list[str]:
    """The columns that the sums are read by. A token needs two."""
    return [key for name in sorted(names) for key in (("token", "token_name") if name == "token" else (name,))]


def _name(row: Mapping[str, Any], by: str) -> str:
    """A removed token is shown by its number; requests without a token or a channel have an empty name."""
    return _token(row["token"], row["token_name"]) if by == "token" else str(row[by] or "")


def _name_of(response: SingleResponse, by: str) -> str:
    """The same for a single response."""
    match by:
        case "token":
            return _token(response.token, response.token_name)
        case "day":
            return _day(response.completed_at // 86_400)
        case _:
            return str(getattr(response, by))


def _token(key: int | None, name: str | None) -> str:
    return name or (f"token {key}" if key else "")


@lru_cache(maxsize=512)
def _day(number: int) -> str:
    return datetime.fromtimestamp(number * 86_400, UTC).date().isoformat()


def _ordered(by: str, groups: Iterable[UsageGroup]) -> tuple[UsageGroup, ...]:
    if by == "day":
        return tuple(sorted(groups, key=lambda group: group.name))
    return tuple(sorted(groups, key=lambda group: (-(group.cost or 0), -group.counts["output_tokens"], group.name)))


def _group(name: str, amounts: Sequence[int]) -> UsageGroup:
    counts = dict(zip(COLUMNS, amounts, strict=True))
    return UsageGroup(
        name,
        {counter: counts[counter] for counter in COUNTERS},
        counts["cost"] if counts["priced"] else None,
        counts["requests"] - counts["priced"] - counts["unused"],
        _times(counts, FIRST_TOKEN_BUCKETS, FIRST_TOKEN_BOUNDS),
        _times(counts, TOTAL_BUCKETS, TOTAL_BOUNDS),
    )


def call_times(rows: Iterable[Mapping[str, Any]]) -> Percentiles:
    """How long the calls of these sums of tools took."""
    counts = dict.fromkeys(TOOL_BUCKETS, 0)
    for row in rows:
        counts = {bucket: count + int(row[bucket]) for bucket, count in counts.items()}
    return _times(counts, TOOL_BUCKETS, FIRST_TOKEN_BOUNDS)


def _times(counts: Mapping[str, int], buckets: Sequence[str], bounds: Sequence[int]) -> Percentiles:
    amounts = [counts[bucket] for bucket in buckets]
    return Percentiles(percentile(amounts, bounds, 0.5), percentile(amounts, bounds, 0.95))


def percentile(counts: Sequence[int], bounds: Sequence[int], share: float) -> int | None:
    """The time in milliseconds below which this share of the responses lies, as far as buckets tell: within one the
    times are taken to lie evenly. In the last one, which has no end, its beginning. None without responses."""
    rank = share * sum(counts)
    if not rank:
        return None
    low = 0
    for count, high in zip(counts, bounds, strict=False):
        if count and rank <= count:
            return round(low + (high - low) * rank / count)
        rank -= count
        low = high
    return low


# --- single responses -------------------------------------------------------------------------------------------


def _newest(store: Store, since: str, filters: Mapping[str, str]) -> list[SingleResponse]:
    begin = int(datetime.fromisoformat(since).replace(tzinfo=UTC).timestamp())
    found = store.usage.newest(begin)
    for key, glob in filters.items():
        found = [one for one in found if fnmatchcase(_name_of(one, key), glob)]
    return found


def _amounts(response: SingleResponse) -> list[int]:
    """What the sums of one response would be: values of `COLUMNS`."""
    counts = dict.fromkeys(COLUMNS, 0)
    counts.update(
        requests=1,
        failed=int(response.status == "failed"),
        estimated=response.estimated,
        input_tokens=response.input_tokens or 0,
        cached_tokens=response.cached_tokens or 0,
        cache_write_tokens=response.cache_write_tokens or 0,
        output_tokens=response.output_tokens or 0,
        reasoning_tokens=response.reasoning_tokens or 0,
        cost=response.cost or 0,
        priced=int(response.cost is not None),
        unused=int(response.input_tokens is None),
    )
    if response.first_byte_ms is not None:
        counts[FIRST_TOKEN_BUCKETS[bisect_left(FIRST_TOKEN_BOUNDS, response.first_byte_ms)]] = 1
    counts[TOTAL_BUCKETS[bisect_left(TOTAL_BOUNDS, response.total_ms)]] = 1
    return list(counts.values())
