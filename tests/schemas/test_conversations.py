"""What a client may send to `/v1/conversations`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.schemas.conversations import read_added_items, read_conversation, read_metadata

MESSAGE = {"role": "user", "content": "hello"}
READ = {**MESSAGE, "type": "message"}


@pytest.mark.parametrize("body", [{}, {"items": None, "metadata": None}, {"items": [], "metadata": {}}, {"other": 1}])
def test_an_empty_conversation(body: dict[str, Any]) -> None:
    assert read_conversation(body) == {"items": [], "metadata": {}}


def test_items_and_metadata() -> None:
    body = {"items": [MESSAGE, {"type": "input_text", "text": "a"}, {"id": "msg_1"}], "metadata": {"a": "b"}}
    parts = [{"type": "input_text", "text": "a"}]
    assert read_conversation(body) == {
        "items": [
            READ,
            {"type": "message", "role": "user", "content": parts},
            {"type": "item_reference", "id": "msg_1"},
        ],
        "metadata": {"a": "b"},
    }
    assert read_added_items({"items": [MESSAGE] * 20}) == [READ] * 20


def test_metadata_can_be_taken_away() -> None:
    assert read_metadata({"metadata": None}) == {}
    assert read_metadata({"metadata": {"a": "b"}}) == {"a": "b"}


@pytest.mark.parametrize(
    ("read", "body", "code", "param"),
    [
        (read_conversation, [], "invalid_type", None),
        (read_conversation, {"items": "hello"}, "invalid_type", "items"),
        (read_conversation, {"items": [MESSAGE] * 21}, "array_above_max_length", "items"),
        (read_conversation, {"items": [MESSAGE, {"role": "user"}]}, "missing_required_parameter", "items[1].content"),
        (read_conversation, {"items": [MESSAGE, {"type": "compaction_trigger"}]}, "invalid_value", "items[1]"),
        (read_conversation, {"metadata": {"a": 1}}, "invalid_type", "metadata.a"),
        (read_conversation, {"metadata": dict.fromkeys(map(str, range(17)), "")}, Any, "metadata"),
        (read_added_items, {}, "missing_required_parameter", "items"),
        (read_added_items, {"items": None}, "invalid_type", "items"),
        (read_added_items, {"items": []}, "empty_array", "items"),
        (read_added_items, {"items": [MESSAGE] * 21}, "array_above_max_length", "items"),
        (read_metadata, {}, "missing_required_parameter", "metadata"),
        (read_metadata, {"metadata": []}, "invalid_type", "metadata"),
        (read_metadata, {"metadata": {"a": "b" * 513}}, "string_above_max_length", "metadata.a"),
    ],
)
def test_refused_bodies(read: Callable[[object], object], body: object, code: str, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(body)
    assert caught.value.param == param
    assert code in (caught.value.code, Any)
