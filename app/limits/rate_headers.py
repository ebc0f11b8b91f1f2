"""The headers `x-ratelimit-…` of answers to limited tokens, in OpenAI's names and formats."""

from __future__ import annotations

from collections.abc import Mapping

from app.contract.limits import Budget, Limits
from app.limits.periods import budget_used, seconds_left
from app.store.token_counters import Use

_PREFIX = "X-RateLimit"
#: Of these headers an answer has one at least, if it has any.
RATES = frozenset({f"{_PREFIX}-Limit-Requests", f"{_PREFIX}-Limit-Tokens"})


def has_rates(limits: Limits) -> bool:
    """Whether `rate_headers` of these limits says anything."""
    return bool(limits.rpm or limits.tpm or _in_tokens(limits))


def rate_headers(limits: Limits, use: Use) -> Mapping[str, str]:
    """The headers of the requests, and of the tokens: those of the minute, else those of the first budget in tokens."""
    headers: dict[str, str] = {}
    if limits.rpm:
        headers |= _headers("Requests", limits.rpm, use.counters.requests, seconds_left("minute", use.now))
    if limits.tpm:
        headers |= _headers("Tokens", limits.tpm, use.counters.tokens, seconds_left("minute", use.now))
    elif budget := _in_tokens(limits):
        headers |= _headers(
            "Tokens", budget.amount, budget_used(budget, use.counters), seconds_left(budget.period, use.now)
        )
    return headers


def duration(seconds: int) -> str:
    """Seconds as OpenAI writes them: `1s`, `6m0s`, `2h0m30s`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes_left}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _in_tokens(limits: Limits) -> Budget | None:
    return next((budget for budget in limits.budgets or () if not budget.in_money), None)


def _headers(what: str, limit: int, used: int, reset: int) -> Mapping[str, str]:
    return {
        f"{_PREFIX}-Limit-{what}": str(limit),
        f"{_PREFIX}-Remaining-{what}": str(max(0, limit - used)),
        f"{_PREFIX}-Reset-{what}": duration(reset),
    }
