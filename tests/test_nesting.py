from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import nesting
from tests.depth import nested, nested_text

SHAPES = ["[", "{", "mixed"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("limit", [nesting.FROM_UPSTREAMS, nesting.FROM_CLIENTS])
def test_the_limit_is_exact(shape: str, limit: int) -> None:
    assert nesting.loads(orjson.dumps(nested(limit, shape)), limit) == nested(limit, shape)
    with pytest.raises(nesting.TooDeep):
        nesting.loads(nested_text(limit + 1, shape), limit)


@pytest.mark.parametrize("levels", [201, 252, 254, 255, 1020, 1024, 1025, 5000, 500_000])
def test_nothing_deeper_is_read(levels: int) -> None:
    with pytest.raises(nesting.TooDeep if levels < 1025 else orjson.JSONDecodeError):
        nesting.loads(nested_text(levels), nesting.FROM_CLIENTS)


def test_a_readable_value_can_be_written_inside_the_gateways_own() -> None:
    value: Any = nesting.loads(nested_text(nesting.FROM_CLIENTS), nesting.FROM_CLIENTS)
    for _ in range(50):
        value = {"within": value}
    assert orjson.dumps(value)


@given(st.integers(1, 260), st.sampled_from(SHAPES), st.integers(0, 3))
def test_the_member_that_is_too_deep_is_named(levels: int, shape: str, at: int) -> None:
    body = {f"m{number}": "[[[" for number in range(4)}
    text = orjson.dumps(body).replace(b'"m%d":"[[["' % at, b'"m%d":%b' % (at, nested_text(levels, shape)))
    if levels + 1 <= nesting.FROM_CLIENTS:
        assert nesting.loads(text, nesting.FROM_CLIENTS)
        return
    with pytest.raises(nesting.TooDeep) as found:
        nesting.loads(text, nesting.FROM_CLIENTS)
    assert found.value.member == f"m{at}"


def test_brackets_in_text_are_no_levels() -> None:
    text = orjson.dumps({"input": "[{" * 5000, "more": ["]"] * 5000})
    assert nesting.loads(text, nesting.FROM_CLIENTS)


def test_invalid_json_is_not_called_too_deep() -> None:
    with pytest.raises(orjson.JSONDecodeError):
        nesting.loads(b"[" * 300, nesting.FROM_CLIENTS)
