"""The body of a chat completion: what the gateway has to understand is checked, everything else is not its business."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.schemas.chat import read_chat

MESSAGES = [{"role": "user", "content": "hello"}]
BASE: dict[str, Any] = {"model": "m", "messages": MESSAGES}
WHOLE = {
    **BASE,
    "stream": None,
    "stream_options": {"include_usage": None, "include_obfuscation": False},
    "temperature": "hot",
    "tools": [],
    "x": {"y": [None]},
}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["model", "messages", "stream", "stream_options", "n"])


def test_a_body_leaves_as_it_came() -> None:
    assert read_chat(WHOLE) is WHOLE


@pytest.mark.parametrize(
    ("body", "code", "param", "message"),
    [
        ([], "invalid_type", None, "Invalid type for the request body: expected an object, but got an array instead."),
        ({}, "missing_required_parameter", "model", "Missing required parameter: 'model'."),
        ({"model": "m"}, "missing_required_parameter", "messages", "Missing required parameter: 'messages'."),
        ({**BASE, "model": None}, "missing_required_parameter", "model", "Missing required parameter: 'model'."),
        (
            {**BASE, "model": ""},
            "empty_string",
            "model",
            "Invalid 'model': empty string. Expected a string with minimum length 1, but got an empty string instead.",
        ),
        (
            {**BASE, "messages": "hi"},
            "invalid_type",
            "messages",
            "Invalid type for 'messages': expected an array of objects, but got a string instead.",
        ),
        (
            {**BASE, "messages": []},
            "empty_array",
            "messages",
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        ),
        (
            {**BASE, "stream": "true"},
            "invalid_type",
            "stream",
            "Invalid type for 'stream': expected a boolean, but got a string instead.",
        ),
        (
            {**BASE, "stream_options": True},
            "invalid_type",
            "stream_options",
            "Invalid type for 'stream_options': expected an object, but got a boolean instead.",
        ),
        (
            {**BASE, "stream_options": {"include_usage": 1}},
            "invalid_type",
            "stream_options.include_usage",
            "Invalid type for 'stream_options.include_usage': expected a boolean, but got an integer instead.",
        ),
    ],
)
def test_an_error_names_its_parameter(body: object, code: str, param: str | None, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_chat(body)
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    assert (caught.value.status, caught.value.error()) == (400, error)


@given(st.dictionaries(NAMES, JSON_VALUES) | JSON_VALUES)
def test_any_body_passes_or_is_refused(body: object) -> None:
    with suppress(InvalidRequest):
        assert read_chat(body) is body
