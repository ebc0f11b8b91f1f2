"""The figures of a period: requests, tokens, cost and the time to the first token, in steps of an hour or a day, and by
owner, model, channel and client. Everything comes from sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import add, attrgetter

from app.reports.usage import Percentiles, percentile
from app.store.figures import CLIENT, CONVERSATIONS, GROUP, MONTH, STEP, Figures
from app.store.store import Store
from app.store.sums import FIRST_TOKEN_BOUNDS, FIRST_TOKEN_BUCKETS, HOUR_COLUMNS, HOUR_SECONDS

#: The periods by their names: the current hour or day and those before it.
HOURS = {"1": 24}
DAYS = {"7": 7, "30": 30, "90": 90}
TODAY = "today"
PERIODS = (TODAY, *HOURS, *DAYS)
GROUPINGS = ("owner", "model", "channel", "client")

_COUNTERS = len(HOUR_COLUMNS) - len(FIRST_TOKEN_BUCKETS)
_NONE = (0,) * len(HOUR_COLUMNS)


@dataclass(frozen=True, slots=True)
class FigureSums:
    """The sums of an hour, a day or a group."""

    requests: int
    failed: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost: int | None
    """Micro-units: the sum of all known costs; None if none is known."""
    unpriced: int
    """Responses that used tokens and whose cost is unknown: `cost` lacks them."""
    first_token: Percentiles
    """Of streamed responses."""

    @property
    def cached_share(self) -> float | None:
        """From 0 to 1; None without an input."""
        return self.cached_tokens / self.input_tokens if self.input_tokens else None


@dataclass(frozen=True, slots=True)
class Step:
    begins_at: int
    """Unix time."""
    sums: FigureSums


@dataclass(frozen=True, slots=True)
class GroupSums:
    name: str
    sums: FigureSums
    share: float | None
    """Its part of the known cost of all, from 0 to 1; None when there is no cost."""


@dataclass(frozen=True, slots=True)
class Overview:
    period: str
    """One of `PERIODS`."""
    by_hour: bool
    """Whether a step is an hour; else it is a day of UTC."""
    steps: Sequence[Step]
    """One for each hour or day of the period, the oldest first."""
    total: FigureSums
    month: FigureSums
    """Of the present month of UTC."""
    conversations: int
    """With a turn in the period; those above `figures.MOST_CONVERSATIONS` are counted as one."""
    groups: Mapping[str, Sequence[GroupSums]]
    """By `GROUPINGS`, the dearest first. Clients of one owner are known by the hour only."""


def overview_report(scope: str | None, store: Store, period: str, now: int) -> Overview:
    """`scope`: the owner whose figures are shown; None for all. `now`: unix time."""
    month = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-01")
    if period in DAYS:
        days = _days(now, DAYS[period])
        figures = store.figures.days(scope, days[0].date().isoformat(), month)
        keys = {day.date().isoformat(): int(day.timestamp()) for day in days}
    else:
        hours = range(_first_hour(period, now), now // HOUR_SECONDS + 1)
        figures = store.figures.hours(scope, hours[0], month)
        # MySQL gives a text.
        keys = {str(hour): hour * HOUR_SECONDS for hour in hours}
    return _overview(period, month, keys, figures)


def _first_hour(period: str, now: int) -> int:
    if period != TODAY:
        return now // HOUR_SECONDS - HOURS[period] + 1
    midnight = datetime.fromtimestamp(now).astimezone().replace(hour=0, minute=0, second=0)
    return int(midnight.timestamp()) // HOUR_SECONDS


def _days(now: int, count: int) -> Sequence[datetime]:
    midnight = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return [midnight - timedelta(days=back) for back in reversed(range(count))]


def _overview(period: str, month: str, keys: Mapping[str, int], figures: Iterable[Figures]) -> Overview:
    parts: dict[str, list[Figures]] = {part: [] for part in (STEP, GROUP, CLIENT, MONTH, CONVERSATIONS)}
    for one in figures:
        parts[one.part].append(one)
    steps = {str(one.step): one.counts for one in parts[STEP]}
    total = _added(steps.values())
    by_hour = period not in DAYS
    this_month = parts[MONTH]
    if not by_hour and not this_month:
        this_month = [one for one in parts[STEP] if str(one.step) >= month]
    clients = parts[GROUP] if by_hour else parts[CLIENT]
    return Overview(
        period,
        by_hour,
        [Step(begins_at, _sums(steps.get(key, _NONE))) for key, begins_at in keys.items()],
        _sums(total),
        _sums(_added(one.counts for one in this_month)),
        sum(one.counts[0] for one in parts[CONVERSATIONS]),
        {name: _groups(clients if name == "client" else parts[GROUP], attrgetter(name)) for name in GROUPINGS},
    )


def _groups(figures: Iterable[Figures], name: Callable[[Figures], str]) -> Sequence[GroupSums]:
    counted: dict[str, Sequence[int]] = {}
    for one in figures:
        counted[name(one)] = _added([one.counts, counted.get(name(one), _NONE)])
    sums = {group: _sums(counts) for group, counts in counted.items()}
    whole = sum(each.cost or 0 for each in sums.values())
    groups = [GroupSums(group, each, (each.cost or 0) / whole if whole else None) for group, each in sums.items()]
    return sorted(groups, key=lambda one: (-(one.sums.cost or 0), -one.sums.requests, one.name))


def _added(counts: Iterable[Sequence[int]]) -> Sequence[int]:
    total: Sequence[int] = _NONE
    for each in counts:
        total = list(map(add, total, each))
    return total


def _sums(counts: Sequence[int]) -> FigureSums:
    requests, failed, given, cached, output, cost, priced, unused = counts[:_COUNTERS]
    return FigureSums(
        requests,
        failed,
        given,
        cached,
        output,
        cost if priced else None,
        requests - priced - unused,
        Percentiles(*(percentile(counts[_COUNTERS:], FIRST_TOKEN_BOUNDS, share) for share in (0.5, 0.95))),
    )
