"""What becomes of results and of calls in a whole turn: long ones, pictures, failures beside successes, names that
stand for nothing or for two tools.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import orjson
import pytest

from tests.relay.tools.conftest import ASK_BOTH, ToolCase, kinds_of, mcp
from tests.tool_servers.tools import PIXEL
from tests.upstream import Script, retold
from tests.upstream_formats import lines

JSON = dict[str, Any]
either = pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
LIMIT = 256 * 1024


def calls_of(response: JSON) -> list[JSON]:
    return [item for item in response["output"] if item["type"] == "mcp_call"]


def outputs_in(body: JSON) -> list[str]:
    return [line[1] for line in lines(body) if line[0] == "output"]


@either
def test_a_long_result_is_cut_alike_for_client_store_and_model(tool_case: ToolCase, streamed: bool) -> None:
    tool_case.upstream.enqueue(arguments({"size": 700_000}), *tool_case.dialect)
    response = tool_case.ask(streamed, tools=[mcp("big")])
    (call,) = calls_of(response)
    assert call["status"] == "completed"
    assert len(call["output"].encode()) <= LIMIT
    assert call["output"].rstrip("]").endswith("left out")
    assert outputs_in(tool_case.bodies[-1]) == [call["output"]]
    assert tool_case.gateway.get(f"/responses/{response['id']}").json()["output"] == response["output"]


def arguments(given: JSON) -> Script:
    """The model calls with these arguments."""
    return retold(lambda answer: replaced(answer, given))


def replaced(answer: Any, given: JSON) -> Any:
    """An answer of any format with these arguments in each of its calls."""
    if isinstance(answer, list):
        return [replaced(one, given) for one in answer]
    if not isinstance(answer, dict):
        return answer
    changed = {key: replaced(value, given) for key, value in answer.items()}
    if "arguments" in changed:
        changed["arguments"] = orjson.dumps(given).decode()
    if changed.get("type") == "tool_use":
        changed["input"] = given
    return changed


@either
def test_a_picture_reaches_the_model_whole_and_the_client_as_a_label(tool_case: ToolCase, streamed: bool) -> None:
    response = tool_case.ask(streamed, tools=[mcp("image")])
    (call,) = calls_of(response)
    data = b64encode(PIXEL[:60]).decode()  # whole groups of three, whatever follows
    assert call["output"].startswith("a pixel\n[image: image/png, ")
    assert data not in orjson.dumps(response).decode()
    assert data in orjson.dumps(tool_case.bodies[-1]).decode()
    # What the next turn's history has is the label.
    tool_case.upstream.reset()
    tool_case.ask(streamed, previous_response_id=response["id"], input="And?", tools=[mcp("image")])
    assert any("[image: image/png, " in output for output in outputs_in(tool_case.bodies[-1]))


@either
def test_one_call_fails_and_the_other_does_not(tool_case: ToolCase, streamed: bool) -> None:
    response = tool_case.ask(streamed, input=ASK_BOTH, tools=[mcp("echo", "fail")])
    statuses = {call["name"]: (call["status"], call["output"]) for call in calls_of(response)}
    assert statuses == {"echo": ("completed", "Oslo"), "fail": ("failed", None)}
    assert response["status"] == "completed"
    assert len(outputs_in(tool_case.bodies[-1])) == 2


@either
def test_tools_of_one_name_on_two_servers_are_told_apart(tool_case: ToolCase, streamed: bool) -> None:
    response = tool_case.ask(streamed, input=ASK_BOTH, tools=[mcp("echo"), mcp("echo", label="careful")])
    call, request = response["output"][-2:]
    assert (call["type"], call["name"], call["server_label"]) == ("mcp_call", "echo", "docs")
    assert (request["type"], request["name"], request["server_label"]) == ("mcp_approval_request", "echo", "careful")
    names = [tool.get("name") or tool["function"]["name"] for tool in tool_case.bodies[0]["tools"]]
    assert len(set(names)) == len(names) == 2


@either
def test_a_name_that_stands_for_no_tool_is_answered_to_the_model(tool_case: ToolCase, streamed: bool) -> None:
    before = len(tool_case.server.calls)
    tool_case.upstream.enqueue(retold(lambda answer: renamed(answer, "echo", "invented")), *tool_case.dialect)
    response = tool_case.ask(streamed)
    assert response["status"] == "completed"
    assert kinds_of(response) == ["mcp_list_tools", "message"]
    assert "function_call" not in str(response["output"])
    assert len(tool_case.server.calls) == before
    assert outputs_in(tool_case.bodies[-1]) == ["Unknown tool: invented"]


@either
def test_a_name_that_may_be_a_function_of_the_clients_ends_the_turn(tool_case: ToolCase, streamed: bool) -> None:
    tool_case.upstream.enqueue(retold(lambda answer: renamed(answer, "echo", "weather")), *tool_case.dialect)
    weather = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
    response = tool_case.ask(streamed, tools=[mcp("echo"), weather])
    assert kinds_of(response) == ["mcp_list_tools", "function_call"]
    assert response["output"][-1]["name"] == "weather"


def renamed(answer: Any, name: str, other: str) -> Any:
    if isinstance(answer, list):
        return [renamed(one, name, other) for one in answer]
    if not isinstance(answer, dict):
        return answer
    return {
        key: other if key == "name" and value == name else renamed(value, name, other) for key, value in answer.items()
    }


@either
def test_required_holds_for_the_first_exchange_only(tool_case: ToolCase, streamed: bool) -> None:
    response = tool_case.ask(streamed, input="Say something", tool_choice="required")
    assert kinds_of(response) == ["mcp_list_tools", "mcp_call", "message"]
    assert response["tool_choice"] == "required"


@either
def test_none_calls_nothing(tool_case: ToolCase, streamed: bool) -> None:
    before = len(tool_case.server.calls)
    response = tool_case.ask(streamed, tool_choice="none")
    assert kinds_of(response) == ["mcp_list_tools", "message"]
    assert len(tool_case.server.calls) == before


@either
def test_allowed_tools_name_a_server(tool_case: ToolCase, streamed: bool) -> None:
    allowed = [{"type": "mcp", "server_label": "docs", "name": "echo"}]
    choice = {"type": "allowed_tools", "mode": "required", "tools": allowed}
    response = tool_case.ask(streamed, input="Say something", tools=[mcp("add", "echo")], tool_choice=choice)
    assert [call["name"] for call in calls_of(response)] == ["echo"]
    assert response["tool_choice"] == choice
    assert kinds_of(response)[-1] == "message"
