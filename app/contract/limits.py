"""What a token may use: requests and tokens a minute, requests at once, budgets, and the channels with certain tags.
Values and the texts in which people write them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from app.contract.money import MICRO

Period = Literal["day", "month"]

#: The unit of a budget in tokens. Any other unit is a currency.
TOKENS = "tok"
#: Lifts a limit that the table sets for all tokens.
NO_LIMIT = 0
#: The largest limit: sums of two of them still fit into a column.
MOST = 10**15

BUDGET = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,6}))?(k|M|G)?([a-z]{3})/(day|month)")
_FACTORS = {None: 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}


@dataclass(frozen=True, slots=True)
class Budget:
    """What a token may spend in a day or a month of UTC."""

    amount: int
    """Tokens, or micro-units of the currency."""
    unit: str
    """`tok`, or a currency such as `usd`."""
    period: Period

    @classmethod
    def of(cls, text: str) -> Budget:
        """Reads `2Mtok/day` or `12.50usd/month`. Raises ValueError."""
        match = BUDGET.fullmatch(text.strip())
        if match is None:
            raise ValueError("must be a budget such as 2Mtok/day, 500ktok/month or 50usd/month")
        whole, fraction, factor, unit, period = match.groups()
        # Digits are counted in millionths, so that no float rounds an amount of money.
        millionths = (int(whole) * MICRO + int((fraction or "").ljust(6, "0"))) * _FACTORS[factor]
        amount = millionths // MICRO if unit == TOKENS else millionths
        if not 0 < amount <= MOST:
            raise ValueError("must be a budget of more than 0 and of less than 1,000,000,000 million")
        return cls(amount, unit, "day" if period == "day" else "month")

    @property
    def in_money(self) -> bool:
        return self.unit != TOKENS

    @property
    def text(self) -> str:
        """As `of` reads it."""
        if not self.in_money:
            letter, factor = next(one for one in reversed(_FACTORS.items()) if self.amount % one[1] == 0)
            return f"{self.amount // factor}{letter or ''}{self.unit}/{self.period}"
        return f"{money(self.amount)}{self.unit}/{self.period}"

    def shown(self, amount: int) -> str:
        """An amount in the budget's unit, for a sentence: `1,500 tokens`, `12.5 USD`."""
        if self.in_money:
            return f"{money(amount)} {self.unit.upper()}"
        return f"{amount:,} token{'' if amount == 1 else 's'}"


def money(micro: int) -> str:
    """Micro-units as a decimal number, without zeros that say nothing."""
    whole, rest = divmod(micro, MICRO)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a token, or those of the table for all tokens. None: not stated here. `NO_LIMIT` (for budgets and
    tags an empty tuple): no limit, whatever the table says."""

    rpm: int | None = None
    """Requests a minute."""
    tpm: int | None = None
    """Tokens a minute, of input and output."""
    concurrency: int | None = None
    """Requests at once."""
    budgets: tuple[Budget, ...] | None = None
    tags: tuple[str, ...] | None = None
    """Only channels with one of these tags; empty means every channel."""
    models: tuple[str, ...] | None = None
    """In the table: the names or globs of models, for tokens that name none. In a token only empty: every model."""
    no_store: bool | None = None
    """In the table: requests are treated as `store: false`. In a token only False: they may be stored all the same."""

    def or_else(self, defaults: Limits) -> Limits:
        """These limits, and the defaults for those that are not stated."""
        return Limits(
            defaults.rpm if self.rpm is None else self.rpm,
            defaults.tpm if self.tpm is None else self.tpm,
            defaults.concurrency if self.concurrency is None else self.concurrency,
            defaults.budgets if self.budgets is None else self.budgets,
            defaults.tags if self.tags is None else self.tags,
            defaults.models if self.models is None else self.models,
            defaults.no_store if self.no_store is None else self.no_store,
        )

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return bool(self.rpm or self.tpm or self.concurrency or self.budgets)

    @property
    def counts_tokens(self) -> bool:
        """Whether a limit needs an estimate of the request's tokens."""
        return bool(self.tpm or self.budgets)

    def wire(self) -> dict[str, Any]:
        """The stated limits as JSON, for the row and for `--json`."""
        stated: dict[str, Any] = {"rpm": self.rpm, "tpm": self.tpm, "concurrency": self.concurrency}
        if self.budgets is not None:
            stated["budget"] = [budget.text for budget in self.budgets]
        if self.tags is not None:
            stated["tags"] = list(self.tags)
        if self.models is not None:
            stated["models"] = list(self.models)
        stated["no_store"] = self.no_store
        return {name: value for name, value in stated.items() if value is not None}

    @classmethod
    def of(cls, wire: Mapping[str, Any]) -> Limits:
        """The inverse of `wire`. Members of a newer version are left out."""
        return cls(
            wire.get("rpm"),
            wire.get("tpm"),
            wire.get("concurrency"),
            budgets(wire["budget"]) if "budget" in wire else None,
            tuple(wire["tags"]) if "tags" in wire else None,
            tuple(wire["models"]) if "models" in wire else None,
            wire.get("no_store"),
        )


#: No limit is stated.
UNSTATED = Limits()


def budgets(texts: Iterable[str]) -> tuple[Budget, ...]:
    """Budgets from their texts. Raises ValueError, also for two that count the same."""
    read = tuple(map(Budget.of, texts))
    if len({(budget.in_money, budget.period) for budget in read}) < len(read):
        raise ValueError("must not be two budgets of the same kind for the same period")
    if len({budget.unit for budget in read if budget.in_money}) > 1:
        raise ValueError("must be budgets in one currency")
    return read
