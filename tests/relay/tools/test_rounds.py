"""Turns whose tools the gateway runs: one response, however many exchanges."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import requests

from tests.relay.tools.conftest import ASK, ASK_BOTH, ToolCase, kinds_of, mcp
from tests.response_contract import check_error, check_stream
from tests.upstream import Answer, Exchange, Script, failing_at_once, refusal, retold
from tests.upstream_formats import lines

JSON = dict[str, Any]
WEATHER: JSON = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
either = pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])


@either
def test_a_call_runs_and_the_model_answers_with_its_result(tool_case: ToolCase, streamed: bool) -> None:
    response = tool_case.ask(streamed)
    listed, call, message = (item for item in response["output"] if item["type"] != "reasoning")
    assert listed == {
        "id": listed["id"],
        "type": "mcp_list_tools",
        "server_label": "docs",
        "tools": [
            {
                "annotations": {"read_only": True},
                "description": "Returns the text.",
                "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}},
                "name": "echo",
            }
        ],
    }
    arguments = call["arguments"]
    assert orjson.loads(arguments) == {"text": "Oslo"}
    assert call == {
        "id": call["id"],
        "type": "mcp_call",
        "status": "completed",
        "approval_request_id": None,
        "arguments": arguments,
        "error": None,
        "name": "echo",
        "output": "Oslo",
        "server_label": "docs",
    }
    assert message["type"] == "message"
    # The second exchange has the call and its result, and no model has heard of a tool server.
    first, second = tool_case.upstream.bodies
    assert ("output", "Oslo") in lines(second)
    assert [line[:2] for line in lines(second) if line[0] == "call"] == [("call", "echo")]
    assert b"mcp" not in orjson.dumps([first["tools"], second["tools"]])
    assert tool_case.gateway.get(f"/responses/{response['id']}").json()["output"] == response["output"]


def test_the_events_come_in_the_order_of_the_contract(tool_case: ToolCase) -> None:
    events = tool_case.events()
    steps = [event["type"].removeprefix("response.") for event in events]
    begin = steps.index("output_item.added", steps.index("output_item.added") + 1)
    assert steps[:6] == [
        "created",
        "in_progress",
        "output_item.added",
        "mcp_list_tools.in_progress",
        "mcp_list_tools.completed",
        "output_item.done",
    ]
    of_call = [step for step in steps[begin:] if step.startswith("mcp_call")]
    assert of_call[0] == "mcp_call.in_progress"
    assert set(of_call[1:-2]) == {"mcp_call_arguments.delta"}
    assert of_call[-2:] == ["mcp_call_arguments.done", "mcp_call.completed"]
    assert steps.count("created") == steps.count("completed") == 1
    assert "function_call" not in str(steps)


@either
def test_calls_of_one_answer_run_at_once_and_end_in_the_models_order(tool_case: ToolCase, streamed: bool) -> None:
    response = tool_case.ask(streamed, input=ASK_BOTH, tools=[mcp("echo", "undescribed")])
    calls = [item for item in response["output"] if item["type"] == "mcp_call"]
    assert [(call["name"], call["output"]) for call in calls] == [("echo", "Oslo"), ("undescribed", "Oslo")] or [
        orjson.loads(call["arguments"]).get("text", "") for call in calls
    ] == [call["output"] for call in calls]
    assert len(tool_case.upstream.bodies) == 2
    outputs = [line[1] for line in lines(tool_case.upstream.bodies[1]) if line[0] == "output"]
    assert outputs == [call["output"] for call in calls]


@either
def test_a_tool_that_fails_is_the_models_business(tool_case: ToolCase, streamed: bool) -> None:
    response = tool_case.ask(streamed, tools=[mcp("fail")])
    (call,) = (item for item in response["output"] if item["type"] == "mcp_call")
    assert (response["status"], call["status"], call["output"]) == ("completed", "failed", None)
    assert call["error"] == {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": "Oslo"}]}
    assert kinds_of(response)[-1] == "message"


@either
def test_a_call_of_the_clients_ends_the_turn_after_ours_have_run(tool_case: ToolCase, streamed: bool) -> None:
    response = tool_case.ask(streamed, input=ASK_BOTH, tools=[mcp("echo"), WEATHER])
    assert kinds_of(response) == ["mcp_list_tools", "mcp_call", "function_call"]
    assert len(tool_case.upstream.bodies) == 1
    mine = response["output"][-1]
    tool_case.upstream.reset()
    answered = {"type": "function_call_output", "call_id": mine["call_id"], "output": "rain"}
    follow_up = tool_case.ask(
        streamed, previous_response_id=response["id"], input=[answered], tools=[mcp("echo"), WEATHER]
    )
    assert kinds_of(follow_up) == ["message"]
    outputs = [line[1] for line in lines(tool_case.upstream.bodies[-1]) if line[0] == "output"]
    assert sorted(outputs) == ["Oslo", "rain"]


@either
def test_the_next_turn_knows_the_call_and_lists_nothing_again(tool_case: ToolCase, streamed: bool) -> None:
    first = tool_case.ask(streamed)
    tool_case.upstream.reset()
    second = tool_case.ask(streamed, previous_response_id=first["id"], input="And now?")
    assert kinds_of(second) == ["message"]
    assert ("output", "Oslo") in lines(tool_case.upstream.bodies[-1])


@pytest.mark.parametrize("stored", [True, False])
def test_a_server_that_is_put_in_front_changes_no_name(tool_case: ToolCase, stored: bool) -> None:
    first = tool_case.create(store=stored)
    tool_case.upstream.reset()
    keys: JSON = {"tools": [mcp("echo", label="careful"), mcp("echo")], "store": stored}
    history: JSON = {"previous_response_id": first["id"], "input": "And now?"}
    if not stored:
        history = {"input": [{"role": "user", "content": ASK}, *first["output"], {"role": "user", "content": "Ok"}]}
    second = tool_case.create(**keys, **history)
    assert kinds_of(second) == ["mcp_list_tools", "message"]
    sent = tool_case.upstream.bodies[-1]
    assert named(sent["tools"]) == ["careful__echo", "echo"]
    assert [line[1] for line in lines(sent) if line[0] == "call"] == ["echo"]


@either
def test_an_unstored_turn_works_and_its_client_brings_the_history(tool_case: ToolCase, streamed: bool) -> None:
    first = tool_case.ask(streamed, store=False)
    assert kinds_of(first) == ["mcp_list_tools", "mcp_call", "message"]
    tool_case.upstream.reset()
    history = [{"role": "user", "content": "What is the weather?"}, *first["output"], {"role": "user", "content": "Ok"}]
    second = tool_case.ask(streamed, store=False, input=history)
    assert kinds_of(second) == ["message"]
    assert ("output", "Oslo") in lines(tool_case.upstream.bodies[-1])


@either
def test_a_conversation_holds_the_calls(tool_case: ToolCase, streamed: bool) -> None:
    conversation = tool_case.gateway.post("/conversations", {}).json()["id"]
    tool_case.ask(streamed, conversation=conversation)
    items = tool_case.gateway.get(f"/conversations/{conversation}/items?order=asc").json()["data"]
    assert [item["type"] for item in items if item["type"] != "reasoning"] == [
        "message",
        "mcp_list_tools",
        "mcp_call",
        "message",
    ]
    tool_case.upstream.reset()
    assert kinds_of(tool_case.ask(streamed, conversation=conversation, input="Thanks")) == ["message"]
    assert ("output", "Oslo") in lines(tool_case.upstream.bodies[-1])


@either
def test_a_forced_choice_holds_for_the_first_exchange_only(tool_case: ToolCase, streamed: bool) -> None:
    choice = {"type": "mcp", "server_label": "docs", "name": "echo"}
    response = tool_case.ask(streamed, input="Say something", tool_choice=choice)
    assert kinds_of(response) == ["mcp_list_tools", "mcp_call", "message"]
    assert response["tool_choice"] == choice
    first, second = (str(body.get("tool_choice")) for body in tool_case.upstream.bodies)
    assert "echo" in first
    assert "echo" not in second


@either
def test_calls_above_the_limit_do_not_run_and_the_model_is_asked_once_more(tool_case: ToolCase, streamed: bool) -> None:
    before = len(tool_case.server.calls)
    response = tool_case.ask(streamed, input=ASK_BOTH, tools=[mcp("add", "echo", "undescribed")], max_tool_calls=1)
    assert kinds_of(response) == ["mcp_list_tools", "mcp_call", "message"]
    assert response["status"] == "completed"
    assert len(tool_case.server.calls) == before + 1
    second = tool_case.upstream.bodies[1]
    assert "tool call limit reached" in [line[1] for line in lines(second) if line[0] == "output"]
    assert offers_none(second)


@either
def test_a_model_that_never_stops_calling_is_stopped(tool_case: ToolCase, streamed: bool) -> None:
    tool_case.upstream.always(forgetful(), *tool_case.dialect)
    response = tool_case.ask(streamed)
    assert response["status"] == "completed"
    assert len(tool_case.upstream.bodies) == 33
    assert kinds_of(response).count("mcp_call") == 32
    assert offers_none(tool_case.upstream.bodies[-1])


def offers_none(body: JSON) -> bool:
    """Whether the model can call nothing. Anthropic demands the tools of a history that has calls."""
    return not body.get("tools") or body["tool_choice"] == {"type": "none"}


def forgetful() -> Script:
    """A model that calls again whatever it has been answered, as long as it is offered a tool."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        body = dict(exchange.request.body)
        name = "input" if "input" in body else "messages"
        body[name] = [entry for entry in body[name] if is_question(entry)]
        return exchange.reply(body)

    return script


