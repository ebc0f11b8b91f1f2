"""Notices of budgets, each once."""

from __future__ import annotations

from app.contract.limits import Limits, budgets
from app.contract.records import Token
from app.errors import StoreUnavailable
from app.limits.budget_alerts import BudgetAlerts, BudgetNotice
from app.store.token_counters import Counters, Use, Windows

ADA = Token(key=1, name="ada", owner="ada", prefix="ap_")
LIMITS = Limits(budgets=budgets(["1ktok/day", "10usd/month"]))
NOW = 1_795_700_000


class Claims:
    """What several processes claim, as the store keeps it."""

    def __init__(self) -> None:
        self.known: set[tuple[int, str, int, int]] = set()
        self.asked = 0
        self.lost = False

    def claim(self, token: int, counter: str, level: int, since: int) -> bool:
        self.asked += 1
        if self.lost:
            raise StoreUnavailable("gone")
        first = (token, counter, level, since) not in self.known
        self.known.add((token, counter, level, since))
        return first


def use(now: int = NOW, **counters: int) -> Use:
    return Use(now, Windows.at(now), Counters(**counters))


def test_a_level_is_noticed_once_by_one_process_in_each_period() -> None:
    claims, seen = Claims(), list[BudgetNotice]()
    first, second = (BudgetAlerts(claims, seen.append) for _ in range(2))
    for day_tokens in (0, 799, 800, 810, 999):
        for alerts in (first, second):
            alerts.look(ADA, LIMITS, use(day_tokens=day_tokens))
    assert [(notice.budget.text, notice.used, notice.share) for notice in seen] == [("1ktok/day", 800, 0.8)]
    assert claims.asked == 2
    for alerts in (first, second):
        alerts.look(ADA, LIMITS, use(day_tokens=1200, month_micro=8_000_000))
    assert [(notice.budget.text, notice.share) for notice in seen[1:]] == [("1ktok/day", 1.2), ("10usd/month", 0.8)]
    first.look(ADA, LIMITS, use(NOW + 86_400, day_tokens=900))
    assert len(seen) == 4
    assert seen[-1].resets_at - seen[0].resets_at == 86_400


def test_a_notice_that_the_database_could_not_take_comes_with_the_next_look() -> None:
    claims, seen = Claims(), list[BudgetNotice]()
    alerts = BudgetAlerts(claims, seen.append)
    claims.lost = True
    alerts.look(ADA, LIMITS, use(day_tokens=900))
    claims.lost = False
    alerts.look(ADA, LIMITS, use(day_tokens=910))
    assert [notice.used for notice in seen] == [910]
