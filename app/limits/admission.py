"""The admission of one turn: its headers, and its end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from app.contract.limits import Limits
from app.contract.records import Token
from app.contract.usage import Usage
from app.errors import StoreUnavailable
from app.limits.budget_alerts import BudgetAlerts
from app.limits.periods import budget_used
from app.limits.rate_headers import rate_headers
from app.store.admissions import Admissions
from app.store.token_counters import Adjust, Admit, Amounts, Settle, Windows

log = logging.getLogger(__name__)

#: What a turn with this model and these tokens costs, in micro-units; None when the model has no price.
CostOf = Callable[[str, Usage], "int | None"]

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Admission:
    """The admission of a turn without limits, and the interface of all others."""

    headers: Mapping[str, str] = NO_HEADERS
    """For the answer."""

    def settle(self, usage: Usage | None) -> None:
        """Ends the admission with what the turn has used; None for nothing. Only the first call counts. Returns at
        once: what the process writes to the database after it is committed no earlier."""

    def settle_now(self, usage: Usage | None) -> None:
        """The same for an answer that no row follows: it returns once the end is committed, so that the client's next
        request finds its place free."""

    def is_exhausted(self, usage: Usage) -> bool:
        """Whether a budget of the token is spent, with what the turn has used so far."""
        return False


#: Of a turn that has no limits, and of one that is not admitted yet.
UNLIMITED_TURN = Admission()


@dataclass(frozen=True, slots=True)
class Accounts:
    """What admissions need to end: the counters, the prices, and the notices of budgets."""

    admissions: Admissions
    cost_of: CostOf
    alerts: BudgetAlerts


class LimitedTurn(Admission):
    def __init__(self, accounts: Accounts, token: Token, limits: Limits, model: str, admitted: Admit) -> None:
        use = admitted.use
        assert use is not None
        self.headers = rate_headers(limits, use)
        self._accounts = accounts
        self._token = token
        self._limits = limits
        self._model = model
        self._id = admitted.id
        self._windows: Windows = use.windows
        self._reserved = Amounts(admitted.reserves.day_tokens, admitted.reserves.day_micro)
        self._settled = False

    def settle(self, usage: Usage | None) -> None:
        if not self._settled:
            self._settled = True
            self._accounts.admissions.settle(self._settlement(usage), self._look)

    def settle_now(self, usage: Usage | None) -> None:
        if not self._settled:
            self._settled = True
            self._accounts.admissions.settle_now(self._settlement(usage), self._look)

    def is_exhausted(self, usage: Usage) -> bool:
        if not self._limits.budgets:
            return False
        used = self._amounts(usage)
        # The reservation grows to what the turn has used, so that the token's other turns know of it.
        grown = Amounts(max(used.tokens, self._reserved.tokens), max(used.micro, self._reserved.micro))
        adjustment = Adjust(self._token.key, self._id, self._windows, self._reserved, grown)
        try:
            self._accounts.admissions.adjust(adjustment)
        except StoreUnavailable:
            # A turn at work is not ended by its limits, and not by a database that cannot tell them.
            return False
        self._reserved = grown
        assert adjustment.use is not None
        self._look(adjustment)
        unused = grown.minus(used)
        return any(
            budget_used(budget, adjustment.use.counters) - (unused.micro if budget.in_money else unused.tokens)
            >= budget.amount
            for budget in self._limits.budgets
        )

    def _settlement(self, usage: Usage | None) -> Settle:
        used = Amounts() if usage is None else self._amounts(usage)
        return Settle(self._token.key, self._id, self._windows, self._reserved, used)

    def _amounts(self, usage: Usage) -> Amounts:
        # The exchanges know what they cost: a price may depend on the input of each. An estimate of a turn that was cut
        # has no cost yet. Without a price, which the table may have lost meanwhile, what is reserved stays.
        cost = self._accounts.cost_of(self._model, usage) if usage.cost is None else usage.cost
        return Amounts(usage.total_tokens, self._reserved.micro if cost is None else cost)

    def _look(self, change: Adjust) -> None:
        if change.use is not None:
            self._accounts.alerts.look(self._token, self._limits, change.use)