def is_question(entry: JSON) -> bool:
    """Whether a message is the user's, and holds no result of a tool."""
    content = entry.get("content")
    parts = content if isinstance(content, list) else ()
    return entry.get("role") == "user" and not any(part["type"] == "tool_result" for part in parts)


@either
def test_usage_is_the_sum_and_the_row_tells_the_exchanges_apart(tool_case: ToolCase, streamed: bool) -> None:
    response = tool_case.ask(streamed)
    shown = tool_case.gateway.command("show", response["id"], "--json")
    attempts = orjson.loads(shown)["attempts"]
    assert len(attempts) == 2
    total = response["usage"]
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        assert sum(attempt["usage"][name] for attempt in attempts) == total[name]
    assert attempts[0]["usage"]["input_tokens"] < attempts[1]["usage"]["input_tokens"]


@either
def test_a_server_that_cannot_be_listed_is_a_424(tool_case: ToolCase, streamed: bool) -> None:
    answer = (tool_case.stream if streamed else tool_case.post)(tools=[mcp(label="gone")])
    error = check_error(answer, 424, "http_error", "tools", "external_connector_error")
    assert error["message"].startswith("Error retrieving tool list from MCP server: 'gone'. Http status code: 424")
    assert not tool_case.upstream.bodies


@either
def test_an_answer_that_was_cut_off_runs_nothing(tool_case: ToolCase, streamed: bool) -> None:
    before = len(tool_case.server.calls)
    tool_case.upstream.always(retold(cut_off), *tool_case.dialect)
    response = tool_case.ask(streamed)
    assert response["status"] == "incomplete"
    assert len(tool_case.server.calls) == before
    assert {item["status"] for item in response["output"] if item["type"] == "mcp_call"} <= {"incomplete"}


