"""What a turn asked and did, in numbers and names of tools."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.outline import LONGEST, MOST, OTHERS, Outline, outline, unpacked

USER = {"type": "message", "role": "user", "content": "hi"}
ANSWER = {"type": "message", "role": "assistant", "content": []}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "x"}


def _call(name: str, type: str = "function_call") -> dict[str, Any]:
    return {"type": type, "name": name, "call_id": "c", "arguments": "{}"}


def test_only_what_is_new_in_a_history_counts() -> None:
    history = [USER, _call("old"), RESULT, ANSWER, USER, _call("a"), _call("b"), RESULT, RESULT]
    assert outline(history, [ANSWER]) == Outline(asked=False, results=2, message=True)
    assert outline([*history, ANSWER, USER], []).asked
    assert outline([{"role": "user", "content": "hi"}], []).asked


@pytest.mark.parametrize(
    ("item", "name"),
    [
        (_call("exec_command"), "exec_command"),
        (_call("apply_patch", "custom_tool_call"), "apply_patch"),
        (_call("search", "mcp_call"), "search"),
        ({"type": "local_shell_call", "action": {}}, "local_shell"),
        ({"type": "web_search_call", "status": "completed"}, "web_search"),
        ({"type": "new_thing_call"}, "new_thing"),
        ({"type": "function_call"}, "function_call"),
    ],
)
def test_each_call_has_the_name_of_its_tool(item: dict[str, Any], name: str) -> None:
    assert outline([USER], [item, item]).calls == {name: 2}


@pytest.mark.parametrize("item", [ANSWER, {"type": "reasoning"}, {"type": "mcp_list_tools"}, {"type": "compaction"}])
def test_other_items_are_no_calls(item: dict[str, Any]) -> None:
    assert outline([USER], [item]).calls == {}


def test_names_are_bounded() -> None:
    many = outline([], [_call(f"{'n' * 100}"), *(_call(f"tool_{at}") for at in range(20))])
    assert len(many.calls) == MOST + 1
    assert sum(many.calls.values()) == 21
    assert many.calls[OTHERS] == 21 - MOST
    assert max(map(len, many.calls)) == LONGEST


@given(
    st.builds(
        Outline,
        st.booleans(),
        st.integers(0, 99),
        st.dictionaries(st.text(max_size=8), st.integers(1, 9), max_size=3),
        st.booleans(),
    )
)
def test_what_is_stored_is_read_again(value: Outline) -> None:
    assert unpacked(value.packed()) == value


def test_a_row_of_an_earlier_release_has_none() -> None:
    assert unpacked(None) is None
