"""Turns with tools in the background, over a WebSocket, and through the official SDK."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.relay.conftest import eventually
from tests.relay.tools.conftest import ASK, ToolCase, kinds_of, mcp
from tests.response_contract import check_response, check_stream
from tests.upstream_formats import lines
from tests.websocket_client import Socket, check_frames

JSON = dict[str, Any]
ROUND = ["mcp_list_tools", "mcp_call", "message"]


def test_a_background_response_runs_its_tools_and_its_events_can_be_read_again(tool_case: ToolCase) -> None:
    queued = tool_case.post(background=True).json()
    path = f"/responses/{queued['id']}"

    def look() -> JSON | None:
        response: JSON = tool_case.gateway.get(path).json()
        return None if response["status"] in ("queued", "in_progress") else response

    response = check_response(eventually(look, "the response to end"), status="completed")
    assert kinds_of(response) == ROUND
    raw = tool_case.gateway.get(f"{path}?stream=true").content
    events = check_stream(raw)
    assert events[-1]["response"] == response
    middle = len(events) // 2
    rest = tool_case.gateway.get(f"{path}?stream=true&starting_after={middle}").content
    assert raw.endswith(rest)
    assert len(rest) < len(raw)


def test_a_background_response_is_streamed_as_it_runs(tool_case: ToolCase) -> None:
    events = check_stream(tool_case.stream(background=True).content)
    assert kinds_of(events[-1]["response"]) == ROUND


def test_turns_over_a_websocket_end_in_one_frame(tool_case: ToolCase) -> None:
    with Socket(tool_case.gateway) as connection:
        for store in (True, False):
            tool_case.upstream.reset()
            tool_case.upstream.always(*tool_case.dialect)
            keys: JSON = {"model": tool_case.model, "tools": [mcp("echo")], "store": store}
            frames = check_frames(connection.turn(**keys, input=ASK))
            first = frames[-1]["response"]
            assert kinds_of(first) == ROUND
            follow_up = connection.turn(**keys, input="And now?", previous_response_id=first["id"])
            assert kinds_of(follow_up[-1]["response"]) == ["message"]
            assert ("output", "Oslo") in lines(tool_case.upstream.bodies[-1])


def test_the_sdk_reads_whole_turns(tool_case: ToolCase, sdk: Any) -> None:
    tools: list[Any] = [mcp("echo")]
    with sdk.responses.stream(model=tool_case.model, input=ASK, tools=tools) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds.count("response.created") == kinds.count("response.completed") == 1
    assert "response.mcp_call.completed" in kinds
    # Each is of the class that the SDK has for it, which names all of its members.
    for event in events:
        assert type(event).model_fields["type"].annotation is not str
        assert not event.model_extra, event.type
    assert [item.type for item in final.output if item.type != "reasoning"] == ROUND
    again = sdk.responses.create(model=tool_case.model, input="Ok", tools=tools, previous_response_id=final.id)
    assert again.output[-1].type == "message"


def test_the_sdk_asks_its_user_and_goes_on(tool_case: ToolCase, sdk: Any) -> None:
    tools: list[Any] = [mcp("echo", label="careful")]
    asked = sdk.responses.create(model=tool_case.model, input=ASK, tools=tools)
    request = asked.output[-1]
    assert request.type == "mcp_approval_request"
    tool_case.upstream.reset()
    tool_case.upstream.always(*tool_case.dialect)
    given = [{"type": "mcp_approval_response", "approval_request_id": request.id, "approve": True}]
    keys: JSON = {"model": tool_case.model, "previous_response_id": asked.id, "input": given, "tools": tools}
    with sdk.responses.stream(**keys) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    assert [item.type for item in final.output if item.type != "reasoning"] == ["mcp_call", "message"]
    assert final.output[0].approval_request_id == request.id


@pytest.fixture
def sdk(tool_case: ToolCase) -> Iterator[Any]:
    with tool_case.gateway.client() as client:
        yield client