def cut_off(answer: JSON) -> JSON:
    """The same answer, ended by the limit of its length."""
    if "choices" in answer:
        return {**answer, "choices": [{**answer["choices"][0], "finish_reason": "length"}]}
    if "stop_reason" in answer:
        return {**answer, "stop_reason": "max_tokens"}
    return {**answer, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}


@either
def test_the_same_key_gives_the_same_response_and_no_second_call(tool_case: ToolCase, streamed: bool) -> None:
    headers = {"Idempotency-Key": f"tools-{tool_case.model}-{streamed}-{id(tool_case.gateway)}"}
    body = tool_case.body(stream=streamed)
    first = tool_case.gateway.post("/responses", body, headers=headers)
    before = len(tool_case.server.calls)
    second = tool_case.gateway.post("/responses", body, headers=headers)
    assert second.headers["Idempotent-Replayed"] == "true"
    assert ended(second, streamed) == ended(first, streamed)
    assert len(tool_case.server.calls) == before


def ended(answer: requests.Response, streamed: bool) -> JSON:
    """The response at the end of the answer."""
    return dict(check_stream(answer.content)[-1]["response"] if streamed else answer.json())


@either
def test_a_hosted_tool_is_shown_as_the_contract_shows_it(tool_case: ToolCase, streamed: bool) -> None:
    include = ["web_search_call.action.sources"]
    response = tool_case.ask(streamed, tools=[{"type": "web_search"}], include=include)
    (search,) = (item for item in response["output"] if item["type"] != "message" and item["type"] != "reasoning")
    assert search == {
        "id": search["id"],
        "type": "web_search_call",
        "status": "completed",
        "action": {
            "type": "search",
            "query": "Oslo",
            "queries": ["Oslo"],
            "sources": [{"type": "url", "url": "https://docs.example/antiphon"}],
        },
    }
    found = "1 page about Oslo: https://docs.example/antiphon"
    assert ("output", found) in lines(tool_case.upstream.bodies[1])
    # The item holds no result; the next turn's model still knows it.
    tool_case.upstream.reset()
    tool_case.ask(streamed, previous_response_id=response["id"], input="And?", tools=[{"type": "web_search"}])
    assert ("output", found) in lines(tool_case.upstream.bodies[-1])


