"""What a response costs. Money is whole micro-units of one currency, whichever the prices are written in: 1 USD is
1,000,000. An unknown cost is None, never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.contract.usage import Usage

#: Micro-units of one unit of the currency.
MICRO = 1_000_000

#: Tokens that a rate is the price of.
_TOKENS = 1_000_000


@dataclass(frozen=True, slots=True)
class Rates:
    """Micro-units of money for a million tokens of each kind."""

    input: int
    output: int
    cached_input: int | None = None
    """Of tokens from the provider's cache; None: they cost as much as other input."""
    cache_write: int | None = None
    """Of tokens written to the provider's cache; None: they cost as much as other input."""

    def cost(self, usage: Usage) -> int:
        """Micro-units, rounded half up. The counts of cached and written tokens are parts of the input's."""
        cached = min(usage.cached_tokens, usage.input_tokens)
        written = min(usage.cache_write_tokens, usage.input_tokens - cached)
        total = (
            (usage.input_tokens - cached - written) * self.input
            + cached * (self.input if self.cached_input is None else self.cached_input)
            + written * (self.input if self.cache_write is None else self.cache_write)
            + usage.output_tokens * self.output
        )
        return (2 * total + _TOKENS) // (2 * _TOKENS)


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs from a day on."""

    rates: Rates
    above: tuple[tuple[int, Rates], ...] = ()
    """Rates of exchanges with more input tokens than the number, which then hold for all of their tokens; the largest
    number first."""
    effective: int = 0
    """Unix time at which the price begins: the start of a day in UTC."""

    def cost(self, usage: Usage) -> int:
        """Micro-units for one exchange."""
        tiers = (rates for tokens, rates in self.above if usage.input_tokens > tokens)
        return next(tiers, self.rates).cost(usage)


def price_at(prices: Sequence[Price], at: int) -> Price | None:
    """The price that holds at a unix time; None before the first."""
    begun = [price for price in prices if price.effective <= at]
    return max(begun, key=lambda price: price.effective, default=None)


def cost_of(usage: Usage, prices: Sequence[Price], at: int) -> int | None:
    """Micro-units that one exchange costs at a unix time, by its model's dated prices; None if no price is known.
    The costs of several exchanges are added: a tier depends on the input of each."""
    price = price_at(prices, at)
    return None if price is None else price.cost(usage)


def shown(cost: int | None) -> str | None:
    """An amount for people: `12.50`, `0.0042`, `0`; None stays None."""
    if cost is None:
        return None
    whole, rest = divmod(cost, MICRO)
    fraction = f"{rest:06d}".rstrip("0")
    return f"{whole:,}.{fraction.ljust(2, '0')}" if fraction else f"{whole:,}"
