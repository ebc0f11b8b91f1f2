"""Calls of tools in the history, as functions' calls and outputs."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.items import Item, gateway_item_id, is_call, is_output
from app.contract.tool_history import CallResult, ToolHistory, ToolItems, call_id_of, error_text

USER: Item = {"type": "message", "role": "user", "content": "hi"}
ANSWER: Item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "ok"}]}
REASONING: Item = {"type": "reasoning", "id": "rs_1", "summary": []}
LISTING: Item = {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "docs", "tools": []}
CLIENT: Item = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
CLIENT_OUTPUT: Item = {"type": "function_call_output", "call_id": "c", "output": "seen"}
HISTORY = ToolHistory({("docs", "search"): "search"}, {"web_search_call": "web_search"})


def call(number: int, round_: int = 0, **more: Any) -> Item:
    return {
        "id": gateway_item_id("mcp_call", "resp_1", number, round_),
        "type": "mcp_call",
        "status": "completed",
        "approval_request_id": None,
        "arguments": f'{{"query": "{number}"}}',
        "error": None,
        "name": "search",
        "output": f"found {number}",
        "server_label": "docs",
        **more,
    }


def request(number: int, round_: int = 0) -> Item:
    made = gateway_item_id("mcp_approval_request", "resp_1", number, round_)
    return {"id": made, "type": "mcp_approval_request", "arguments": "{}", "name": "search", "server_label": "docs"}


def response(to: Item, approve: bool, **more: Any) -> Item:
    return {"type": "mcp_approval_response", "approval_request_id": to["id"], "approve": approve, **more}


def written(*arrays: list[Item], history: ToolHistory = HISTORY, keeps: Any = None) -> list[list[Item]]:
    items = ToolItems(arrays, history, keeps or (lambda _number, _item: False))
    return [list(array) for array in items.as_functions()]


def brief(items: list[Item]) -> list[str]:
    """The calls by what they were written for, the outputs by their text, the others by their type."""
    return [item.get("arguments") or item.get("output") or item["type"] for item in items]


# --- one call -----------------------------------------------------------------------------------------------------


def test_a_call_is_a_functions_call_and_its_output() -> None:
    (items,) = written([call(1)])

    assert items == [
        {"type": "function_call", "call_id": call_id_of(call(1)), "name": "search", "arguments": '{"query": "1"}'},
        {"type": "function_call_output", "call_id": call_id_of(call(1)), "output": "found 1"},
    ]
    assert len(items[0]["call_id"]) <= 40


@pytest.mark.parametrize(
    ("label", "name", "shown"),
    [("docs", "search", "search"), ("docs", "fetch", "docs__fetch"), ("gone", "search", "gone__search")],
)
def test_a_call_has_the_name_that_the_turn_gives_its_tool(label: str, name: str, shown: str) -> None:
    (items,) = written([call(1, server_label=label, name=name)])
    assert items[0]["name"] == shown


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ({"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": "no"}, {"type": "image"}]}, "no"),
        ({"type": "mcp_tool_execution_error", "content": []}, "The tool failed."),
        ({"type": "mcp_protocol_error", "code": -32602, "message": "Unknown tool: x"}, "-32602: Unknown tool: x"),
        ({"type": "http_error", "code": 401, "message": "Unauthorized"}, "401: Unauthorized"),
        ("went wrong", "went wrong"),
        ({}, "The tool failed."),
        ({"type": "later"}, "The tool failed."),
        (7, "The tool failed."),
    ],
)
def test_the_words_of_an_error(error: object, text: str) -> None:
    assert error_text(error) == text
    if error:
        (items,) = written([call(1, output=None, error=error, status="failed")])
        assert (items[1]["output"], items[1]["status"]) == (text, "incomplete")


def test_a_call_without_a_result_says_so() -> None:
    for output in ({"output": None}, {"output": 7}):
        (items,) = written([call(1, **output)])
        assert items[1]["output"] == "(result not available)"
        assert "status" not in items[1]


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ("", "{}"),
        (None, "{}"),
        ('{"a": 1}', '{"a": 1}'),
        ("[1]", '{"arguments":"[1]"}'),
        ('{"a', '{"arguments":"{\\"a"}'),
    ],
)
def test_arguments_are_an_object(arguments: str | None, sent: str) -> None:
    assert written([call(1, arguments=arguments)])[0][0]["arguments"] == sent


def test_images_go_along_where_they_are_known() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
    history = ToolHistory(results={call(1)["id"]: CallResult(images=(image,))})

    assert written([call(1)], history=history)[0][1]["output"] == [{"type": "input_text", "text": "found 1"}, image]


# --- hosted calls -------------------------------------------------------------------------------------------------

SEARCH: Item = {
    "id": gateway_item_id("web_search_call", "resp_1", 1, 0),
    "type": "web_search_call",
    "status": "completed",
    "action": {"type": "search", "query": "cats"},
}


@pytest.mark.parametrize("result", [CallResult("Cats sleep."), CallResult("no network", failed=True)])
def test_a_hosted_call_has_its_hidden_result(result: CallResult) -> None:
    history = ToolHistory(HISTORY.names, HISTORY.hosted, {SEARCH["id"]: CallResult.of(result.stored())})
    status = "failed" if result.failed else "completed"
    (items,) = written([{**SEARCH, "status": status}], history=history)

    assert (items[0]["name"], items[0]["arguments"]) == ("web_search", '{"query":"cats"}')
    assert items[1]["output"] == result.text
    assert items[1].get("status") == ("incomplete" if result.failed else None)


def test_a_hosted_call_whose_result_is_gone() -> None:
    found = [{"text": "one", "file_id": "f"}, {"text": "two"}]
    files = {**SEARCH, "type": "file_search_call", "queries": ["cats"], "results": found}
    (items,) = written(
        [SEARCH, files, {**SEARCH, "status": "failed"}, {**files, "results": None}], history=ToolHistory()
    )

    outputs = [item["output"] for item in items if is_output(item)]
    assert outputs == ["(result not available)", "one\ntwo", "The tool failed.", "(result not available)"]
    assert [item["name"] for item in items if is_call(item)] == [
        "web_search",
        "file_search",
        "web_search",
        "file_search",
    ]


def test_a_search_of_an_upstream_stays_as_it_is() -> None:
    theirs = {**SEARCH, "id": "ws_0123456789"}
    assert written([USER, theirs, ANSWER]) == [[USER, theirs, ANSWER]]


# --- several calls ------------------------------------------------------------------------------------------------


def test_calls_of_one_answer_stand_together() -> None:
    (items,) = written([REASONING, call(1), call(2), CLIENT, call(3, 1), call(4, 1), ANSWER])

    assert brief(items) == [
        *("reasoning", '{"query": "1"}', '{"query": "2"}', "{}", "found 1", "found 2"),
        *('{"query": "3"}', '{"query": "4"}', "found 3", "found 4", "message"),
    ]


def test_calls_that_an_upstream_ran_stand_alone() -> None:
    theirs = [call(number, id=f"mcp_{number}") for number in (1, 2)]
    assert brief(written(theirs)[0]) == ['{"query": "1"}', "found 1", '{"query": "2"}', "found 2"]


def test_the_clients_own_output_ends_the_answer() -> None:
    (items,) = written([call(1), CLIENT, CLIENT_OUTPUT, call(2), ANSWER])
    assert brief(items) == ['{"query": "1"}', "{}", "found 1", "seen", '{"query": "2"}', "found 2", "message"]


def test_a_call_that_nothing_ran_reads_as_one_with_its_reason() -> None:
    nothing = {**CLIENT_OUTPUT, "output": "tool call limit reached", "status": "incomplete"}
    (items,) = written([call(1), CLIENT, nothing, call(2), ANSWER])

    assert brief(items) == [
        *('{"query": "1"}', "{}", '{"query": "2"}', "found 1", "tool call limit reached", "found 2", "message")
    ]


# --- listings and approvals ---------------------------------------------------------------------------------------


def test_a_listing_and_a_waiting_request_are_left_out_with_the_reasoning_before_them() -> None:
    assert written([USER], [LISTING, REASONING, request(1)]) == [[USER], []]
    assert written([USER], [LISTING, REASONING, call(1)])[1][0] == REASONING


def test_an_approved_call_stands_where_the_model_asked_for_it() -> None:
    asked = request(2)
    made = call(9, 0, approval_request_id=asked["id"])
    arrays = written([REASONING, call(1), asked], [response(asked, True), USER], [made, ANSWER])

    assert [brief(items) for items in arrays] == [
        ["reasoning", '{"query": "1"}', '{"query": "9"}', "found 1", "found 9"],
        ["message"],
        ["message"],
    ]


def test_an_approved_call_stands_alone_where_its_request_is_gone() -> None:
    made = call(9, approval_request_id=request(2)["id"])
    assert brief(written([made, ANSWER])[0]) == ['{"query": "9"}', "found 9", "message"]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({}, "Call denied by the user"),
        ({"reason": None}, "Call denied by the user"),
        ({"reason": "no"}, "Call denied by the user: no"),
    ],
)
def test_a_denied_call_reads_as_one_that_failed(more: Item, text: str) -> None:
    asked = request(1)
    arrays = written([REASONING, asked], [response(asked, False, **more)])

    assert [item["type"] for item in arrays[0]] == ["reasoning", "function_call", "function_call_output"]
    assert (arrays[0][2]["output"], arrays[0][2]["status"]) == (text, "incomplete")
    assert arrays[1] == []


def test_an_approval_whose_call_never_ran_leaves_nothing() -> None:
    asked = request(1)
    assert written([asked, response(asked, True), ANSWER]) == [[ANSWER]]


# --- the upstream that made the items -----------------------------------------------------------------------------

THEIRS: Item = {"type": "mcp_approval_request", "id": "mcpr_1", "server_label": "x", "name": "n", "arguments": "{}"}


def test_an_upstream_gets_its_own_items_as_they_were() -> None:
    made = call(1, id="mcp_1", approval_request_id="mcpr_1")
    array = [LISTING, REASONING, THEIRS, response(THEIRS, True), made, ANSWER]

    assert written(array, keeps=lambda _number, _item: True) == [array]


def test_an_upstream_gets_no_request_that_waits() -> None:
    assert written([REASONING, THEIRS], keeps=lambda _number, _item: True) == [[]]


def test_only_the_array_of_the_upstream_is_kept() -> None:
    array = [LISTING, REASONING, call(1, id="mcp_1"), ANSWER]
    first, second = written(array, array, keeps=lambda number, _item: number == 1)

    assert brief(first) == ["reasoning", '{"query": "1"}', "found 1", "message"]
    assert second == array


# --- any history --------------------------------------------------------------------------------------------------

ITEMS = st.one_of(
    st.builds(call, st.integers(0, 5), st.integers(0, 2)),
    st.builds(lambda number: call(number, id=f"mcp_{number}"), st.integers(0, 5)),
    st.builds(lambda number: call(number, approval_request_id=request(number)["id"]), st.integers(0, 3)),
    st.builds(request, st.integers(0, 3)),
    st.builds(lambda number, approve: response(request(number), approve), st.integers(0, 3), st.booleans()),
    st.sampled_from([USER, ANSWER, REASONING, LISTING, SEARCH]),
)


@given(st.lists(st.lists(ITEMS, max_size=6), max_size=4))
def test_whatever_the_history_holds_every_call_has_its_output(arrays: list[list[Item]]) -> None:
    before = orjson.dumps(arrays)
    items = [item for array in written(*arrays) for item in array]

    open_calls: list[str] = []
    for item in items:
        assert not item["type"].startswith("mcp_")
        if is_call(item):
            open_calls.append(item["call_id"])
        elif is_output(item):
            open_calls.remove(item["call_id"])
    assert open_calls == []
    assert orjson.dumps(arrays) == before
    assert [item for item in items if item in (USER, ANSWER)] == [
        item for array in arrays for item in array if item in (USER, ANSWER)
    ]
