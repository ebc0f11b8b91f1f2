"""Admits the turns of limited tokens. A token without limits costs no query."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

from app.contract.limits import UNSTATED, Limits
from app.contract.records import Token
from app.contract.usage import Usage
from app.errors import GatewayError, StoreUnavailable
from app.limits.admission import NO_HEADERS, Accounts, Admission, CostOf, LimitedTurn
from app.limits.budget_alerts import BudgetAlerts
from app.limits.periods import counter_of
from app.limits.rate_headers import has_rates, rate_headers
from app.limits.refusals import changing, price_unknown, refusal
from app.store.admissions import Admissions
from app.store.token_counters import NO_LIMIT, UNLIMITED, Admit, Amounts, Counters, Use

#: How often a turn is tried that was refused, and whose limits had room when they were read.
_TRIES = 3


class Part(NamedTuple):
    """The part of a turn that is admitted: it counts as so many requests, and as so many turns at work."""

    requests: int
    running: int


#: A turn that is answered at once.
WHOLE = Part(1, 1)
#: A background turn when it is queued, and when a worker runs it.
QUEUED, RUN = Part(1, 0), Part(0, 1)


class Estimate(NamedTuple):
    """What a turn may use, before it runs."""

    input_tokens: int = 0
    output_tokens: int = 0
    """The most that the client allows; 0 if it does not say."""


class Limiter:
    def __init__(
        self, admissions: Admissions, defaults: Callable[[], Limits], cost_of: CostOf, alerts: BudgetAlerts
    ) -> None:
        """`defaults`: the limits of the table, for tokens that state none of their own."""
        self._accounts = Accounts(admissions, cost_of, alerts)
        self._defaults = defaults

    def limits_of(self, token: Token) -> Limits:
        defaults = self._defaults()
        return token.limits if defaults is UNSTATED else token.limits.or_else(defaults)

    def admit(self, token: Token, limits: Limits, model: str, estimate: Estimate, part: Part = WHOLE) -> Admission:
        """Admits a turn and reserves its estimate. Raises RateLimited, QuotaExhausted, InvalidRequest for a model
        without a price, and StoreUnavailable."""
        request = self._request(token, limits, model, estimate, part)
        for _ in range(_TRIES):
            self._accounts.admissions.admit(request)
            assert request.use is not None
            if request.admitted:
                return LimitedTurn(self._accounts, token, limits, model, request)
            if error := refusal(token, limits, request.needs, request.use):
                raise self._refused(token, limits, request.use, error)
        raise changing(token)

    def headers(self, token: Token) -> Mapping[str, str]:
        """The headers of an answer that no turn has made; none while the database does not answer."""
        limits = self.limits_of(token)
        if has_rates(limits):
            with suppress(StoreUnavailable):
                return rate_headers(limits, self._accounts.admissions.use(token.key))
        return NO_HEADERS

    def retry(self) -> None:
        """Writes the ends of turns that the database could not take before; returns at once."""
        self._accounts.admissions.retry()

    def _request(self, token: Token, limits: Limits, model: str, estimate: Estimate, part: Part) -> Admit:
        least = self._amounts(token, limits, model, Estimate(estimate.input_tokens))
        most = self._amounts(token, limits, model, estimate) if estimate.output_tokens else least
        # At least one: a budget that is spent has no room for a turn, however small it is.
        needs = Amounts(max(1, least.tokens), max(1, least.micro))
        reserves = most if part.running else Amounts()
        return Admit(
            token.key,
            _counters(limits),
            Counters.of(part.requests, needs, part.running),
            Counters.of(part.requests, reserves, part.running),
        )

    def _amounts(self, token: Token, limits: Limits, model: str, estimate: Estimate) -> Amounts:
        """Raises InvalidRequest if a budget in money cannot be counted; without one the cost does not matter."""
        usage = Usage(input_tokens=estimate.input_tokens, output_tokens=estimate.output_tokens)
        cost = self._accounts.cost_of(model, usage)
        if cost is None:
            in_money = next((budget for budget in limits.budgets or () if budget.in_money), None)
            if in_money is not None:
                raise price_unknown(token, in_money, model)
        return Amounts(usage.total_tokens, cost or 0)

    def _refused(self, token: Token, limits: Limits, use: Use, error: GatewayError) -> GatewayError:
        self._accounts.alerts.look(token, limits, use)
        error.headers = rate_headers(limits, use)
        return error


@lru_cache(maxsize=1000)
def _counters(limits: Limits) -> Counters:
    """The limit of each counter."""
    found = UNLIMITED._replace(
        requests=limits.rpm or NO_LIMIT, tokens=limits.tpm or NO_LIMIT, running=limits.concurrency or NO_LIMIT
    )
    return found._replace(**{counter_of(budget): budget.amount for budget in limits.budgets or ()})
