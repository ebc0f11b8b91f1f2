"""The headers `x-ratelimit-…` of answers to limited tokens, in OpenAI's names and formats."""

from __future__ import annotations

from collections.abc import Mapping

from app.contract.limits import Budget, Limits
from app.limits.periods import budget_used, seconds_left
from app.store.token_counters import Use

#: The names for a limit, for what remains of it, and for the time until it resets.
_REQUESTS, _TOKENS = (
    tuple(f"X-RateLimit-{name}-{what}" for name in ("Limit", "Remaining", "Reset")) for what in ("Requests", "Tokens")
)
#: Of these headers an answer has one at least, if it has any.
RATES = frozenset({_REQUESTS[0], _TOKENS[0]})


def has_rates(limits: Limits) -> bool:
    """Whether `rate_headers` of these limits says anything."""
    return bool(limits.rpm or limits.tpm or _in_tokens(limits))


def rate_headers(limits: Limits, use: Use) -> Mapping[str, str]:
    """The headers of the requests, and of the tokens: those of the minute, else those of the first budget in tokens."""
    now, _, counters = use
    headers: dict[str, str] = {}
    if limits.rpm:
        headers.update(zip(_REQUESTS, _values(limits.rpm, counters.requests, seconds_left("minute", now)), strict=True))
    if limits.tpm:
        headers.update(zip(_TOKENS, _values(limits.tpm, counters.tokens, seconds_left("minute", now)), strict=True))
    elif budget := _in_tokens(limits):
        values = _values(budget.amount, budget_used(budget, counters), seconds_left(budget.period, now))
        headers.update(zip(_TOKENS, values, strict=True))
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


def _values(limit: int, used: int, reset: int) -> tuple[str, str, str]:
    return str(limit), str(max(0, limit - used)), duration(reset)
