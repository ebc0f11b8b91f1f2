"""Items of tools that clients send back, in the shapes in which their SDKs do, and what the model reads of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import orjson
import pytest

from tests.relay.tools.conftest import ASK, ToolCase, mcp
from tests.response_contract import check_error
from tests.upstream_formats import lines

JSON = dict[str, Any]
CAREFUL = mcp("echo", label="careful", require_approval="always")
GO_ON: JSON = {"role": "user", "content": "Go on."}


def without_outputs(output: list[JSON]) -> list[JSON]:
    """As the Agents SDK for JavaScript sends calls back: results can be large."""
    left_out = ("output", "error", "approval_request_id")
    return [{name: value for name, value in item.items() if name not in left_out} for item in output]


def as_references(output: list[JSON]) -> list[JSON]:
    """As the Vercel AI SDK sends stored items back."""
    return [{"type": "item_reference", "id": item["id"]} for item in output]


def without_lists(output: list[JSON]) -> list[JSON]:
    return [item for item in output if item["type"] != "mcp_list_tools"]


def told(case: ToolCase) -> list[Any]:
    """What the last exchange's model has read of calls and results."""
    return [line for line in lines(case.upstream.bodies[-1]) if line[0] in ("call", "output")]


@pytest.mark.parametrize(
    "sent_back", [list, without_outputs, as_references, without_lists], ids=lambda shape: shape.__name__
)
def test_a_stateless_client_brings_its_history(
    tool_case: ToolCase, sent_back: Callable[[list[JSON]], list[JSON]]
) -> None:
    first = tool_case.create()
    chained = tool_case.create(previous_response_id=first["id"], input=[GO_ON], tools=[])
    expected = told(tool_case)
    brought = [{"role": "user", "content": ASK}, *sent_back(first["output"]), GO_ON]
    again = tool_case.create(input=brought, tools=[])

    assert chained["output"][-1]["type"] == again["output"][-1]["type"] == "message"
    assert told(tool_case) == expected
    # The request no longer names the server, and its calls are still there.
    assert [line[0] for line in expected] == ["call", "output"]
    assert "Oslo" in str(expected)
    assert b'"mcp_' not in orjson.dumps(tool_case.upstream.bodies[-1])


def test_a_result_that_nothing_knows_is_said_to_be_missing(tool_case: ToolCase) -> None:
    output = tool_case.create(store=False)["output"]
    brought = [{"role": "user", "content": ASK}, *without_outputs(output), GO_ON]

    tool_case.create(store=False, input=brought)
    assert ("output", "(result not available)") in told(tool_case)


def test_each_exchange_begins_as_the_one_before(tool_case: ToolCase) -> None:
    """What a model has read once, it reads again in the same words: prompt caches depend on it."""
    first = tool_case.create()
    tool_case.create(previous_response_id=first["id"], input=[GO_ON])
    bodies = tool_case.upstream.bodies

    assert len(bodies) >= 3
    assert all(body["tools"] == bodies[0]["tools"] for body in bodies)
    said = [without_breakpoints(body.get("input") or body["messages"]) for body in bodies]
    for before, after in pairwise(said):
        assert after[: len(before)] == before


def without_breakpoints(value: Any) -> Any:
    if isinstance(value, list):
        return [without_breakpoints(one) for one in value]
    if isinstance(value, dict):
        return {name: without_breakpoints(one) for name, one in value.items() if name != "cache_control"}
    return value


def test_a_server_that_is_added_changes_no_name(tool_case: ToolCase) -> None:
    first = tool_case.create()
    tool_case.create(previous_response_id=first["id"], input=[GO_ON], tools=[mcp("echo"), CAREFUL])
    one, *_, other = (names(body) for body in tool_case.upstream.bodies)

    assert one == ["echo"]
    assert other == ["echo", "careful__echo"]
    assert [line[1] for line in told(tool_case) if line[0] == "call"] == ["echo"]


def names(body: Mapping[str, Any]) -> list[str]:
    return [tool.get("name") or tool["function"]["name"] for tool in body["tools"]]


# --- approvals ----------------------------------------------------------------------------------------------------


