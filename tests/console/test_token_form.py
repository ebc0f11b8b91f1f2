"""The form of a token: what it shows means the same when it is sent back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.console import token_form
from app.contract.limits import Budget, Limits
from app.contract.records import Token

NAME = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=12)
NAMES = st.lists(NAME, max_size=3).map(tuple)
COUNT = st.one_of(st.none(), st.integers(0, 10**9))
BUDGETS = st.sampled_from([None, (), (Budget(5_000_000, "usd", "month"),), (Budget(2_500, "tok", "day"),)])
TAGS = st.sampled_from([None, (), ("eu",), ("eu", "local")])
TOKENS = st.builds(
    Token,
    key=st.just(7),
    name=NAME,
    owner=NAME,
    prefix=st.just("ap_123456"),
    models=NAMES,
    tools=NAMES,
    expires_at=st.one_of(st.none(), st.integers(4_000_000_000, 4_000_100_000)),
    retention=st.one_of(st.none(), st.integers(86_400, 10**7)),
    stores=st.booleans(),
    metrics=st.booleans(),
    console=st.sampled_from([None, "owner", "operator"]),
    limits=st.builds(Limits, rpm=COUNT, tpm=COUNT, concurrency=COUNT, budgets=BUDGETS, tags=TAGS),
)


@given(token=TOKENS)
def test_a_form_that_is_sent_back_changes_nothing(token: Token) -> None:
    form = token_form.read(token_form.texts_of(token), token)
    assert (form.errors, form.token) == ({}, token)
    assert token_form.changes(token, form.token) == ""


def test_an_expired_token_can_be_changed_without_another_expiry() -> None:
    token = Token(7, "ada-mac", "ada", "ap_123456", expires_at=1_700_000_000)
    form = token_form.read({**token_form.texts_of(token), "rpm": "60"}, token)
    assert (form.errors, form.token.expires_at, form.token.limits.rpm) == ({}, 1_700_000_000, 60)


@pytest.mark.parametrize("seconds", [86_400, 90_000, 604_800, 90_061])
def test_a_retention_is_written_in_its_largest_whole_unit(seconds: int) -> None:
    token = Token(7, "ada-mac", "ada", "ap_123456", retention=seconds)
    assert token_form.read(token_form.texts_of(token)).token.retention == seconds


def test_a_name_that_is_missing_is_one_error() -> None:
    assert token_form.read({"name": " ", "owner": ""}).errors == {"name": "A token needs a name."}
    assert token_form.read({"name": "ada-mac", "owner": ""}).token.owner == "ada-mac"


def test_name_and_owner_of_a_token_that_is_there_stay() -> None:
    token = Token(7, "ada-mac", "ada", "ap_123456")
    form = token_form.read({**token_form.texts_of(token), "name": "other", "owner": "bob"}, token)
    assert (form.token.name, form.token.owner) == ("ada-mac", "ada")
