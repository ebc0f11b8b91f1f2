"""Limits of tokens as values, and the texts that state them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.limits import MOST, Budget, Limits, budgets
from app.contract.money import MICRO


@pytest.mark.parametrize(
    ("text", "amount", "unit", "period"),
    [
        ("2Mtok/day", 2_000_000, "tok", "day"),
        ("500ktok/month", 500_000, "tok", "month"),
        ("1.5ktok/day", 1_500, "tok", "day"),
        ("7tok/day", 7, "tok", "day"),
        ("50usd/month", 50 * MICRO, "usd", "month"),
        ("0.000001eur/day", 1, "eur", "day"),
        ("1.1usd/day", 1_100_000, "usd", "day"),
    ],
)
def test_a_budget_is_read_to_the_last_digit(text: str, amount: int, unit: str, period: str) -> None:
    budget = Budget.of(text)
    assert (budget.amount, budget.unit, budget.period) == (amount, unit, period)
    assert Budget.of(budget.text) == budget


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2Mtok",
        "tok/day",
        "0usd/day",
        "-1usd/day",
        "1e3usd/day",
        "5USD/day",
        "5usd/week",
        "0.0000001usd/day",
        "0.5tok/day",
        "9" * 15 + "Mtok/day",
        "٣usd/day",
        "5usd/day\n5usd/day",
    ],
)
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a budget"):
        Budget.of(text)


@given(st.integers(1, MOST), st.sampled_from(["tok", "usd"]), st.sampled_from(["day", "month"]))
def test_the_text_of_a_budget_reads_as_the_budget(amount: int, unit: str, period: str) -> None:
    budget = Budget(amount, unit, "day" if period == "day" else "month")
    assert Budget.of(budget.text) == budget


def test_an_amount_of_a_budget_stands_in_a_sentence() -> None:
    tokens, money = Budget.of("2Mtok/day"), Budget.of("50usd/month")
    assert [tokens.shown(amount) for amount in (0, 1, 1_500)] == ["0 tokens", "1 token", "1,500 tokens"]
    assert money.shown(12_500_000) == "12.5 USD"


def test_two_budgets_of_a_kind_or_in_two_currencies_are_refused() -> None:
    assert len(budgets(["1usd/day", "2usd/month", "3tok/day", "4tok/month"])) == 4
    for wrong in (["1usd/day", "2usd/day"], ["1usd/day", "1eur/month"], ["1tok/day", "1ktok/day"]):
        with pytest.raises(ValueError, match="must"):
            budgets(wrong)


def test_a_limit_that_a_token_states_wins_also_when_it_is_none() -> None:
    table = Limits(rpm=60, tpm=1000, concurrency=4, budgets=budgets(["1Mtok/day"]), tags=("local",))
    assert Limits().or_else(table) == table
    assert Limits(rpm=0, tpm=5, budgets=()).or_else(table) == Limits(0, 5, 4, (), ("local",))
    assert Limits(tags=()).or_else(table).tags == ()
    assert not Limits(0, 0, 0, ()).or_else(table).any
    assert not Limits().or_else(Limits()).any


@given(
    st.builds(
        Limits,
        st.none() | st.integers(0, MOST),
        st.none() | st.integers(0, MOST),
        st.none() | st.integers(0, MOST),
        st.sampled_from([None, (), budgets(["2Mtok/day", "5usd/month"])]),
        st.sampled_from([None, (), ("cloud", "local")]),
    )
)
def test_limits_are_what_their_json_says(limits: Limits) -> None:
    assert Limits.of(limits.wire()) == limits
