"""Halves of surrogate pairs: what is left of a text that holds them."""

from __future__ import annotations

import json
import re

import orjson
from hypothesis import given
from hypothesis import strategies as st

from app import lone_surrogates

UNITS = st.sampled_from([r"\ud83d", r"\uDE00", r"\u0041", r"\\", r"\"", r"\n", "ud83d", "a", "é", r"\\ud83d"])
LONE = re.compile("[\ud800-\udfff]")


@given(st.lists(UNITS, max_size=12).map("".join))
def test_only_lone_surrogates_are_replaced(text: str) -> None:
    spelled = f'{{"a{text}": ["{text}"]}}'.encode()
    read = orjson.loads(lone_surrogates.replace_escapes(spelled))
    expected = json.loads(spelled)
    ((key, (value,)),) = expected.items()
    assert read == {LONE.sub("\ufffd", key): [LONE.sub("\ufffd", value)]}
    assert lone_surrogates.replace_characters(value) == read[LONE.sub("\ufffd", key)][0]
