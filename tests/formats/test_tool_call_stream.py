from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.formats._tool_call_stream import InputReader


def read(*pieces: str) -> str:
    reader = InputReader()
    return "".join([*map(reader.feed, pieces), reader.rest()])


@given(text=st.text(st.characters(exclude_categories=["Cs"])), cuts=st.lists(st.integers(0, 60), max_size=5))
@example(text="\U0001f600\\u \"'\n", cuts=[17, 18, 19, 23, 24, 25])
def test_the_input_is_read_however_its_json_is_cut(text: str, cuts: list[int]) -> None:
    for written in (orjson.dumps({"input": text}).decode(), ascii_json(text)):
        ends = sorted(min(cut, len(written)) for cut in cuts)
        pieces = [written[start:end] for start, end in zip([0, *ends], [*ends, len(written)], strict=True)]
        assert read(*pieces) == text


def ascii_json(text: str) -> str:
    """The same text with every character escaped, as a surrogate pair where it needs one."""
    units = text.encode("utf-16-be")
    escaped = "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
    return f' {{ "input" : "{escaped}" }}'


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("*** Begin Patch", "*** Begin Patch"),
        ('{"patch": "x"}', '{"patch": "x"}'),
        ('{"input": 5}', '{"input": 5}'),
        ('{"input": "cut off', "cut off"),
        ('{"input": "cut off\\', "cut off"),
        ('{"input": "cut off\\u00', "cut off"),
        ('{"input": "a\\ud83d b"}', "a\ufffd b"),
        ('{"input": "a\\qb"}', "a\\qb"),
        ('{"input": "a\nb"}', "a\nb"),
        ('{"input": "a", "more": "b"}', "a"),
        ("", ""),
        ("{}", ""),
    ],
)
def test_another_value_than_the_object_is_the_input_itself(written: str, meant: str) -> None:
    assert read(written) == meant
    assert read(*written) == meant


@given(st.text(max_size=80))
def test_nothing_that_a_model_may_write_is_too_much(written: Any) -> None:
    assert isinstance(read(*written), str)
