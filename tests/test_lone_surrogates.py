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


def deltas(*texts: str, member: str = "text") -> list[bytes]:
    return [b'data: {"delta":{"%b":"%b"}}' % (member.encode(), text.encode()) for text in texts]


def joined(*events: bytes) -> list[bytes]:
    joiner = lone_surrogates.Joiner()
    return [joiner.join(event) for event in events]


def test_halves_are_joined_over_the_events_of_one_member() -> None:
    assert joined(*deltas(r"ok \ud83d", r"\ude00!")) == deltas("ok ", r"\ud83d\ude00!")
    assert joined(*deltas(r"\ud83d", "", r"\ude00")) == deltas("", "", r"\ud83d\ude00")
    block = b"\n\n".join(deltas(r"ok \ud83d", r"\ude00!"))
    assert joined(block) == [b"\n\n".join(deltas("ok ", r"\ud83d\ude00!"))]


def test_a_half_that_another_text_follows_is_replaced_there() -> None:
    assert joined(*deltas(r"a\ud83d", "b")) == deltas("a", r"\ufffdb")
    assert joined(*deltas(r"a\ud83d", r"\ud83d", "b")) == deltas("a", r"\ufffd", r"\ufffdb")
    assert joined(*deltas(r"\ude00b")) == deltas(r"\ufffdb")


def test_halves_of_other_members_do_not_meet() -> None:
    first, second = deltas(r"a\ud83d"), deltas(r"\ude00", member="other")
    assert joined(*first, *second) == [*deltas("a"), *deltas(r"\ufffd", member="other")]


def test_a_whole_text_loses_the_half_at_its_end_as_its_deltas_did() -> None:
    assert joined(rb'data: {"text":"a\ud83d"}', rb'data: {"text":"b"}') == [
        b'data: {"text":"a"}',
        b'data: {"text":"b"}',
    ]


def test_events_without_halves_are_the_same_objects() -> None:
    for event in (*deltas("a"), *deltas(r"\n\ud83d\ude00"), b'data: {"delta":"\xed\x95\x9c"}'):
        assert joined(event)[0] == event
