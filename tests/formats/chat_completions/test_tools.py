from typing import Any

import pytest

from app.contract.items import Item
from app.contract.records import Chain
from app.errors import InvalidRequest
from app.formats import chat_completions
from app.formats._toolbox import Toolbox
from tests.formats.chat_completions.conversations import encoded
from tests.formats.conversations import link, message_item, row, turn

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


def sent_with(*tools: Item, keys: Any = None, **request: Any) -> dict[str, Any]:
    return encoded(turn(message_item("user", "U"), tools=list(tools), **request), **(keys or {}))


def functions(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {tool["function"]["name"]: tool["function"] for tool in body["tools"]}


def test_functions_keep_their_schema_and_always_have_one() -> None:
    sent = functions(sent_with(WEATHER, CLOCK))
    assert sent["get_weather"] == {name: value for name, value in WEATHER.items() if name != "type"}
    assert sent["clock"] == {"name": "clock", "parameters": {"type": "object", "properties": {}}}


def test_a_custom_tool_is_a_function_with_one_string() -> None:
    sent = functions(sent_with(PATCH))["apply_patch"]
    assert sent["parameters"]["required"] == ["input"]
    assert sent["parameters"]["properties"]["input"]["type"] == "string"
    assert sent["description"].startswith("Edits")
    assert "start: X" in sent["description"]


def test_namespaces_are_flattened_with_their_description() -> None:
    sent = functions(sent_with(CRM))
    assert list(sent) == ["crm__find", "crm__apply_patch"]
    assert sent["crm__find"]["description"] == "Customers"


def test_names_that_are_too_long_or_taken_are_made_different() -> None:
    long = {**CLOCK, "name": "x" * 100}
    other = {**CRM, "tools": [{**CLOCK, "name": "find"}]}
    box = Toolbox([long, {**CLOCK, "name": "crm__find"}, other])
    sent = list(box.functions)
    assert len(sent) == 3
    assert all(len(name) <= 64 for name in sent)
    assert [box.called(name).name for name in sent] == ["x" * 100, "crm__find", "find"]
    assert box.flat_name("find", "crm") == sent[2]


def test_tools_that_items_bring_are_tools() -> None:
    brought = {"type": "additional_tools", "role": "developer", "tools": [WEATHER]}
    found = {"type": "tool_search_output", "call_id": None, "tools": [CLOCK]}
    body = encoded(turn(message_item("user", "U"), found, chain=Chain((link(input=(brought,)),))))
    assert list(functions(body)) == ["get_weather", "clock"]


@pytest.mark.parametrize("tools", [(), (SEARCH,)])
def test_settings_of_tools_are_not_sent_without_tools(tools: tuple[Item, ...]) -> None:
    body = sent_with(*tools, tool_choice="auto", parallel_tool_calls=False)
    assert body.keys().isdisjoint(("tools", "tool_choice", "parallel_tool_calls"))


def test_choices_are_sent_as_a_chat_has_them() -> None:
    body = sent_with(WEATHER, CRM, tool_choice="required", parallel_tool_calls=False)
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)
    forced = {"type": "function", "function": {"name": "get_weather"}}
    assert sent_with(WEATHER, tool_choice={"type": "function", "name": "get_weather"})["tool_choice"] == forced
    forced = {"type": "function", "function": {"name": "crm__find"}}
    assert sent_with(CRM, tool_choice={"type": "function", "name": "find"})["tool_choice"] == forced
    assert sent_with(CRM, tool_choice={"type": "function", "name": "find", "namespace": "crm"})["tool_choice"] == forced
    assert sent_with(PATCH, tool_choice={"type": "custom", "name": "apply_patch"})["tool_choice"]["type"] == "function"


def test_only_allowed_tools_are_sent() -> None:
    allowed = [{"type": "function", "name": "clock"}, {"type": "mcp", "server_label": "docs"}]
    choice = {"type": "allowed_tools", "mode": "required", "tools": allowed}
    body = sent_with(WEATHER, CLOCK, MCP, tool_choice=choice)
    assert list(functions(body)) == ["clock"]
    assert body["tool_choice"] == "required"


def test_tools_an_upstream_cannot_run_are_left_out_and_named() -> None:
    strange = {"type": "x\r\nEvil: yes"}
    wanted = turn(message_item("user", "U"), tools=[SEARCH, WEATHER, MCP, SEARCH, strange])
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
        encoded(turn(message_item("user", "U"), **request_))
    assert refusal.value.param == "tool_choice"


def test_a_row_may_refuse_what_it_would_have_to_leave_out() -> None:
    with pytest.raises(InvalidRequest, match="web_search") as refusal:
        sent_with(SEARCH, WEATHER, keys={"hosted_tools": "refuse"})
    assert refusal.value.param == "tools"
    assert sent_with(WEATHER, keys={"hosted_tools": "refuse"})["tools"]
