"""Notices about budgets: one when 80 % of a budget are used, one when it is spent, whichever process sees it first."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol

from app.contract.limits import Budget, Limits
from app.contract.records import Token
from app.errors import StoreUnavailable
from app.limits.periods import budget_used, counter_of, end_of
from app.store.token_counters import Use

log = logging.getLogger(__name__)

#: Percent of a budget at which there is a notice, the highest first.
LEVELS = (100, 80)


class BudgetNotice(NamedTuple):
    token: Token
    budget: Budget
    used: int
    """In the budget's unit, with what turns at work have reserved."""
    share: float
    """Of the budget, 0.8 and more."""
    resets_at: int
    """Unix seconds."""


OnBudget = Callable[[BudgetNotice], None]


class Notices(Protocol):
    def claim(self, token: int, counter: str, level: int, since: int) -> bool:
        """True for one process, once for each level of a period. Raises StoreUnavailable."""
        ...


def log_notice(notice: BudgetNotice) -> None:
    budget = notice.budget
    log.warning(
        "token %s has used %d %% of its budget %s: %s; it resets at %s",
        *(notice.token.name, int(notice.share * 100), budget.text, budget.shown(notice.used)),
        f"{end_of(budget.period, notice.resets_at - 1):%Y-%m-%dT%H:%M:%SZ}",
    )


class BudgetAlerts:
    def __init__(self, notices: Notices, on_budget: OnBudget = log_notice) -> None:
        """`on_budget` must neither block nor raise: the store's writer calls it."""
        self._notices = notices
        self._on_budget = on_budget
        self._claimed: dict[tuple[int, str, int], int] = {}

    def look(self, token: Token, limits: Limits, use: Use) -> None:
        """Sends the notices that are due."""
        for budget in limits.budgets or ():
            used = budget_used(budget, use.counters)
            level = next((level for level in LEVELS if used * 100 >= level * budget.amount), None)
            if level is not None and self._is_first(token.key, budget, level, use):
                ends = int(end_of(budget.period, use.now).timestamp())
                self._on_budget(BudgetNotice(token, budget, used, used / budget.amount, ends))

    def _is_first(self, token: int, budget: Budget, level: int, use: Use) -> bool:
        counter, since = counter_of(budget), getattr(use.windows, budget.period)
        key = (token, counter, level)
        if self._claimed.get(key) == since:
            return False
        try:
            first = self._notices.claim(token, counter, level, since)
        except StoreUnavailable:
            return False
        self._claimed[key] = since
        return first
