"""Prices of the table's models as the package `genai-prices` knows them, for `antiphon prices update`. Its data comes
with the package: nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from app.channels.table import Table
from app.contract.channel import Channel
from app.contract.money import MICRO, Price, Rates, price_at

_DAY = 86_400
#: The package's names, in the order of ours.
_RATES = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
}


@dataclass(frozen=True, slots=True)
class NewPrice:
    """A price that the table does not have."""

    model: str
    price: Price
    known: bool
    """The table has a price of the model: the new one begins today."""


@dataclass(frozen=True, slots=True)
class PriceReport:
    changes: tuple[NewPrice, ...]
    unknown: tuple[str, ...]
    """Models without a price, here and in the table."""
    today: tuple[str, ...] = ()
    """Models with another price that the table lets begin today: it cannot have two for one day."""


def price_report(table: Table, now: int, *, any_provider: bool) -> PriceReport:
    """What is to be changed. A model is looked for at the provider that its channel's URL belongs to; `any_provider`
    also takes a price that another provider has for the name. Raises ImportError without the package."""
    changes: list[NewPrice] = []
    unknown: list[str] = []
    clashing: list[str] = []
    for name in sorted({name for channel in table.channels + table.without_key for name in channel.models}):
        found = _found(name, table, now, any_provider=any_provider)
        current = price_at(table.prices(name), now)
        today = now // _DAY * _DAY
        if found is None:
            unknown += [name] if name not in table.priced else []
        elif current is None and name not in table.priced:
            changes.append(NewPrice(name, found, known=False))
        elif current is None or not _same(current, found):
            if any(price.effective == today for price in table.prices(name)):
                clashing.append(name)
            else:
                own = name in table.priced
                changes.append(NewPrice(name, replace(found, effective=today if own else 0), known=own))
    return PriceReport(tuple(changes), tuple(unknown), tuple(clashing))


def written(price: Price) -> str:
    """The price as the table has it, in flow style: `{input: 1.25, output: 10}`."""
    members = list(_members(price.rates))
    if price.above:
        tiers = (f"{tokens}: {{{', '.join(_members(rates))}}}" for tokens, rates in sorted(price.above))
        members.append(f"above: {{{', '.join(tiers)}}}")
    if price.effective:
        members.append(f"effective: {datetime.fromtimestamp(price.effective, UTC).date().isoformat()}")
    return f"{{{', '.join(members)}}}"


def _members(rates: Rates) -> Iterator[str]:
    for name in _RATES:
        if (amount := getattr(rates, name)) is not None:
            yield f"{name}: {Decimal(amount) / MICRO:f}"


def _same(one: Price, other: Price) -> bool:
    return replace(one, effective=0) == replace(other, effective=0)


def _found(name: str, table: Table, now: int, *, any_provider: bool) -> Price | None:
    """The price of the first channel of the model that has one."""
    for channel in (*table.channels, *table.without_key):
        upstream_model = channel.models.get(name)
        if upstream_model is not None and (model := _model(upstream_model, channel, any_provider=any_provider)):
            return _price(model.get_prices(datetime.fromtimestamp(now, UTC)))
    return None


def _model(name: str, channel: Channel, *, any_provider: bool) -> Any | None:
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    urls = [url for url in (channel.base_url,) if url is not None]
    for url in (*urls, None) if any_provider else urls:
        try:
            return snapshot.find_provider_model(name, None, None, url)[1]
        except LookupError:
            continue
    return None


def _price(prices: Any) -> Price | None:
    """None for a model that is not paid by its tokens."""
    given = {name: getattr(prices, theirs, None) for name, theirs in _RATES.items()}
    if given["input"] is None or given["output"] is None:
        return None
    starts = sorted({tier.start for value in given.values() for tier in getattr(value, "tiers", ())}, reverse=True)
    return Price(_rates(given, 0), tuple((start, _rates(given, start)) for start in starts))


def _rates(given: dict[str, Any], start: int) -> Rates:
    """The rates of the tier that begins there."""
    return Rates(**{name: _amount(value, start) for name, value in given.items() if value is not None})


def _amount(value: Any, start: int) -> int:
    tiers: Iterable[Any] = getattr(value, "tiers", ())
    reached = [tier.price for tier in sorted(tiers, key=lambda tier: tier.start) if tier.start <= start]
    amount = reached[-1] if reached else getattr(value, "base", value)
    return round(Decimal(amount) * MICRO)
