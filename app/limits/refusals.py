"""The refusals of limited tokens. Each says what the limit is, how much of it is used, and when it resets."""

from __future__ import annotations

from app.contract.limits import Budget, Limits
from app.contract.records import Token
from app.errors import GatewayError, InvalidRequest, QuotaExhausted, RateLimited
from app.limits.periods import budget_used, counter_of, end_of, seconds_left
from app.limits.rate_headers import duration
from app.store.token_counters import Counters, Use

#: Seconds after which a token with too many requests at once may try again.
_SOON = 1.0


def refusal(token: Token, limits: Limits, needs: Counters, use: Use) -> GatewayError | None:
    """The error of the limit that a turn exceeds; None if it exceeds none any more. The limit that lasts longest comes
    first."""
    for budget in sorted(limits.budgets or (), key=lambda budget: budget.period, reverse=True):
        if budget_used(budget, use.counters) + getattr(needs, counter_of(budget)) > budget.amount:
            return _exhausted(token, budget, getattr(needs, counter_of(budget)), use)
    counters = use.counters
    if limits.tpm and needs.tokens > limits.tpm:
        return _too_large(token, limits.tpm, needs.tokens)
    if limits.tpm and counters.tokens + needs.tokens > limits.tpm:
        return _limited(token, "tokens", "tokens per min (TPM)", limits.tpm, counters.tokens, needs.tokens, use)
    if limits.rpm and counters.requests + needs.requests > limits.rpm:
        return _limited(token, "requests", "requests per min (RPM)", limits.rpm, counters.requests, 1, use)
    if limits.concurrency and counters.running + needs.running > limits.concurrency:
        return RateLimited(
            f"Rate limit reached for token '{token.name}' on requests at once: Limit {limits.concurrency}, Running "
            f"{counters.running}. A request has to end first. Please try again in {_SOON:.0f}s.",
            retry_after=_SOON,
        )
    return None


def changing(token: Token) -> RateLimited:
    """The error of a turn that was refused while its limits had no room, and now have some."""
    return RateLimited(
        f"Rate limit reached for token '{token.name}'. Please try again in {_SOON:.0f}s.", retry_after=_SOON
    )


def price_unknown(token: Token, budget: Budget, model: str) -> InvalidRequest:
    return InvalidRequest(
        f"Token '{token.name}' has a budget in {budget.unit.upper()}, and the price of the model '{model}' is not "
        "known. The operator of the gateway can state it in the channel table, as `price` of the model.",
        code="price_unknown",
        param="model",
    )


def _limited(token: Token, kind: str, what: str, limit: int, used: int, needed: int, use: Use) -> RateLimited:
    left = seconds_left("minute", use.now)
    return RateLimited(
        f"Rate limit reached for token '{token.name}' on {what}: Limit {limit}, Used {used}, Requested {needed}. "
        f"Please try again in {left}s.",
        type=kind,
        retry_after=left,
    )


def _too_large(token: Token, limit: int, needed: int) -> RateLimited:
    error = RateLimited(
        f"Request too large for token '{token.name}' on tokens per min (TPM): Limit {limit}, Requested {needed}. The "
        "input must be reduced in order to run successfully.",
        type="tokens",
    )
    error.should_retry = False
    return error


def _exhausted(token: Token, budget: Budget, needed: int, use: Use) -> QuotaExhausted:
    used, end = budget_used(budget, use.counters), end_of(budget.period, use.now)
    return QuotaExhausted(
        f"You exceeded your current quota: token '{token.name}' may use {budget.shown(budget.amount)} a "
        f"{budget.period}, has used or reserved {budget.shown(used)}, and this request needs at least "
        f"{budget.shown(needed)}. The budget resets at {end:%Y-%m-%dT%H:%M:%SZ}, in "
        f"{duration(seconds_left(budget.period, use.now))}. The operator of the gateway can raise it."
    )
