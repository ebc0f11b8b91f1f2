"""A tool of a server that an upstream refuses is left out, so that the turn does not fail for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from app.contract.tool_history import ToolHistory
from app.errors import Refusal
from app.relay.tools.refused_tools import without_refused
from tests.formats.conversations import turn
from tests.relay.tools.conftest import ToolCase, kinds_of, mcp
from tests.upstream import Answer, Exchange, refusal

JSON = dict[str, Any]

OWN, SEARCH, FETCH = (
    {"type": "function", "name": name, "parameters": {}} for name in ("look", "search", "docs__fetch")
)
HISTORY = ToolHistory({("docs", "search"): "search", ("docs", "fetch"): "docs__fetch"})


@pytest.mark.parametrize(
    ("words", "params", "left"),
    [
        ("Invalid schema for function 'docs__fetch': In context=(), 'x' is not valid.", (), ["look", "search"]),
        ('tool "search" has no valid schema', (), ["look", "docs__fetch"]),
        ("Invalid 'tools[1].parameters'", (), ["look", "docs__fetch"]),
        ("No.", ("tools[2].function.parameters",), ["look", "search"]),
        ("tools.1.custom.input_schema: JSON schema is invalid", (), ["look", "docs__fetch"]),
        ("Invalid value at 'function_declarations[2].parameters'", (), ["look", "search"]),
        ("functions 'search' and 'docs__fetch' are invalid", (), ["look"]),
    ],
)
@pytest.mark.parametrize("shape", ["flat", "chat"])
def test_the_tool_that_a_refusal_names_is_left_out(
    words: str, params: tuple[str, ...], left: list[str], shape: str
) -> None:
    refused = replace(turn(tools=[OWN, SEARCH, FETCH], tool_choice="auto"), tool_history=HISTORY)
    sent = [{"type": "function", "function": tool} if shape == "chat" else tool for tool in (OWN, SEARCH, FETCH)]
    found = without_refused(refused, Refusal(400, words, params), {"tools": sent})

    assert found is not None
    amended, names = found
    assert [tool["name"] for tool in amended.request["tools"]] == left
    assert names == {"look", "search", "docs__fetch"} - set(left)
    assert len(refused.request["tools"]) == 3


@pytest.mark.parametrize(
    "words",
    [
        "Invalid schema for function 'look': no.",
        "Invalid 'tools[0].parameters'",
        "Invalid 'tools[9].parameters'",
        "Please search the documentation of our tools.",
        "The model 'search' does not exist.",
        "",
    ],
)
def test_nothing_else_is_left_out(words: str) -> None:
    refused = replace(turn(tools=[OWN, SEARCH, FETCH]), tool_history=HISTORY)
    assert without_refused(refused, Refusal(400, words), {"tools": [OWN, SEARCH, FETCH]}) is None


def test_a_choice_does_not_name_what_was_left_out() -> None:
    only = replace(turn(tools=[SEARCH], tool_choice="required", parallel_tool_calls=True), tool_history=HISTORY)
    found = without_refused(only, Refusal(400, "function 'search' is invalid"), {"tools": [SEARCH]})
    assert found is not None
    assert found[0].request.keys().isdisjoint({"tools", "tool_choice", "parallel_tool_calls"})

    entries = [{"type": "function", "name": name} for name in ("look", "search")]
    for choice, expected in [
        ({"type": "function", "name": "search"}, "auto"),
        ({"type": "function", "name": "look"}, {"type": "function", "name": "look"}),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": entries},
            {"type": "allowed_tools", "mode": "auto", "tools": entries[:1]},
        ),
    ]:
        both = replace(turn(tools=[OWN, SEARCH], tool_choice=choice), tool_history=HISTORY)
        found = without_refused(both, Refusal(400, "function 'search' is invalid"), {"tools": [OWN, SEARCH]})
        assert found is not None
        assert found[0].request["tool_choice"] == expected


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
def test_a_turn_goes_on_without_a_tool_that_the_model_refuses(tool_case: ToolCase, streamed: bool) -> None:
    def strict(exchange: Exchange, answer: Answer) -> Answer:
        names = [tool.get("name") or tool["function"]["name"] for tool in exchange.request.body.get("tools") or ()]
        if "add" in names:
            return refusal(400, "Invalid schema for function 'add': None is not of type 'string'.")(exchange, answer)
        return answer

    tool_case.upstream.always(*tool_case.dialect, strict)
    response = tool_case.ask(streamed, tools=[mcp("echo", "add")])

    assert kinds_of(response) == ["mcp_list_tools", "mcp_call", "message"]
    # Later exchanges of the turn do not send it again.
    assert len(tool_case.bodies) == 3
    shown = orjson.loads(tool_case.gateway.command("show", response["id"], "--json"))
    assert [attempt.get("adapted") for attempt in shown["attempts"]] == [None, ["drop tool add"], ["drop tool add"]]
    assert [tool["name"] for tool in response["output"][0]["tools"]] == ["add", "echo"]
