"""Unstreamed bodies: complete items stay unchanged."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app.contract.items import Item
from app.errors import UpstreamBroken, UpstreamFailed
from app.formats import responses
from app.formats.responses import _items
from tests.formats.responses.transcripts import turn

PART: dict[str, Any] = {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}
MESSAGE: Item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [PART]}
CALL: Item = {
    **{"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"},
    "status": "completed",
}
WHOLE: list[Item] = [
    MESSAGE,
    CALL,
    {**MESSAGE, "content": [{"type": "refusal", "refusal": "No"}], "phase": "commentary"},
    {"type": "reasoning", "id": "rs_1", "summary": [], "content": None, "encrypted_content": "x"},
    {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_2", "name": "f", "input": ""},
    {"type": "web_search_call", "id": "ws_1", "status": "completed"},
    {"type": "dreamt_up", "id": "x"},
]


def without(item: Item, *names: str) -> Item:
    return {name: value for name, value in item.items() if name not in names}


@pytest.mark.parametrize("item", WHOLE, ids=lambda item: item["type"])
def test_an_item_that_lacks_nothing_stays_the_same_object(item: Item) -> None:
    assert _items.complete(item, "resp_1", 0) is item


def test_an_exact_body_says_so() -> None:
    answer = responses.decode(orjson.dumps({"status": "completed", "output": WHOLE[1:]}), turn())
    assert (answer.path, answer.output) == ("bytes", WHOLE[1:])


@pytest.mark.parametrize(
    ("item", "whole"),
    [
        (without(MESSAGE, "role", "status"), MESSAGE),
        (without(MESSAGE, "type"), MESSAGE),
        ({**MESSAGE, "content": "Hi"}, MESSAGE),
        ({**MESSAGE, "content": ["Hi"]}, MESSAGE),
        ({**MESSAGE, "content": [{"type": "text", "text": "Hi"}]}, MESSAGE),
        ({**MESSAGE, "content": [{**PART, "annotations": None, "logprobs": None}]}, MESSAGE),
        ({**MESSAGE, "content": None}, {**MESSAGE, "content": []}),
        (without(CALL, "type", "status"), CALL),
        ({**CALL, "arguments": {"a": 1}}, {**CALL, "arguments": '{"a":1}'}),
        ({"type": "reasoning", "id": "rs_1", "content": "Hm"}, None),
        ({"type": "reasoning", "id": "rs_1", "content": [{"type": "text", "text": "Hm"}]}, None),
    ],
)
def test_an_item_that_lacks_something_is_completed(item: Item, whole: Item | None) -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]}
    answer = responses.decode(orjson.dumps({"output": [item]}), turn())
    assert answer.output == [whole or thought]
    assert answer.path == "repaired"


@pytest.mark.parametrize("item_id", [None, "", 7, "call_1"])
def test_an_item_gets_the_same_id_whenever_it_is_read(item_id: Any) -> None:
    body = orjson.dumps({"output": [{**CALL, "id": item_id}, MESSAGE, MESSAGE]})
    answer, again = responses.decode(body, turn()), responses.decode(body, turn())
    assert answer == again
    ids = [item["id"] for item in answer.output]
    assert len(set(ids)) == 3
    assert ids[0].startswith("fc_")


def test_calls_without_an_id_get_one_each() -> None:
    answer = responses.decode(
        orjson.dumps({"output": [without(CALL, "call_id"), without(CALL, "call_id", "id")]}), turn()
    )
    assert len({item["call_id"] for item in answer.output}) == 2


@pytest.mark.parametrize("body", [{"output_text": "Hi"}, {"output": "Hi"}, {"output": [], "output_text": "Hi"}])
def test_text_alone_becomes_a_message(body: Any) -> None:
    (item,) = responses.decode(orjson.dumps(body), turn()).output
    assert without(item, "id") == without(MESSAGE, "id")


def test_usage_without_details_counts_nothing_of_them() -> None:
    body = {"output": [MESSAGE], "usage": {"input_tokens": 1, "output_tokens": 2}}
    usage = responses.decode(orjson.dumps(body), turn()).usage
    assert usage is not None
    assert (usage.total_tokens, usage.cached_tokens, usage.reasoning_tokens) == (3, 0, 0)


@pytest.mark.parametrize("body", [{}, [], {"output": None}, {"output": ""}, {"output": [without(CALL, "name")]}])
def test_another_body_than_an_answer_is_refused(body: Any) -> None:
    with pytest.raises(UpstreamBroken):
        responses.decode(orjson.dumps(body), turn())


def test_a_failure_without_output_is_an_error() -> None:
    with pytest.raises(UpstreamFailed, match="Broke"):
        responses.decode(orjson.dumps({"status": "failed", "output": [], "error": {"message": "Broke"}}), turn())
