"""The people and their tokens: what each token may use, and what it has used of that by now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from app.contract.limits import UNSTATED, Budget, Limits
from app.contract.records import Token
from app.limits.budget_alerts import LEVELS
from app.limits.periods import budget_used, end_of
from app.store.store import Store
from app.store.sums import DAY_SECONDS, day_of
from app.store.token_counters import Counters, Use
from app.store.tokens import ListedToken
from app.store.usage import TokenSums

#: Seconds for which a revoked token is still listed.
REVOKED_SHOWN = 30 * DAY_SECONDS
_SPENT, _NEARLY = LEVELS
_SOON = 7 * DAY_SECONDS
_NOTHING = TokenSums(0, 0, 0, 0)

ACTIVE, EXPIRED, REVOKED = "active", "expired", "revoked"


@dataclass(frozen=True, slots=True)
class BudgetUse:
    budget: Budget
    used: int
    """In the budget's unit, with what turns at work have reserved."""
    resets_at: int
    """Unix seconds."""

    @property
    def percent(self) -> int:
        """Of the budget, rounded down: what is not spent is never 100."""
        return self.used * 100 // self.budget.amount

    @property
    def spent(self) -> bool:
        return self.percent >= _SPENT

    @property
    def nearly_spent(self) -> bool:
        return _NEARLY <= self.percent < _SPENT


@dataclass(frozen=True)
class TokenReport:
    token: Token
    limits: Limits
    """Its own, and the table's where it states none."""
    use: Use
    client: str
    """The program that has used it last; empty if unknown."""
    earlier_secrets_until: int | None
    """When the last of its earlier secrets ends; None if none works."""
    sums: TokenSums
    """Of this month."""

    @property
    def state(self) -> str:
        if self.token.revoked_at is not None:
            return REVOKED
        expires_at = self.token.expires_at
        return EXPIRED if expires_at is not None and expires_at <= self.use.now else ACTIVE

    @property
    def expires_soon(self) -> bool:
        """Within a week."""
        expires_at = self.token.expires_at
        return expires_at is not None and self.use.now < expires_at <= self.use.now + _SOON

    @property
    def counters(self) -> Counters:
        """What it has used: requests and tokens of this minute, and its turns at work."""
        return self.use.counters

    @cached_property
    def budgets(self) -> tuple[BudgetUse, ...]:
        return tuple(
            BudgetUse(
                budget,
                budget_used(budget, self.use.counters),
                int(end_of(budget.period, self.use.now).timestamp()),
            )
            for budget in self.limits.budgets or ()
        )

    @property
    def spent(self) -> BudgetUse | None:
        """A budget that is spent: of several the one that resets last."""
        return max((one for one in self.budgets if one.spent), key=lambda one: one.resets_at, default=None)

    @property
    def has_monthly_budget(self) -> bool:
        """A budget of money shows what this month costs."""
        return any(one.budget.in_money and one.budget.period == "month" for one in self.budgets)

    @property
    def cost(self) -> int | None:
        """Micro-units of this month, as far as the costs are known; None if none is known."""
        return self.sums.cost if self.sums.priced else None


@dataclass(frozen=True)
class PeopleReport:
    tokens: tuple[TokenReport, ...]
    """By owner and name, the revoked ones last."""
    now: int
    """Unix seconds."""

    @property
    def owners(self) -> list[str]:
        """The people who have tokens that are not revoked, by name."""
        return sorted({one.token.owner for one in self.current})

    @property
    def current(self) -> list[TokenReport]:
        """The tokens that are not revoked."""
        return [one for one in self.tokens if one.state != REVOKED]

    def of(self, key: int) -> TokenReport | None:
        return next((one for one in self.tokens if one.token.key == key), None)


def people_report(owner: str | None, store: Store, defaults: Limits, now: int) -> PeopleReport:
    """`owner`: whose tokens; None for all. `defaults`: the limits of the table. `now`: unix seconds. Two queries."""
    sums = store.usage.by_token(owner, first_day_of_month(now))
    listed = store.tokens.listed(owner, now - REVOKED_SHOWN)
    return PeopleReport(tuple(_reports(listed, sums, defaults)), now)


def _reports(listed: list[ListedToken], sums: dict[int, TokenSums], defaults: Limits) -> Iterator[TokenReport]:
    for token, client, until, use in listed:
        limits = token.limits if defaults is UNSTATED else token.limits.or_else(defaults)
        yield TokenReport(token, limits, use, client, until, sums.get(token.key, _NOTHING))


def first_day_of_month(now: int) -> str:
    """YYYY-MM-DD in UTC."""
    return f"{day_of(now // DAY_SECONDS)[:7]}-01"
