"""Calls that the client has to approve: asked for, answered in three ways, and answered once."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.relay.tools.conftest import ASK, ASK_BOTH, ToolCase, kinds_of, mcp
from tests.response_contract import check_error
from tests.stored_data import select
from tests.upstream import too_long
from tests.upstream_formats import lines

JSON = dict[str, Any]
either = pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])

CAREFUL = mcp("echo", label="careful")


def asked(tool_case: ToolCase, streamed: bool, **keys: Any) -> tuple[JSON, JSON]:
    """A response that asks for an approval, and the request."""
    response = tool_case.ask(streamed, tools=[CAREFUL], **keys)
    request = response["output"][-1]
    tool_case.upstream.reset()
    tool_case.upstream.always(*tool_case.dialect)
    return response, request


def answer_to(request: JSON, approve: bool = True, **keys: Any) -> JSON:
    return {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": approve, **keys}


@either
def test_the_turn_ends_with_the_request_and_nothing_has_run(tool_case: ToolCase, streamed: bool) -> None:
    before = len(tool_case.server.calls)
    response, request = asked(tool_case, streamed)
    assert response["status"] == "completed"
    assert kinds_of(response) == ["mcp_list_tools", "mcp_approval_request"]
    assert request == {
        "id": request["id"],
        "type": "mcp_approval_request",
        "arguments": request["arguments"],
        "name": "echo",
        "server_label": "careful",
    }
    assert orjson.loads(request["arguments"]) == {"text": "Oslo"}
    assert len(tool_case.server.calls) == before


def test_a_request_has_two_events(tool_case: ToolCase) -> None:
    events = tool_case.events(tools=[CAREFUL])
    of_request = [event for event in events if event.get("item", {}).get("type") == "mcp_approval_request"]
    assert [event["type"].rpartition(".")[2] for event in of_request] == ["added", "done"]
    assert of_request[0]["item"] == of_request[1]["item"]
    assert not [event for event in events if "arguments" in event["type"]]


@either
def test_an_approved_call_runs_before_any_exchange(tool_case: ToolCase, streamed: bool) -> None:
    first, request = asked(tool_case, streamed)
    second = tool_case.ask(streamed, previous_response_id=first["id"], input=[answer_to(request)], tools=[CAREFUL])
    assert kinds_of(second) == ["mcp_call", "message"]
    call = second["output"][0]
    assert (call["approval_request_id"], call["output"], call["status"]) == (request["id"], "Oslo", "completed")
    assert call["arguments"] == request["arguments"]
    (exchange,) = tool_case.upstream.bodies
    assert lines(exchange)[-1] == ("output", "Oslo")


def test_the_events_of_an_approved_call_come_first(tool_case: ToolCase) -> None:
    first, request = asked(tool_case, True)
    events = tool_case.events(previous_response_id=first["id"], input=[answer_to(request)], tools=[CAREFUL])
    steps = [event["type"].removeprefix("response.") for event in events]
    assert steps[:8] == [
        "created",
        "in_progress",
        "output_item.added",
        "mcp_call.in_progress",
        "mcp_call_arguments.delta",
        "mcp_call_arguments.done",
        "mcp_call.completed",
        "output_item.done",
    ]


@either
def test_a_stateless_client_brings_the_request_with_its_answer(tool_case: ToolCase, streamed: bool) -> None:
    first, request = asked(tool_case, streamed, store=False)
    history = [{"role": "user", "content": ASK}, *first["output"], answer_to(request)]
    second = tool_case.ask(streamed, store=False, input=history, tools=[CAREFUL])
    assert kinds_of(second) == ["mcp_call", "message"]
    # The answered pair that comes again with its call is history.
    before = len(tool_case.server.calls)
    third = tool_case.ask(
        streamed, store=False, input=[*history, *second["output"], {"role": "user", "content": "Ok"}], tools=[CAREFUL]
    )
    assert kinds_of(third) == ["message"]
    assert len(tool_case.server.calls) == before


@either
def test_a_reference_names_the_request_without_a_chain(tool_case: ToolCase, streamed: bool) -> None:
    _, request = asked(tool_case, streamed)
    given = [{"role": "user", "content": ASK}, {"type": "item_reference", "id": request["id"]}, answer_to(request)]
    second = tool_case.ask(streamed, input=given, tools=[CAREFUL])
    assert kinds_of(second)[-2:] == ["mcp_call", "message"]


@either
def test_a_denied_call_never_runs_and_the_model_is_told(tool_case: ToolCase, streamed: bool) -> None:
    before = len(tool_case.server.calls)
    first, request = asked(tool_case, streamed, store=False)
    history = [
        {"role": "user", "content": ASK},
        *first["output"],
        answer_to(request, approve=False, reason="not today"),
    ]
    second = tool_case.ask(streamed, store=False, input=history, tools=[CAREFUL])
    assert kinds_of(second) == ["message"]
    told = [line[1] for line in lines(tool_case.upstream.bodies[-1]) if line[0] == "output"]
    assert told == ["Call denied by the user: not today"]
    # A client that sends its whole history sends the denial in every turn.
    more = [*history, *second["output"], {"role": "user", "content": "Ok"}]
    assert kinds_of(tool_case.ask(streamed, store=False, input=more, tools=[CAREFUL])) == ["message"]
    assert len(tool_case.server.calls) == before


@either
@pytest.mark.parametrize("again", [True, False], ids=["approved", "denied"])
def test_a_request_is_answered_once(tool_case: ToolCase, streamed: bool, again: bool) -> None:
    first, request = asked(tool_case, streamed)
    keys: JSON = {"previous_response_id": first["id"], "tools": [CAREFUL], "stream": streamed}
    assert tool_case.post(**keys, input=[answer_to(request)]).status_code == 200
    before, exchanges = len(tool_case.server.calls), len(tool_case.upstream.bodies)
    refused = tool_case.post(**keys, input=[answer_to(request, approve=again)])
    error = check_error(refused, 400, "invalid_value", "input")
    assert error["message"] == f"Approval request with id '{request['id']}' was answered before."
    assert (len(tool_case.server.calls), len(tool_case.upstream.bodies)) == (before, exchanges)


@either
def test_nobody_answers_for_another_owner(tool_case: ToolCase, streamed: bool) -> None:
    _, request = asked(tool_case, streamed)
    before = len(tool_case.server.calls)
    for token in (tool_case.stranger, None):
        given = request if token else {**request, "id": "mcpr_unknown"}
        body = tool_case.body(input=[answer_to(given)], tools=[CAREFUL], stream=streamed)
        refused = tool_case.gateway.post("/responses", body, token=token)
        assert check_error(refused, 400, "invalid_value", "input")["message"].endswith("was not found.")
    assert len(tool_case.server.calls) == before


@either
def test_an_approved_tool_must_be_among_the_tools(tool_case: ToolCase, streamed: bool) -> None:
    first, request = asked(tool_case, streamed)
    refused = tool_case.post(
        previous_response_id=first["id"],
        input=[answer_to(request)],
        tools=[mcp("add", label="careful")],
        stream=streamed,
    )
    check_error(refused, 400, "invalid_value", "tools")


@either
def test_calls_that_need_no_approval_run_before_the_turn_ends(tool_case: ToolCase, streamed: bool) -> None:
    response = tool_case.ask(streamed, input=ASK_BOTH, tools=[mcp("echo"), mcp("add", label="careful")])
    assert kinds_of(response) == ["mcp_list_tools", "mcp_list_tools", "mcp_call", "mcp_approval_request"]
    assert response["output"][-2]["output"] == "Oslo"
    assert len(tool_case.upstream.bodies) == 1


@either
@pytest.mark.parametrize("store", [True, False], ids=["stored", "unstored"])
def test_a_call_that_only_reads_runs_again_after_a_turn_that_failed(
    tool_case: ToolCase, streamed: bool, store: bool
) -> None:
    first, request = asked(tool_case, streamed)
    keys: JSON = {"previous_response_id": first["id"], "tools": [CAREFUL], "input": [answer_to(request)]}
    keys["store"] = store
    before = len(tool_case.server.calls)
    failed_turn(tool_case, streamed, keys)
    assert len(tool_case.server.calls) == before + 1
    assert statuses(tool_case, request) == ["failed"]

    # A client's SDK repeats the same answer.
    answer = tool_case.post(**keys, stream=streamed)
    assert answer.status_code == 200
    assert b'"mcp_call"' in answer.content
    assert len(tool_case.server.calls) == before + 2
    check_error(tool_case.post(**keys, stream=streamed), 400, "invalid_value", "input")


def test_a_call_runs_again_after_a_request_that_its_channel_does_not_take(bridged_tool_case: ToolCase) -> None:
    """A refused request has no row otherwise."""
    case = bridged_tool_case
    first, request = asked(case, False)
    keys: JSON = {"previous_response_id": first["id"], "tools": [CAREFUL], "input": [answer_to(request)]}
    before = len(case.server.calls)
    check_error(case.post(**keys, prompt={"id": "pmpt_1"}), 400, "unsupported_parameter", "prompt")
    assert len(case.server.calls) == before + 1
    assert statuses(case, request) == ["failed"]
    assert kinds_of(case.create(**keys)) == ["mcp_call", "message"]


@either
def test_a_call_that_may_have_an_effect_runs_once(tool_case: ToolCase, streamed: bool) -> None:
    tools = [mcp("undescribed", label="careful")]
    response = tool_case.ask(streamed, tools=tools)
    request = response["output"][-1]
    keys: JSON = {"previous_response_id": response["id"], "tools": tools, "input": [answer_to(request)]}
    before = len(tool_case.server.calls)
    failed_turn(tool_case, streamed, keys)
    error = check_error(tool_case.post(**keys, stream=streamed), 400, "invalid_value", "input")
    assert "was answered before" in error["message"]
    assert len(tool_case.server.calls) == before + 1


@either
def test_a_denial_is_repeated_after_a_turn_that_failed(tool_case: ToolCase, streamed: bool) -> None:
    first, request = asked(tool_case, streamed)
    denial = answer_to(request, approve=False)
    keys: JSON = {"previous_response_id": first["id"], "tools": [CAREFUL], "input": [denial]}
    failed_turn(tool_case, streamed, keys)
    assert kinds_of(tool_case.ask(streamed, **keys)) == ["message"]
    approval = {**keys, "input": [answer_to(request)]}
    check_error(tool_case.post(**approval, stream=streamed), 400, "invalid_value", "input")


def failed_turn(tool_case: ToolCase, streamed: bool, keys: JSON) -> None:
    """The model refuses the answer to an approval request."""
    tool_case.upstream.always(*tool_case.dialect, too_long())
    answer = tool_case.post(**keys, stream=streamed)
    assert b"context_length_exceeded" in answer.content
    tool_case.upstream.reset()
    tool_case.upstream.always(*tool_case.dialect)


def statuses(tool_case: ToolCase, request: JSON) -> list[str]:
    """How the responses ended that have answered an approval request, as another worker finds it now."""
    joined = "SELECT r.status FROM tool_call c JOIN response r ON r.id = c.response WHERE c.approval_request = ?"
    return [row["status"] for row in select(tool_case.gateway.database_url, joined, [request["id"]])]
