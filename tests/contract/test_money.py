"""What exchanges cost."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from app.contract.money import Price, Rates, cost_of, price_at, shown
from app.contract.usage import NOTHING_USED, Usage

MILLION = 1_000_000


def test_each_kind_of_token_has_its_rate() -> None:
    rates = Rates(input=2 * MILLION, output=10 * MILLION, cached_input=200_000, cache_write=2_500_000)
    usage = Usage(input_tokens=1000, cached_tokens=600, cache_write_tokens=100, output_tokens=50, reasoning_tokens=40)
    assert rates.cost(usage) == 300 * 2 + 120 + 250 + 500


def test_tokens_without_a_rate_of_their_own_cost_what_other_input_costs() -> None:
    usage = Usage(input_tokens=1000, cached_tokens=600, cache_write_tokens=100)
    assert Rates(2 * MILLION, 0).cost(usage) == 2000
    assert Rates(2 * MILLION, 0, cached_input=0, cache_write=0).cost(usage) == 600


def test_counts_that_exceed_the_input_never_cost_less_than_nothing() -> None:
    assert Rates(MILLION, MILLION, 0, 0).cost(Usage(10, 20, 30, 1)) == 1


def test_a_cost_is_rounded_once_and_half_up() -> None:
    rates = Rates(input=500_000, output=0)
    assert [rates.cost(Usage(input_tokens=tokens)) for tokens in (0, 1, 2, 3)] == [0, 1, 1, 2]


@given(*[st.integers(0, 10**7)] * 4, *[st.integers(0, 10**12)] * 4)
def test_costs_are_exact(plain: int, cached: int, written: int, output: int, a: int, b: int, c: int, d: int) -> None:
    usage = Usage(plain + cached + written, cached, written, output)
    exact = Fraction(plain * a + cached * b + written * c + output * d, MILLION)
    assert abs(Rates(a, d, b, c).cost(usage) - exact) <= Fraction(1, 2)


def test_a_tier_holds_for_all_tokens_of_an_exchange() -> None:
    tiers = ((500, Rates(9 * MILLION, 9 * MILLION)), (100, Rates(2 * MILLION, 3 * MILLION)))
    price = Price(Rates(MILLION, MILLION), tiers)
    assert price.cost(Usage(input_tokens=100, output_tokens=10)) == 110
    assert price.cost(Usage(input_tokens=101, output_tokens=10)) == 202 + 30
    assert price.cost(Usage(input_tokens=501)) == 9 * 501


def test_the_newest_price_that_has_begun_holds() -> None:
    old, new = Price(Rates(MILLION, 0), effective=100), Price(Rates(2 * MILLION, 0), effective=200)
    assert [price_at((old, new), at) for at in (99, 100, 199, 200)] == [None, old, old, new]
    assert [cost_of(Usage(7), (new, old), at) for at in (99, 199, 200)] == [None, 7, 14]


def test_unknown_is_not_nothing() -> None:
    assert cost_of(Usage(7), (), 0) is None
    assert cost_of(Usage(7), (Price(Rates(0, 0)),), 0) == 0


def test_a_sum_with_an_unknown_part_is_unknown() -> None:
    assert (NOTHING_USED + Usage(cost=2) + Usage(cost=3)).cost == 5
    assert (NOTHING_USED + Usage(cost=2) + Usage()).cost is None


def test_amounts_are_shown_without_zeros_that_say_nothing() -> None:
    amounts = (None, 0, 1, 10_000, 12_500_000, 1_234_000_000)
    assert [shown(cost) for cost in amounts] == [None, "0", "0.000001", "0.01", "12.50", "1,234"]
