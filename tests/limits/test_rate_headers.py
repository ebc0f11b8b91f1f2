"""Durations, periods and headers of limits as values."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.limits import Limits, budgets
from app.limits.periods import end_of, seconds_left
from app.limits.rate_headers import duration, rate_headers
from app.store.token_counters import Counters, Use, Windows

NOW = calendar.timegm((2026, 2, 28, 23, 58, 30))
moments = st.integers(0, 2**32)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (1, "1s"), (59, "59s"), (60, "1m0s"), (360, "6m0s"), (3600, "1h0m0s"), (86399, "23h59m59s")],
)
def test_durations_are_written_as_openai_writes_them(seconds: int, text: str) -> None:
    assert duration(seconds) == text


def test_a_period_ends_with_the_clock() -> None:
    assert end_of("minute", NOW) == datetime(2026, 2, 28, 23, 59, tzinfo=UTC)
    assert end_of("day", NOW) == datetime(2026, 3, 1, tzinfo=UTC)
    assert end_of("month", NOW) == datetime(2026, 3, 1, tzinfo=UTC)
    assert end_of("month", calendar.timegm((2026, 12, 31, 1, 0, 0))) == datetime(2027, 1, 1, tzinfo=UTC)
    assert end_of("month", calendar.timegm((2026, 1, 1, 0, 0, 0))) == datetime(2026, 2, 1, tzinfo=UTC)


@given(moments)
def test_the_windows_of_two_moments_differ_when_a_period_ends_between_them(now: int) -> None:
    for period in ("minute", "day", "month"):
        left = seconds_left(period, now)
        assert left > 0
        here, before, after = (getattr(Windows.at(at), period) for at in (now, now + left - 1, now + left))
        assert here == before < after


def headers(limits: Limits, **counters: int) -> dict[str, str]:
    found = rate_headers(limits, Use(NOW, Windows.at(NOW), Counters(**counters)))
    return {name.lower().removeprefix("x-ratelimit-"): value for name, value in found.items()}


def test_each_rate_has_its_three_headers() -> None:
    assert headers(Limits(rpm=60), requests=61) == {
        "limit-requests": "60",
        "remaining-requests": "0",
        "reset-requests": "30s",
    }
    assert headers(Limits(tpm=1000, budgets=budgets(["5tok/day"])), tokens=1) == {
        "limit-tokens": "1000",
        "remaining-tokens": "999",
        "reset-tokens": "30s",
    }


def test_a_budget_in_tokens_stands_where_no_minute_is_limited() -> None:
    assert headers(Limits(budgets=budgets(["9usd/day", "2ktok/month"])), month_tokens=500) == {
        "limit-tokens": "2000",
        "remaining-tokens": "1500",
        "reset-tokens": "1m30s",
    }
    assert headers(Limits(concurrency=3, budgets=budgets(["9usd/day"]))) == {}
