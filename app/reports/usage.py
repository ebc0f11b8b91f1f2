"""Requests, tokens, costs and times, summed by token, owner, model, channel, client, tool or day, for the command and
for pages. Everything comes from sums that were written with the responses. What these do not know, because it concerns
single requests, comes from the newest of them, and the report says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from app.store.store import Store
from app.store.sums import FIRST_TOKEN_BOUNDS, TOOL_COUNTERS, TOTAL_BOUNDS
from app.store.usage import Latencies, SingleResponse

COUNTERS = (
    "requests",
    "failed",
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)
_SUMMED = (*COUNTERS, "cost", "priced", "unused")
GROUPINGS = ("token", "owner", "model", "channel", "client", "tool", "day")
#: What a report can be filtered by.
FILTERS = ("token", "owner", "model", "channel", "client")

_TIMES = ("first_token_ms", "total_ms")
_TIMED_BY_SUMS = ("day", "model", "channel")


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
    sampled: tuple[str, ...] = ()
    """What was counted from the newest `NEWEST` responses alone: `times`, or `requests` for everything."""

    def wire(self) -> dict[str, Any]:
        return {
            "since": self.since,
            "by": self.by,
            "sampled": list(self.sampled),
            "usage": [group.wire(self.by) for group in self.groups],
        }


@dataclass(frozen=True, slots=True)
class ToolReport:
    """The calls of the tools that the gateway runs."""

    since: str
    rows: tuple[Mapping[str, Any], ...]
    """server, tool, calls, failed, ms (the mean of a call), bytes (all results)."""

    def wire(self) -> dict[str, Any]:
        return {"since": self.since, "by": "tool", "usage": [dict(row) for row in self.rows]}


def usage_report(store: Store, by: str, since: str, filters: Mapping[str, str] | None = None) -> UsageReport:
    """Days are in their order; other groups are ordered by cost and output tokens, the most first. `filters`: globs by
    the names of `FILTERS`; all must match."""
    filters = filters or {}
    if not _have_sums(by, filters):
        return _of_single(_newest(store, since, filters), by, since)
    rows = store.usage.clients(since) if by == "client" else store.usage.since(since, _keys({by, *filters}))
    counted: dict[str, dict[str, int]] = {}
    total = dict.fromkeys(_SUMMED, 0)
    for row in rows:
        if all(fnmatchcase(_name(row, key), glob) for key, glob in filters.items()):
            counts = counted.setdefault(_name(row, by), dict.fromkeys(_SUMMED, 0))
            for counter in _SUMMED:
                counts[counter] += row[counter]
                total[counter] += row[counter]
    if by in _TIMED_BY_SUMS and not filters:
        times, all_times = _times_of_sums(store.usage.latencies(by, since))
        sampled: tuple[str, ...] = ()
    else:
        times, all_times = _times_of_single(_newest(store, since, filters), by)
        sampled = ("times",)
    groups = (_group(name, counts, times.get(name, ())) for name, counts in counted.items())
    return UsageReport(since, by, _ordered(by, groups), _group("total", total, all_times), sampled)


def tool_report(store: Store, since: str) -> ToolReport:
    rows = []
    for row in store.usage.tools(since):
        counts = {counter: int(row[counter]) for counter in TOOL_COUNTERS}
        rows.append({**row, **counts, "ms": round(counts["ms"] / counts["calls"])})
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


def _group(name: str, counts: Mapping[str, int], times: Sequence[Percentiles]) -> UsageGroup:
    unpriced = counts["requests"] - counts["priced"] - counts["unused"]
    cost = counts["cost"] if counts["priced"] else None
    return UsageGroup(name, {counter: counts[counter] for counter in COUNTERS}, cost, unpriced, *times)


# --- times ------------------------------------------------------------------------------------------------------

#: First token and total.
_Times = Sequence[Percentiles]


def _times_of_sums(latencies: Sequence[Latencies]) -> tuple[dict[str, _Times], _Times]:
    """The times of each group, and of all together."""
    times = {one.group: _of_buckets(one.first_token, one.total) for one in latencies}
    first = [sum(counts) for counts in zip(*(one.first_token for one in latencies), strict=True)]
    total = [sum(counts) for counts in zip(*(one.total for one in latencies), strict=True)]
    return times, _of_buckets(first, total)


def _of_buckets(first_token: Sequence[int], total: Sequence[int]) -> _Times:
    pairs = ((first_token, FIRST_TOKEN_BOUNDS), (total, TOTAL_BOUNDS))
    return [Percentiles(percentile(counts, bounds, 0.5), percentile(counts, bounds, 0.95)) for counts, bounds in pairs]


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


def _times_of_single(responses: Sequence[SingleResponse], by: str) -> tuple[dict[str, _Times], _Times]:
    groups: defaultdict[str, list[SingleResponse]] = defaultdict(list)
    for response in responses:
        groups[_name_of(response, by)].append(response)
    return {group: _of_times(members) for group, members in groups.items()}, _of_times(responses)


def _of_times(responses: Sequence[SingleResponse]) -> _Times:
    first = sorted(one.first_byte_ms for one in responses if one.first_byte_ms is not None)
    total = sorted(one.total_ms for one in responses)
    return [Percentiles(_at(times, 0.5), _at(times, 0.95)) for times in (first, total)]


def _at(times: Sequence[int], share: float) -> int | None:
    return times[min(len(times) - 1, int(share * len(times)))] if times else None


# --- single responses -------------------------------------------------------------------------------------------


def _newest(store: Store, since: str, filters: Mapping[str, str]) -> list[SingleResponse]:
    begin = int(datetime.fromisoformat(since).replace(tzinfo=UTC).timestamp())
    found = store.usage.newest(begin)
    for key, glob in filters.items():
        found = [one for one in found if fnmatchcase(_name_of(one, key), glob)]
    return found


def _of_single(responses: Sequence[SingleResponse], by: str, since: str) -> UsageReport:
    times, all_times = _times_of_single(responses, by)
    counted: dict[str, dict[str, int]] = {}
    total = dict.fromkeys(_SUMMED, 0)
    for response in responses:
        counts = counted.setdefault(_name_of(response, by), dict.fromkeys(_SUMMED, 0))
        for counter, amount in _counts(response).items():
            counts[counter] += amount
            total[counter] += amount
    groups = (_group(name, counts, times[name]) for name, counts in counted.items())
    return UsageReport(since, by, _ordered(by, groups), _group("total", total, all_times), ("requests", "times"))


def _counts(response: SingleResponse) -> dict[str, int]:
    used = response.input_tokens is not None
    return {
        "requests": 1,
        "failed": int(response.status == "failed"),
        "input_tokens": response.input_tokens or 0,
        "cached_tokens": response.cached_tokens or 0,
        "cache_write_tokens": response.cache_write_tokens or 0,
        "output_tokens": response.output_tokens or 0,
        "reasoning_tokens": response.reasoning_tokens or 0,
        "cost": response.cost or 0,
        "priced": int(response.cost is not None),
        "unused": int(not used),
    }
