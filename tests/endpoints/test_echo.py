"""What a response says of the request: the client's own values, the contract's defaults, and no secrets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests.endpoints.conftest import EXACT
from tests.endpoints.vocabulary import JSON, WEATHER
from tests.gateway import Gateway
from tests.sse_reader import read
from tests.stored_data import written
from tests.upstream import ScriptedUpstream, rewritten

Create = Callable[..., JSON]

DEFAULTS: JSON = {
    "background": False,
    "frequency_penalty": 0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1,
    "truncation": "disabled",
    "user": None,
}
MCP: JSON = {
    "type": "mcp",
    "server_label": "s",
    "server_url": "https://example.org/mcp",
    "authorization": "canary-token",
    "headers": {"X-Key": "canary-header"},
}
#: A parameter as it is sent, and as it is echoed where that differs.
ECHOED: dict[str, tuple[JSON, JSON]] = {
    "scalars": (
        {
            "frequency_penalty": 0.5,
            "max_output_tokens": 900,
            "max_tool_calls": 3,
            "metadata": {"k": "v"},
            "parallel_tool_calls": False,
            "presence_penalty": -0.5,
            "prompt_cache_key": "key",
            "safety_identifier": "s",
            "temperature": 0.5,
            "top_logprobs": 2,
            "top_p": 0.5,
            "truncation": "auto",
            "user": "u",
        },
        {},
    ),
    "zeros": ({"temperature": 0, "top_p": 0, "metadata": {}, "user": ""}, {}),
    "instructions": ({"instructions": "Be brief."}, {}),
    "instructions as a message": ({"instructions": {"role": "system", "content": "Be brief."}}, {}),
    "flex": ({"service_tier": "flex"}, {}),
    "priority": ({"service_tier": "priority"}, {}),
    "store": ({"store": False}, {}),
    "verbosity": (
        {"text": {"verbosity": "low"}},
        {"text": {"format": {"type": "text"}, "verbosity": "low"}},
    ),
    "json object": (
        {"text": {"format": {"type": "json_object"}}},
        {"text": {"format": {"type": "json_object"}, "verbosity": "medium"}},
    ),
    "effort": (
        {"reasoning": {"effort": "low"}},
        {"reasoning": {"effort": "low", "summary": None}},
    ),
    "summary": (
        {"reasoning": {"summary": "auto"}},
        {"reasoning": {"effort": None, "summary": "auto"}},
    ),
    "bare function": (
        {"tools": [{"type": "function", "name": "f"}]},
        {"tools": [{"type": "function", "name": "f", "description": None, "parameters": None, "strict": None}]},
    ),
    "whole function": (
        {"tools": [{**WEATHER, "description": "d", "strict": True}]},
        {},
    ),
    "lax function": (
        {"tools": [{**WEATHER, "strict": False}]},
        {"tools": [{**WEATHER, "strict": False, "description": None}]},
    ),
    "hosted tools": ({"tools": [{"type": "web_search"}, {"type": "file_search", "vector_store_ids": ["vs_1"]}]}, {}),
    "custom tool": ({"tools": [{"type": "custom", "name": "c", "format": {"type": "text"}}]}, {}),
    "no tools": ({"tools": []}, {}),
    "choice of none": ({"tools": [{**WEATHER, "description": "d", "strict": True}], "tool_choice": "none"}, {}),
    "choice by name": (
        {
            "tools": [{**WEATHER, "description": "d", "strict": True}],
            "tool_choice": {"type": "function", "name": "get_weather"},
        },
        {},
    ),
    "choice among some": (
        {
            "tools": [{**WEATHER, "description": "d", "strict": True}],
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "get_weather"}],
            },
        },
        {},
    ),
}


def _shown(response: JSON, names: Any) -> JSON:
    return {name: response.get(name, "absent") for name in names}


def test_every_default_of_the_contract_is_spelled_out(create: Create, model: str) -> None:
    response = create(model, "hello")

    assert _shown(response, DEFAULTS) == DEFAULTS
    assert {"error", "incomplete_details", "completed_at", "usage"} <= response.keys()


@pytest.mark.parametrize(("sent", "echoed"), ECHOED.values(), ids=ECHOED)
def test_a_body_echoes_the_request_of_the_client(create: Create, model: str, sent: JSON, echoed: JSON) -> None:
    expected = {**DEFAULTS, **sent, **echoed}

    assert _shown(create(model, "hello", **sent), expected) == expected


@pytest.mark.parametrize(("sent", "echoed"), ECHOED.values(), ids=ECHOED)
def test_every_lifecycle_event_echoes_the_request_of_the_client(
    api: Gateway, model: str, sent: JSON, echoed: JSON
) -> None:
    expected = {**DEFAULTS, **sent, **echoed}
    raw = api.stream({"model": model, "input": "hello", **sent}).content
    events = [orjson.loads(event.data) for event in read(raw)[0][:-1]]

    for event in events:
        if "response" in event:
            shown = _shown(event["response"], expected)
            assert shown | {"service_tier": None} == expected | {"service_tier": None}, event["type"]
    assert _shown(events[-1]["response"], expected) == expected


@pytest.mark.parametrize(("sent", "echoed"), ECHOED.values(), ids=ECHOED)
def test_a_retrieved_response_echoes_the_same(
    api: Gateway, create: Create, model: str, sent: JSON, echoed: JSON
) -> None:
    response = create(model, "hello", **{**sent, "store": True})

    assert api.get(f"/responses/{response['id']}").json() == response


def test_the_upstreams_own_echo_is_never_shown(create: Create, exact: ScriptedUpstream) -> None:
    lies = {
        "model": "secret-upstream-name",
        "instructions": "Upstream says.",
        "metadata": {"upstream": "yes"},
        "tools": [{"type": "web_search"}],
        "store": False,
        "previous_response_id": "resp_upstream",
        "temperature": 0.1,
        "user": "upstream",
        "prompt_cache_key": "upstream",
        "max_output_tokens": 5,
        "truncation": "auto",
    }
    exact.enqueue(rewritten(lambda body: {**body, **lies}))
    request_body = {"temperature": 0.7, "truncation": "disabled"}
    response = create(EXACT, "hello", **request_body)

    assert response["model"] == EXACT
    left = (
        "instructions",
        "metadata",
        "tools",
        "store",
        "previous_response_id",
        "user",
        "prompt_cache_key",
        "max_output_tokens",
    )
    assert _shown(response, left) == {name: DEFAULTS[name] for name in left}
    assert _shown(response, request_body) == request_body


@pytest.mark.parametrize(
    ("request_body", "upstream", "shown"),
    [({}, "priority", "priority"), ({}, None, "default"), ({"service_tier": "flex"}, "default", "flex")],
)
def test_the_service_tier_is_the_clients_then_the_upstreams_then_default(
    create: Create, exact: ScriptedUpstream, request_body: JSON, upstream: str | None, shown: str
) -> None:
    exact.enqueue(rewritten(lambda body: {**body, "service_tier": upstream}))

    assert create(EXACT, "hello", **request_body)["service_tier"] == shown


def test_an_mcp_tool_is_echoed_without_its_secrets(api: Gateway, create: Create) -> None:
    """On the channel that calls MCP servers itself."""
    secret = ("authorization", "headers")
    echoed = {key: value for key, value in MCP.items() if key not in secret}
    expected = [{**echoed, "headers": None, "allowed_tools": None}]
    response = create(EXACT, "hello", tools=[MCP])
    raw = api.stream({"model": EXACT, "input": "hello", "tools": [MCP]}).content
    events = [orjson.loads(event.data) for event in read(raw)[0][:-1]]

    assert response["tools"] == expected
    assert api.get(f"/responses/{response['id']}").json() == response
    assert [event["response"]["tools"] for event in events if "response" in event] == [expected] * 3


def test_secrets_of_mcp_tools_go_upstream_and_nowhere_else(api: Gateway, exact: ScriptedUpstream) -> None:
    answers = [
        api.post("/responses", {"model": EXACT, "input": "hello", "tools": [MCP]}),
        api.stream({"model": EXACT, "input": "hello", "tools": [MCP]}),
    ]
    assert [body["tools"] for body in exact.bodies] == [[MCP], [MCP]]
    answers.append(api.get(f"/responses/{answers[0].json()['id']}"))

    assert [b"canary" in answer.content for answer in answers] == [False] * 3
    assert b"canary" not in written(api)


def test_tools_reach_the_upstream_without_what_the_echo_adds(create: Create, exact: ScriptedUpstream) -> None:
    create(EXACT, "hello", tools=[{"type": "function", "name": "f"}])

    assert exact.bodies[-1]["tools"] == [{"type": "function", "name": "f"}]


def test_keys_the_contract_does_not_know_are_not_answered(create: Create, model: str) -> None:
    response = create(model, "hello", client_metadata={"a": "b"}, top_k=3)

    assert not response.keys() & {"client_metadata", "top_k", "output_text", "input", "stream", "include"}
