from typing import Any

import pytest

from app.contract.items import Item
from app.contract.records import Chain
from app.errors import InvalidRequest
from app.formats import chat_completions
from app.formats._toolbox import Toolbox
from tests.formats.chat_completions.conversations import encoded
from tests.formats.conversations import link, row, said, turn

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
CLOCK = {"type": "function", "name": "clock", "parameters": None, "strict": None}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: X"},
}
CRM = {"type": "namespace", "name": "crm", "description": "Customers", "tools": [{**CLOCK, "name": "find"}, PATCH]}
SEARCH = {"type": "web_search"}
MCP = {"type": "mcp", "server_label": "docs", "server_url": "https://x"}


def asked(*tools: Item, keys: Any = None, **request: Any) -> dict[str, Any]:
    return encoded(turn(said("user", "U"), tools=list(tools), **request), **(keys or {}))


def functions(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {tool["function"]["name"]: tool["function"] for tool in body["tools"]}


def test_functions_keep_their_schema_and_always_have_one() -> None:
    told = functions(asked(WEATHER, CLOCK))
    assert told["get_weather"] == {name: value for name, value in WEATHER.items() if name != "type"}
    assert told["clock"] == {"name": "clock", "parameters": {"type": "object", "properties": {}}}


def test_a_custom_tool_is_a_function_with_one_string() -> None:
    told = functions(asked(PATCH))["apply_patch"]
    assert told["parameters"]["required"] == ["input"]
    assert told["parameters"]["properties"]["input"]["type"] == "string"
    assert told["description"].startswith("Edits")
    assert "start: X" in told["description"]


def test_namespaces_are_flattened_with_their_description() -> None:
    told = functions(asked(CRM))
    assert list(told) == ["crm__find", "crm__apply_patch"]
    assert told["crm__find"]["description"] == "Customers"


def test_names_that_are_too_long_or_taken_are_made_different() -> None:
    long = {**CLOCK, "name": "x" * 100}
    other = {**CRM, "tools": [{**CLOCK, "name": "find"}]}
    box = Toolbox([long, {**CLOCK, "name": "crm__find"}, other])
    told = list(box.functions)
    assert len(told) == 3
    assert all(len(name) <= 64 for name in told)
    assert [box.called(name).name for name in told] == ["x" * 100, "crm__find", "find"]
    assert box.flat_name("find", "crm") == told[2]


def test_tools_that_items_bring_are_tools() -> None:
    brought = {"type": "additional_tools", "role": "developer", "tools": [WEATHER]}
    found = {"type": "tool_search_output", "call_id": None, "tools": [CLOCK]}
    body = encoded(turn(said("user", "U"), found, chain=Chain((link(input=(brought,)),))))
    assert list(functions(body)) == ["get_weather", "clock"]


@pytest.mark.parametrize("tools", [(), (SEARCH,)])
def test_what_goes_only_with_tools_is_not_sent_without(tools: tuple[Item, ...]) -> None:
    body = asked(*tools, tool_choice="auto", parallel_tool_calls=False)
    assert body.keys().isdisjoint(("tools", "tool_choice", "parallel_tool_calls"))


def test_choices_are_sent_as_a_chat_has_them() -> None:
    body = asked(WEATHER, CRM, tool_choice="required", parallel_tool_calls=False)
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)
    forced = {"type": "function", "function": {"name": "get_weather"}}
    assert asked(WEATHER, tool_choice={"type": "function", "name": "get_weather"})["tool_choice"] == forced
    forced = {"type": "function", "function": {"name": "crm__find"}}
    assert asked(CRM, tool_choice={"type": "function", "name": "find"})["tool_choice"] == forced
    assert asked(CRM, tool_choice={"type": "function", "name": "find", "namespace": "crm"})["tool_choice"] == forced
    assert asked(PATCH, tool_choice={"type": "custom", "name": "apply_patch"})["tool_choice"]["type"] == "function"


def test_allowed_tools_are_the_only_ones_told_of() -> None:
    allowed = [{"type": "function", "name": "clock"}, {"type": "mcp", "server_label": "docs"}]
    choice = {"type": "allowed_tools", "mode": "required", "tools": allowed}
    body = asked(WEATHER, CLOCK, MCP, tool_choice=choice)
    assert list(functions(body)) == ["clock"]
    assert body["tool_choice"] == "required"


def test_tools_an_upstream_cannot_run_are_left_out_and_named() -> None:
    strange = {"type": "x\r\nEvil: yes"}
    wanted = turn(said("user", "U"), tools=[SEARCH, WEATHER, MCP, SEARCH, strange])
    assert list(functions(encoded(wanted))) == ["get_weather"]
    assert chat_completions.dropped(wanted, row()) == ["web_search", "mcp", "unknown"]


@pytest.mark.parametrize(
    "request_",
    [
        {"tools": [SEARCH], "tool_choice": "required"},
        {"tools": [SEARCH, WEATHER], "tool_choice": {"type": "web_search"}},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "clock"}},
        {
            "tools": [WEATHER, SEARCH],
            "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "web_search"}]},
        },
    ],
)
def test_a_choice_that_nothing_can_meet_is_refused(request_: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        encoded(turn(said("user", "U"), **request_))
    assert refusal.value.param == "tool_choice"


def test_a_row_may_refuse_what_it_would_have_to_leave_out() -> None:
    with pytest.raises(InvalidRequest, match="web_search") as refusal:
        asked(SEARCH, WEATHER, keys={"hosted_tools": "refuse"})
    assert refusal.value.param == "tools"
    assert asked(WEATHER, keys={"hosted_tools": "refuse"})["tools"]
