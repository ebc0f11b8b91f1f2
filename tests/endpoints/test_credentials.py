"""Credentials that a client gives with its tools reach the upstream once: no body, no row and no log holds them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from uuid import uuid4

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.endpoints.conftest import EXACT, OPEN_MINDED
from tests.endpoints.vocabulary import JSON, message_item
from tests.gateway import Gateway
from tests.response_contract import check_stream
from tests.stored_data import written
from tests.tools_with_credentials import CANARY, MCP, choices, items, tools
from tests.upstream import ScriptedUpstream, event_bytes, raw, sse
from tests.websocket_client import Socket

ADDED: JSON = {"type": "additional_tools", "role": "developer", "tools": [MCP]}

#: Every way in which a request may come.
WAYS: list[JSON] = [{}, {"stream": True}, {"background": True}, {"store": False}, {"prompt_cache_key": "a session"}]


@given(data=st.data())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_no_answer_and_no_row_holds_them(api: Gateway, data: st.DataObject) -> None:
    given_tools = data.draw(st.lists(tools(), max_size=2))
    body = {"model": OPEN_MINDED, "input": [*data.draw(st.lists(items(), max_size=2)), message_item("hello")]}
    if data.draw(st.booleans()):
        choice = data.draw(choices())
        body |= {"tools": _labelled([MCP, *given_tools, *choice.get("tools", [])]), "tool_choice": choice}
    body |= {"tools": _labelled(given_tools)} if given_tools and "tools" not in body else {}
    key = {"Idempotency-Key": uuid4().hex} if data.draw(st.booleans()) else {}
    answer = api.post("/responses", {**body, **data.draw(st.sampled_from(WAYS))}, headers=key)
    assert answer.status_code == 200, answer.text
    assert CANARY not in answer.text
    assert CANARY.encode() not in written(api)


def _labelled(found: list[JSON]) -> list[JSON]:
    """Each server but the first with a label of its own, as the API wants them."""
    return [
        {**tool, "server_label": f"docs-{number}"} if number and tool["type"] == "mcp" else tool
        for number, tool in enumerate(found)
    ]


@given(found=st.lists(items(), min_size=1, max_size=3))
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_no_conversation_holds_them(api: Gateway, found: list[JSON]) -> None:
    made = api.post("/conversations", {"items": found}).json()
    added = api.post(f"/conversations/{made['id']}/items", {"items": found})
    listed = api.get(f"/conversations/{made['id']}/items")
    assert len(listed.json()["data"]) == 2 * len(found)
    response = api.post(
        "/responses", {"model": OPEN_MINDED, "input": [*found, message_item("a")], "conversation": made["id"]}
    )
    shown = api.get(f"/responses/{response.json()['id']}/input_items")
    assert CANARY not in added.text + listed.text + response.text + shown.text
    assert CANARY.encode() not in written(api)


def test_the_disk_holds_none_of_them(api: Gateway, create: Callable[..., JSON]) -> None:
    response = create(EXACT, [ADDED, message_item("hello")], tools=[MCP], tool_choice={**MCP, "type": "mcp"})
    with closing(api.stream({"model": EXACT, "input": [ADDED, message_item("hello")], "tools": [MCP]})) as streamed:
        assert CANARY.encode() not in streamed.content
    assert api.post("/responses", {"model": EXACT, "input": [ADDED, message_item("a")], "background": True}).ok
    shown = api.get(f"/responses/{response['id']}").text + api.get(f"/responses/{response['id']}/input_items").text
    assert '"docs"' in shown
    assert CANARY not in shown
    assert CANARY.encode() not in written(api)


@pytest.mark.parametrize("streamed", [False, True])
def test_the_upstream_gets_them_in_the_turn_that_brings_them(
    create: Callable[..., JSON], api: Gateway, exact: ScriptedUpstream, streamed: bool
) -> None:
    body = {"model": EXACT, "input": [ADDED, message_item("hello")], "tools": [MCP], "stream": streamed}
    assert api.post("/responses", body).ok
    sent = exact.bodies[-1]
    assert sent["tools"] == [MCP]
    assert sent["input"][0]["tools"] == [MCP]


@pytest.mark.parametrize("streamed", [False, True])
def test_an_upstream_that_repeats_them_is_not_passed_on(api: Gateway, exact: ScriptedUpstream, streamed: bool) -> None:
    found = {"type": "tool_search_output", "id": "tso_1", "status": "completed", "tools": [MCP]}
    done = {"type": "response.output_item.done", "output_index": 0, "item": found}
    added = {**done, "type": "response.output_item.added"}
    whole = {"id": "r", "object": "response", "status": "completed", "model": "m", "output": [found], "usage": None}
    end = {"type": "response.completed", "response": whole}
    events = [{**event, "sequence_number": number} for number, event in enumerate((added, done, end))]
    exact.enqueue(sse(*map(event_bytes, events)) if streamed else raw(200, orjson.dumps(whole)))
    answer = api.post("/responses", {"model": EXACT, "input": "a", "stream": streamed})
    assert '"tool_search_output"' in answer.text
    assert CANARY not in answer.text
    assert CANARY.encode() not in written(api)


@pytest.mark.parametrize("way", [way for way in WAYS if not way.get("background")])
@pytest.mark.parametrize("place", ["tools", "input", "tool_choice"])
def test_a_refusal_that_quotes_them_is_stored_without_them(
    api: Gateway, exact: ScriptedUpstream, way: JSON, place: str
) -> None:
    """Servers quote what they refuse. The code says that no other form of the request would be taken."""
    body = {"model": EXACT, "input": "a", "tools": [{**MCP, "authorization": "key of a tool"}]}
    body |= {"input": [ADDED, message_item("a")]} if place == "input" else {}
    body |= {"tool_choice": {"type": "mcp", **MCP}} if place == "tool_choice" else {}
    words = f"The request was rejected [input={body['tools']} {body['input']} {body.get('tool_choice')}]"
    exact.enqueue(raw(400, orjson.dumps({"error": {"message": words, "code": "invalid_prompt"}})))
    assert api.post("/responses", {**body, **way}).status_code == 400
    assert CANARY.encode() not in written(api)
    assert b"key of a tool" not in written(api)


def test_a_stream_that_breaks_off_with_them_is_stored_without_them(api: Gateway, exact: ScriptedUpstream) -> None:
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
    added = {"type": "response.output_item.added", "sequence_number": 0, "output_index": 0, "item": item}
    error = {"type": "error", "sequence_number": 1, "code": "server_error", "message": f"I cannot do {MCP}"}
    exact.enqueue(sse(event_bytes(added), event_bytes(error)))
    answer = api.post("/responses", {"model": EXACT, "input": "a", "tools": [MCP], "stream": True})
    response = check_stream(answer.content, status="failed")[-1]["response"]
    assert CANARY not in str(response)
    assert CANARY.encode() not in written(api)


def test_a_later_turn_gets_the_tools_without_them(create: Callable[..., JSON], exact: ScriptedUpstream) -> None:
    first = create(EXACT, [ADDED, message_item("hello")])
    create(EXACT, "again", previous_response_id=first["id"])
    assert exact.bodies[-1]["input"][0]["tools"] == [
        {"type": "mcp", "server_label": "docs", "server_url": "https://example.org/mcp"}
    ]


def test_a_compaction_seals_none_of_them(api: Gateway, exact: ScriptedUpstream, create: Callable[..., JSON]) -> None:
    """Sealed, they would come back with every later turn of the client. The pass itself belongs to the turn that brings
    them: the upstream gets what it would get for an answer.
    """
    window = api.post(
        "/responses/compact", {"model": EXACT, "input": [ADDED, message_item("hello"), message_item("more")]}
    ).json()
    assert CANARY.encode() not in written(api)
    create(EXACT, [*window["output"], message_item("go on")])
    assert [item["type"] for item in exact.bodies[-1]["input"]].count("additional_tools") == 1
    assert CANARY not in str(exact.bodies[-1])


def test_the_same_request_with_a_newer_credential_is_the_same(api: Gateway) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    first, second = (
        api.post("/responses", {"model": EXACT, "input": "a", "tools": [{**MCP, "authorization": secret}]}, headers=key)
        for secret in ("old", "new")
    )
    assert first.json() == second.json()
    assert second.headers["Idempotent-Replayed"] == "true"


def test_a_socket_remembers_none_of_them(api: Gateway, exact: ScriptedUpstream) -> None:
    with Socket(api) as sock:
        first = sock.answer(model=EXACT, input=[ADDED, message_item("hello")], store=False)
        sock.answer(model=EXACT, input="again", store=False, previous_response_id=first["id"])
    assert CANARY in str(exact.bodies[-2])
    assert CANARY not in str(exact.bodies[-1])
