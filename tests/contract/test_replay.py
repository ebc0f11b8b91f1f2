"""What of an earlier answer goes to a model again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.items import Item, is_client_side
from app.contract.replay import (
    abandoned,
    cut_off,
    ended,
    may_be_cut,
    replayed,
    says_cut,
    without_abandoned,
    without_orphans,
)

TEXT: Item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]}
THOUGHT: Item = {"type": "reasoning", "id": "rs_1", "summary": []}
USER: Item = {"type": "message", "role": "user", "content": "hi"}


def call(arguments: Any = "{}", **members: Any) -> Item:
    return {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": arguments, **members}


OUTPUT: Item = {"type": "function_call_output", "call_id": "call_1", "output": "seen"}

items = st.sampled_from([TEXT, THOUGHT, USER, OUTPUT, call(), call('{"a":')])


@pytest.mark.parametrize(
    ("item", "cut"),
    [
        (call("{}"), False),
        (call('{"a":'), True),
        (call(""), True),
        (call("[]"), True),
        (call("{}", status="in_progress"), False),
        ({"type": "mcp_call", "arguments": '{"a":'}, True),
        ({"type": "mcp_call", "arguments": "{}"}, False),
        ({"type": "custom_tool_call", "input": "whole, perhaps"}, True),
        ({"type": "shell_call", "action": {"commands": ["ls"]}, "status": "completed"}, True),
        ({"type": "web_search_call", "status": "completed"}, False),
        ({"type": "dreamt_up"}, False),
        (TEXT, False),
    ],
)
def test_whole_json_alone_shows_that_a_call_is_whole(item: Item, cut: bool) -> None:
    assert may_be_cut(item) is cut


def test_a_custom_call_has_no_status_even_when_it_was_cut_off() -> None:
    assert cut_off(call())["status"] == "incomplete"
    assert "status" not in cut_off({"type": "custom_tool_call", "input": "x"})


@pytest.mark.parametrize(
    ("output", "remaining"),
    [
        ([TEXT, call('{"a":')], [TEXT]),
        ([THOUGHT, call('{"a":', status="completed")], []),
        ([THOUGHT], []),
        ([TEXT, THOUGHT], [TEXT]),
        ([THOUGHT, TEXT, THOUGHT, call("{}", status="incomplete")], [THOUGHT, TEXT]),
        ([THOUGHT, {**TEXT, "content": []}], []),
        ([THOUGHT, call()], [THOUGHT, call()]),
        ([THOUGHT, {"type": "web_search_call", "status": "searching"}], []),
    ],
)
def test_of_a_cut_answer_only_what_is_whole_is_replayed(output: list[Item], remaining: list[Item]) -> None:
    assert replayed(output, "incomplete") == remaining
    assert replayed(output, "completed") == output


@given(st.lists(items, max_size=8))
def test_reasoning_stays_before_what_it_led_to(history: list[Item]) -> None:
    remaining = without_orphans(history)
    assert [item for item in remaining if item is not THOUGHT] == [item for item in history if item is not THOUGHT]
    for position, item in enumerate(remaining):
        if item is THOUGHT:
            following = next((one for one in remaining[position:] if one is not THOUGHT), USER)
            assert not is_client_side(following)


@pytest.mark.parametrize(
    ("history", "dropped"),
    [
        ([USER, call('{"a":'), USER], 1),
        ([USER, call('{"a":'), OUTPUT], 0),
        ([USER, call("{}", status="incomplete"), USER], 1),
        ([USER, call("{}"), USER], 0),
        ([USER, THOUGHT, call('{"a":'), USER], 2),
    ],
)
def test_a_call_that_the_client_answered_stays(history: list[Item], dropped: int) -> None:
    assert len(without_abandoned(history)) == len(history) - dropped


@given(st.lists(items, max_size=8))
def test_only_calls_are_abandoned(history: list[Item]) -> None:
    assert all(item["type"] == "function_call" for item in abandoned(history))


@pytest.mark.parametrize("status", [[], {}, 1, None])
def test_a_status_that_is_no_word_cuts_nothing(status: Any) -> None:
    item = call(status=status)
    assert not says_cut(item)
    assert ended(item, "completed") is item
