"""A server of functions in front of a client of custom tools and namespaces: requests, answers, streams."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.items import Item
from app.contract.turn import Turn
from app.errors import InvalidRequest
from app.formats import responses
from tests.formats.responses.transcripts import read, row, sent, stream_of, turn
from tests.sse_reader import read as read_events
from tests.test_sse import split

JSON = dict[str, Any]
PATCH: JSON = {"type": "custom", "name": "apply_patch", "description": "Edits files."}
FIND: JSON = {"type": "function", "name": "find", "parameters": {"type": "object", "properties": {}}}
CRM: JSON = {"type": "namespace", "name": "crm", "description": "Customers.", "tools": [FIND]}
TOOLS = [PATCH, FIND, CRM, {"type": "web_search"}]
USER: Item = {"type": "message", "role": "user", "content": "hi"}
FUNCTIONS = {"tools": "functions"}


def asked(*items: Item, **request: Any) -> Turn:
    return replace(turn(*(items or (USER,)), **{"tools": TOOLS, **request}), functions_only=True)


def encoded(request_turn: Turn) -> JSON:
    body: JSON = orjson.loads(responses.encode(request_turn, row(**FUNCTIONS), "up"))
    return body


def call(name: str, arguments: str, number: int = 1) -> Item:
    identity = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}", "status": "completed"}
    return {**identity, "name": name, "arguments": arguments}


# --- the request ------------------------------------------------------------------------------------------------


def test_tools_are_functions() -> None:
    tools = encoded(asked())["tools"]
    assert [(tool["type"], tool["name"]) for tool in tools] == [
        ("function", "apply_patch"),
        ("function", "find"),
        ("function", "crm__find"),
    ]
    assert tools[0]["parameters"]["required"] == ["input"]
    assert all(tool["strict"] is False for tool in tools)
    assert responses.dropped(asked(), row(**FUNCTIONS)) == ["web_search"]
    assert responses.dropped(asked(), row()) == ()


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", "auto"),
        ("required", "required"),
        ({"type": "custom", "name": "apply_patch"}, {"type": "function", "name": "apply_patch"}),
        ({"type": "function", "name": "find", "namespace": "crm"}, {"type": "function", "name": "crm__find"}),
    ],
)
def test_a_choice_names_the_function(choice: Any, expected: Any) -> None:
    assert encoded(asked(tool_choice=choice))["tool_choice"] == expected


def test_a_choice_of_a_tool_that_goes_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        encoded(asked(tool_choice={"type": "web_search"}))
    none_left = encoded(asked(tools=[{"type": "web_search"}], parallel_tool_calls=True, include=["x"]))
    assert none_left.keys().isdisjoint(("tools", "tool_choice", "parallel_tool_calls", "include"))


def test_the_history_has_calls_of_functions_only() -> None:
    history: list[Item] = [
        USER,
        {"type": "additional_tools", "role": "developer", "tools": [PATCH]},
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "a", "name": "apply_patch", "input": "*** Begin"},
        {"type": "custom_tool_call_output", "call_id": "a", "output": "Done."},
        {"type": "function_call", "call_id": "b", "namespace": "crm", "name": "find", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "Ada"}]},
        {"type": "local_shell_call", "id": "sh_1", "call_id": "c", "action": {"type": "exec", "command": ["ls"]}},
        {"type": "local_shell_call_output", "call_id": "c", "output": "x"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
    ]
    shown = [
        (item["type"], item.get("name"), item.get("arguments") or item.get("output"))
        for item in sent(asked(*history), **FUNCTIONS)[1:]
    ]
    assert shown == [
        ("function_call", "apply_patch", '{"input":"*** Begin"}'),
        ("function_call_output", None, "Done."),
        ("function_call", "crm__find", "{}"),
        ("function_call_output", None, "Ada"),
        ("function_call", "local_shell", '{"action":{"type":"exec","command":["ls"]}}'),
        ("function_call_output", None, "x"),
    ]


def test_another_row_gets_the_history_as_it_is() -> None:
    item: Item = {"type": "custom_tool_call", "call_id": "a", "name": "apply_patch", "input": "x"}
    output: Item = {"type": "custom_tool_call_output", "call_id": "a", "output": "Done."}
    assert [one["type"] for one in sent(turn(USER, item, output))] == [USER["type"], item["type"], output["type"]]


# --- the answer -------------------------------------------------------------------------------------------------


def whole(*items: Item, status: str = "completed") -> JSON:
    return {"id": "resp_u", "object": "response", "status": status, "model": "m", "output": list(items)}


def stream(*items: Item, size: int, status: str = "completed") -> bytes:
    """The answer as a stream, arguments in deltas of so many letters."""
    events: list[JSON] = [{"type": "response.created", "response": whole(status="in_progress")}]
    for index, item in enumerate(items):
        arguments, place = item["arguments"], {"output_index": index, "item_id": item["id"]}
        begun = {**item, "arguments": "", "status": "in_progress"}
        events.append({"type": "response.output_item.added", "output_index": index, "item": begun})
        for at in range(0, len(arguments), size):
            piece = {"delta": arguments[at : at + size]}
            events.append({"type": "response.function_call_arguments.delta", **place, **piece})
        if item["status"] == "completed":
            events.append({"type": "response.function_call_arguments.done", **place, "arguments": arguments})
            events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    events.append({"type": f"response.{status}", "response": whole(*items, status=status)})
    return stream_of(*({**event, "sequence_number": number} for number, event in enumerate(events)))


@given(
    st.text(max_size=40),
    st.lists(st.sampled_from(["apply_patch", "find", "crm__find", "unknown"]), min_size=1, max_size=3),
    st.integers(1, 9),
    st.lists(st.integers(0, 6000), max_size=12),
)
def test_a_stream_says_what_the_json_says(text: str, names: list[str], size: int, cuts: list[int]) -> None:
    arguments = orjson.dumps({"input": text}).decode()
    items = [call(name, arguments, number) for number, name in enumerate(names)]
    answer = responses.decode(orjson.dumps(whole(*items)), asked())
    streamed = asked(stream=True)
    out, decoder = read(split(stream(*items, size=size), cuts), streamed)
    assert decoder.answer is not None
    assert decoder.answer.output == answer.output
    found, faults = read_events(out)
    assert not faults
    events = [orjson.loads(event.data) for event in found]
    # The events begin where the relay's own end.
    numbers = [event["sequence_number"] for event in events]
    assert numbers == list(range(2, 2 + len(events)))
    for item in answer.output:
        assert ("input" in item) == (item["type"] == "custom_tool_call")
        assert item.get("input", text) == text
    deltas = [event for event in events if event["type"] == "response.custom_tool_call_input.delta"]
    assert all(delta["delta"] for delta in deltas)
    customs = [item for item in answer.output if item["type"] == "custom_tool_call"]
    assert "".join(delta["delta"] for delta in deltas) == text * len(customs)
    assert {delta["item_id"] for delta in deltas} <= {item["id"] for item in customs}


@pytest.mark.parametrize("streamed", [False, True])
def test_half_a_call_is_incomplete(streamed: bool) -> None:
    half = {**call("apply_patch", '{"input": "*** Beg'), "status": "in_progress"}
    if streamed:
        _, decoder = read([stream(half, size=4, status="incomplete")], asked(stream=True))
        answer = decoder.answer
    else:
        answer = responses.decode(orjson.dumps(whole({**half, "status": "incomplete"}, status="incomplete")), asked())
    assert answer is not None
    (item,) = answer.output
    assert (answer.status, item["type"], item["status"], item["input"]) == (
        "incomplete",
        "custom_tool_call",
        "incomplete",
        "*** Beg",
    )


def test_text_that_is_no_object_is_the_input() -> None:
    (item,) = responses.decode(orjson.dumps(whole(call("apply_patch", "*** Begin"))), asked()).output
    assert (item["type"], item["input"]) == ("custom_tool_call", "*** Begin")
