"""The texts in which people state what a token may do: what is read is meant, and everything else is a sentence."""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.limits import MOST, Budget
from app.reports import token_fields as fields

READERS = [
    fields.models,
    fields.tools,
    fields.tags,
    fields.amount,
    fields.budget_list,
    fields.expiry,
    fields.retention,
    fields.overlap,
]


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (fields.models, "gpt-6-*, demo", ("gpt-6-*", "demo")),
        (fields.models, "*", ()),
        (fields.tools, "none", ()),
        (fields.tools, "docs", ("docs",)),
        (fields.tags, "*", ()),
        (fields.tags, "eu,local", ("eu", "local")),
        (fields.tags, "default", None),
        (fields.amount, "60", 60),
        (fields.amount, "none", 0),
        (fields.amount, "default", None),
        (fields.budget_list, "20usd/month", (Budget(20_000_000, "usd", "month"),)),
        (fields.budget_list, "none", ()),
        (fields.expiry, "2100-01-01", 4102444800),
        (fields.expiry, "never", None),
        (fields.retention, "7d", 604_800),
        (fields.retention, "default", None),
        (fields.overlap, "0s", 0),
    ],
)
def test_what_people_write_is_read(read: Callable[[str], Any], text: str, value: Any) -> None:
    assert read(text) == value


def test_a_duration_counts_from_now() -> None:
    until = fields.expiry("12h")
    assert until is not None
    assert abs(until - time() - 12 * 3600) < 60


@given(text=st.one_of(st.text(max_size=30), st.from_regex(r"\A\d{1,30}[smhdw,/.-]?\d{0,9}\Z")))
def test_every_text_is_read_or_refused_with_a_sentence(text: str) -> None:
    for read in READERS:
        value, sentence = _read(read, text)
        assert sentence is None or sentence
        assert not isinstance(value, int) or 0 <= value <= max(MOST, 2**40)


def _read(read: Callable[[str], Any], text: str) -> tuple[Any, str | None]:
    try:
        return read(text), None
    except ValueError as error:
        return None, str(error)