def test_the_results_of_a_file_search_are_shown_when_included(tool_case: ToolCase) -> None:
    tools = [{"type": "file_search", "vector_store_ids": ["vs_1"]}]
    search = searched(tool_case.create(tools=tools, include=["file_search_call.results"]))
    assert search["queries"] == ["Oslo"]
    assert search["results"] == [
        {
            "attributes": {},
            "file_id": "https://docs.example/antiphon",
            "filename": "Antiphon",
            "score": 0,
            "text": "about Oslo",
        }
    ]
    assert searched(tool_case.create(tools=tools))["results"] is None


def searched(response: JSON) -> JSON:
    return next(item for item in response["output"] if item["type"] == "file_search_call")


@either
def test_an_exchange_that_fails_before_its_output_is_tried_on_another_channel(
    tool_case: ToolCase, streamed: bool
) -> None:
    tool_case = tool_case.on(f"{tool_case.model}-first")
    tool_case.upstream.enqueue(*tool_case.dialect)
    tool_case.upstream.enqueue(refusal(500))
    response = tool_case.ask(streamed)
    assert kinds_of(response) == ["mcp_list_tools", "mcp_call", "message"]
    assert len(tool_case.upstream.bodies) == 2
    assert ("output", "Oslo") in lines(tool_case.second.bodies[-1])


def test_a_later_exchange_may_still_move_after_the_stream_has_begun(tool_case: ToolCase) -> None:
    tool_case = tool_case.on(f"{tool_case.model}-first")
    tool_case.upstream.enqueue(*tool_case.dialect)
    tool_case.upstream.enqueue(failing_at_once())
    events = tool_case.events()
    assert kinds_of(events[-1]["response"]) == ["mcp_list_tools", "mcp_call", "message"]
    assert [event["type"] for event in events].count("response.created") == 1
    assert ("output", "Oslo") in lines(tool_case.second.bodies[-1])
    shown = orjson.loads(tool_case.gateway.command("show", events[-1]["response"]["id"], "--json"))
    assert [attempt["error"] is None for attempt in shown["attempts"]] == [True, False, True]
    assert [(call["server"], call["tool"], call["error"]) for call in shown["tool_calls"]] == [("docs", "echo", None)]


@either
@pytest.mark.parametrize("tool_case", ["exact", "messages"], indirect=True)
def test_a_channel_whose_upstream_calls_servers_takes_over_between_rounds(tool_case: ToolCase, streamed: bool) -> None:
    """It gets functions, as the first one did, and calls nothing itself."""
    case, before = tool_case.on(f"{tool_case.model}-native"), len(tool_case.server.calls)
    case.native.reset()
    case.upstream.enqueue(*case.dialect)
    case.upstream.enqueue(failing_at_once() if streamed else refusal(500))
    first = case.ask(streamed)
    assert kinds_of(first) == ["mcp_list_tools", "mcp_call", "message"]
    asked, (sent,) = case.upstream.bodies[0], case.native.bodies
    assert named(sent["tools"]) == named(asked["tools"]) == ["echo"]
    assert ("output", "Oslo") in lines(sent)
    # In the next turn the call is still one that the gateway has run, and no secret of the first upstream is sent.
    again = case.on("native").ask(streamed, previous_response_id=first["id"], input=ASK)
    assert kinds_of(again) == ["mcp_call", "message"]
    assert all("mcp" not in item["type"] for body in case.native.bodies for item in body["input"])
    assert len(case.native.bodies) == 3
    assert len(tool_case.server.calls) == before + 2


def named(tools: list[JSON]) -> list[str]:
    return [tool.get("function", tool)["name"] for tool in tools]