def asked(case: ToolCase, **keys: Any) -> tuple[JSON, JSON]:
    """A response that ends with a request for approval, and the request."""
    response = case.create(tools=[CAREFUL], **keys)
    return response, response["output"][-1]


def answer(request: JSON, approve: bool, **more: Any) -> JSON:
    return {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": approve, **more}


def test_a_denial_comes_again_with_the_rest_of_a_stateless_history(tool_case: ToolCase) -> None:
    first, request = asked(tool_case, store=False)
    history = [{"role": "user", "content": ASK}, *first["output"], answer(request, False, reason="too late")]
    second = tool_case.create(store=False, input=history, tools=[CAREFUL], tool_choice="none")
    third = tool_case.create(store=False, input=[*history, *second["output"], GO_ON], tools=[CAREFUL])

    assert [item["type"] for item in second["output"] if item["type"] != "reasoning"] == ["message"]
    assert third["status"] == "completed"
    assert ("output", "Call denied by the user: too late") in told(tool_case)


def test_an_approved_pair_comes_again_with_its_call(tool_case: ToolCase) -> None:
    first, request = asked(tool_case, store=False)
    history = [{"role": "user", "content": ASK}, *first["output"], answer(request, True)]
    second = tool_case.create(store=False, input=history, tools=[CAREFUL])
    tool_case.create(store=False, input=[*history, *second["output"], GO_ON], tools=[CAREFUL])

    assert [item["approval_request_id"] for item in second["output"] if item["type"] == "mcp_call"] == [request["id"]]
    assert [line[0] for line in told(tool_case)] == ["call", "output"]


@pytest.mark.parametrize("tools", [[], [{"type": "function", "name": "look"}], [mcp("echo")]])
def test_an_approved_call_whose_server_is_not_named_is_refused(tool_case: ToolCase, tools: list[JSON]) -> None:
    first, request = asked(tool_case)
    before = len(tool_case.upstream.bodies)
    refused = tool_case.post(previous_response_id=first["id"], input=[answer(request, True)], tools=tools)

    check_error(refused, 400, param="tools")
    assert len(tool_case.upstream.bodies) == before


@pytest.mark.parametrize("approve", [True, False])
@pytest.mark.parametrize("tools", [[], [CAREFUL]])
def test_an_answer_to_a_request_that_nothing_made_is_refused(
    tool_case: ToolCase, tools: list[JSON], approve: bool
) -> None:
    unknown = {"id": "mcpr_" + "0" * 48}
    check_error(tool_case.post(input=[GO_ON, answer(unknown, approve)], tools=tools), 400, param="input")
    assert tool_case.upstream.bodies == []


def test_a_denial_needs_no_server_any_more(tool_case: ToolCase) -> None:
    first, request = asked(tool_case)
    tool_case.create(previous_response_id=first["id"], input=[answer(request, False)], tools=[])

    assert ("output", "Call denied by the user") in told(tool_case)


def test_a_request_that_waits_is_nothing_to_the_model(tool_case: ToolCase) -> None:
    first, _ = asked(tool_case)
    tool_case.create(previous_response_id=first["id"], input=[GO_ON], tools=[])

    assert told(tool_case) == []
    assert b'"mcp_' not in orjson.dumps(tool_case.upstream.bodies[-1])


# --- hosted calls -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["web_search", "file_search"])
@pytest.mark.parametrize("tools", ["the same tools", "no tools"])
def test_the_next_turn_knows_what_a_hosted_tool_has_found(tool_case: ToolCase, kind: str, tools: str) -> None:
    searching = {"type": kind, **({"vector_store_ids": ["v"]} if kind == "file_search" else {})}
    first = tool_case.create(tools=[searching])
    within = told(tool_case)
    assert f"{kind}_call" in [item["type"] for item in first["output"]]
    tool_case.create(
        previous_response_id=first["id"], input=[GO_ON], tools=[searching] if tools == "the same tools" else []
    )

    assert [line[0] for line in within] == ["call", "output"]
    assert told(tool_case) == within
    tool_case.create(input=[{"role": "user", "content": ASK}, *first["output"], GO_ON], tools=[])
    assert told(tool_case) == within
