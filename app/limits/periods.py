"""The periods of limits, all of UTC: how long the present one still lasts, and which counter a budget has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

from app.contract.limits import Budget, Period
from app.store.token_counters import Counters

_SECONDS = {"minute": 60, "day": 86_400}


def end_of(period: Literal["minute"] | Period, now: int) -> datetime:
    """When the present period ends. `now`: unix seconds."""
    moment = datetime.fromtimestamp(now, UTC).replace(second=0)
    if period == "minute":
        return moment + timedelta(minutes=1)
    midnight = moment.replace(hour=0, minute=0)
    if period == "day":
        return midnight + timedelta(days=1)
    return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)


def start_of(period: Period, now: int) -> datetime:
    """When the present period began. `now`: unix seconds."""
    midnight = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0)
    return midnight if period == "day" else midnight.replace(day=1)


def seconds_left(period: Literal["minute"] | Period, now: int) -> int:
    # Every answer of a limited token needs it. Unix time has no leap seconds.
    if period == "month":
        return int(end_of(period, now).timestamp()) - now
    length = _SECONDS[period]
    return length - now % length


def counter_of(budget: Budget) -> str:
    """The name of its counter."""
    return f"{budget.period}_{'micro' if budget.in_money else 'tokens'}"


def budget_used(budget: Budget, counters: Counters) -> int:
    used: int = getattr(counters, counter_of(budget))
    return used
