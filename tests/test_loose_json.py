"""JSON that is not strict, as model servers write it."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import loose_json, nesting
from tests.depth import nested_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.booleans())
def test_what_python_writes_is_read_and_can_be_written_strictly(value: Any, escaped: bool) -> None:
    written = json.dumps(value, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    read = nesting.from_upstream(written)
    assert orjson.loads(orjson.dumps(read)) == read


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":NaN,"b":[Infinity,-Infinity]}', {"a": None, "b": [None, None]}),
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b'\n\n {"a":1}\r\n', {"a": 1}),
        (b'{"a":"x\ty"}', {"a": "x\ty"}),
        (rb'{"a":"ok \ud83d!"}', {"a": "ok \ufffd!"}),
        (b'{"a":"ok \xed\xa0\xbd!"}', {"a": "ok \ufffd!"}),
        (b'{"a":"\xed\xa0\xbd\xed\xb8\x80"}', {"a": "\U0001f600"}),
    ],
)
def test_loose_json_is_read(data: bytes, value: Any) -> None:
    assert nesting.from_upstream(data) == value


@pytest.mark.parametrize("data", [b"", b"nan", b"{", b"{'a':1}", b'{"a":1,}', b'{"a":"\xff"}', b'{"a":1} x'])
def test_what_is_not_json_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        loose_json.loads(data)


def test_loose_json_is_not_nested_deeper_than_strict_json() -> None:
    with pytest.raises(nesting.TooDeep):
        nesting.from_upstream(b"[NaN,%b]" % nested_text(nesting.FROM_UPSTREAMS))
    with pytest.raises(ValueError, match=r"."):
        nesting.from_upstream(b"[NaN,%b]" % nested_text(200_000))
