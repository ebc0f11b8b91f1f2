"""POST /v1/responses: what is accepted, what the upstream is sent, and what comes back, on every format."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests.endpoints.conftest import EXACT
from tests.endpoints.vocabulary import (
    ITEMS,
    JSON,
    PIXEL,
    WEATHER,
    answered,
    calls_of,
    message_item,
    text_of,
    user_texts,
)
from tests.gateway import Gateway
from tests.response_contract import check_response, check_stream
from tests.upstream import ScriptedUpstream

Create = Callable[..., JSON]
OURS = re.compile(r"resp_[0-9a-f]{48}\Z")

# --- the answer -------------------------------------------------------------------------------------------------


def test_a_string_becomes_a_completed_response(create: Create, model: str) -> None:
    response = check_response(create(model, "hello"), status="completed", model=model, previous_response_id=None)

    assert OURS.match(response["id"])
    assert "hello" in text_of(response)


def test_a_stream_keeps_every_rule_of_the_contract(api: Gateway, model: str) -> None:
    answer = api.stream({"model": model, "input": "hello"})

    assert answer.headers["Content-Type"].startswith("text/event-stream")
    events = check_stream(answer.content, status="completed", model=model)
    assert OURS.match(events[-1]["response"]["id"])


REQUESTS: dict[str, JSON] = {
    "text": {"input": "hello"},
    "call": {"input": "go", "tools": [WEATHER], "tool_choice": "required"},
    "custom call": {"input": "go", "tools": [{"type": "custom", "name": "c"}], "tool_choice": "required"},
    "schema": {
        "input": "go",
        "text": {"format": {"type": "json_schema", "name": "n", "strict": True, "schema": WEATHER["parameters"]}},
    },
    "cut short": {"input": "go", "max_output_tokens": 16},
    "reasoning": {"input": "go", "reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"]},
    "logprobs": {"input": "go", "include": ["message.output_text.logprobs"], "top_logprobs": 2},
    "hosted search": {"input": "search this", "tools": [{"type": "web_search"}]},
    "refusal": {"input": "refuse"},
    "everything set": {
        "input": [message_item("hello")],
        "instructions": "Be brief.",
        "metadata": {"k": "v"},
        "temperature": 0.5,
        "top_p": 0.5,
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "truncation": "auto",
        "parallel_tool_calls": False,
        "max_tool_calls": 3,
        "max_output_tokens": 900,
        "service_tier": "flex",
        "store": False,
    },
}


def _without_chance(value: Any, names: dict[str, str] | None = None) -> Any:
    """The same value with times left out and every id replaced by its place of first mention."""
    names = {} if names is None else names
    if isinstance(value, dict):
        return {
            key: names.setdefault(inner, f"{key} {len(names)}")
            if key in ("id", "call_id") and isinstance(inner, str)
            else "sealed"
            if key == "encrypted_content"
            else _without_chance(inner, names)
            for key, inner in value.items()
            if key not in ("created_at", "completed_at")
        }
    return [_without_chance(inner, names) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("request_body", REQUESTS.values(), ids=REQUESTS)
def test_a_stream_ends_in_the_body_that_json_would_have_been(api: Gateway, model: str, request_body: JSON) -> None:
    body = check_response(api.post("/responses", {"model": model, **request_body}).json())
    events = check_stream(api.stream({"model": model, **request_body}).content)

    assert _without_chance(events[-1]["response"]) == _without_chance(body)


def test_max_output_tokens_cuts_the_answer_short(create: Create, model: str) -> None:
    response = create(model, "hello", max_output_tokens=16)

    check_response(response, status="incomplete", incomplete_details={"reason": "max_output_tokens"})


def test_output_is_cut_at_max_output_tokens(create: Create) -> None:
    check_response(create("demo", "hello", max_output_tokens=16), status="incomplete", max_output_tokens=16)


@pytest.mark.parametrize("tokens", [1, 15])
def test_a_limit_that_only_the_model_has_is_passed_on(api: Gateway, model: str, tokens: int) -> None:
    """The gateway itself takes 1 and more; OpenAI's models, and the demo as they do, take 16."""
    answer = api.post("/responses", {"model": model, "input": "hello", "max_output_tokens": tokens})

    assert answer.status_code == 400
    assert answer.json()["error"]["message"].endswith(f"Expected a value >= 16, but got {tokens} instead.")


# --- input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("items", ITEMS.values(), ids=ITEMS)
def test_every_type_of_item_is_accepted(create: Create, model: str, items: list[JSON]) -> None:
    check_response(create(model, [message_item("before"), *items, message_item("hello")]), status="completed")


#: Messages of an assistant go on in their full form, and reasoning only to its own family.
PUT_OTHERWISE = ("assistant message as a string", "assistant message of parts", "reasoning", "reasoning with text")


@pytest.mark.parametrize("name", [name for name in ITEMS if name not in PUT_OTHERWISE])
def test_items_reach_a_responses_upstream_as_they_came(create: Create, exact: ScriptedUpstream, name: str) -> None:
    items = ITEMS[name]
    create(EXACT, [*items, message_item("hello")])

    sent = exact.bodies[-1]["input"]
    for item, arrived in zip(items, sent, strict=False):
        given = {key: value for key, value in item.items() if value is not None}
        assert given.items() <= ({"type": "message"} | arrived).items(), arrived


def test_bare_parts_become_one_user_message(create: Create, exact: ScriptedUpstream) -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": PIXEL}]
    create(EXACT, [*parts, message_item("b"), {"type": "input_text", "text": "c"}])

    sent = exact.bodies[-1]["input"]
    assert [item["role"] for item in sent] == ["user", "user", "user"]
    assert sent[0]["content"] == parts
    assert user_texts(sent) == ["a", "b", "c"]


def test_bare_parts_are_accepted(create: Create, model: str) -> None:
    create(model, [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": PIXEL}])


@pytest.mark.parametrize(
    "text", ["\x00", "\uffff", "é", "\u2028", "\U0001f600", "‮abc", 'a"b\\c', "\r\n\t", " "], ids=ascii
)
def test_unusual_text_comes_back_as_it_was(create: Create, model: str, text: str) -> None:
    response = create(model, f"<{text}>", metadata={"k": text})

    assert f"<{text}>" in text_of(response)
    assert response["metadata"] == {"k": text}


def test_the_longest_string_there_may_be_is_accepted(create: Create) -> None:
    response = create("demo", "x" * 10_485_760, store=False)

    assert response["status"] == "completed"


# --- own output, sent back --------------------------------------------------------------------------------------


def _again(create: Create, model: str, response: JSON, request_body: JSON) -> JSON:
    outputs = [answered(call) for call in calls_of(response) if "call_id" in call]
    return create(
        model,
        [message_item("hello"), *response["output"], *outputs, message_item("go on")],
        tools=request_body.get("tools", []),
    )


@pytest.mark.parametrize("request_body", REQUESTS.values(), ids=REQUESTS)
def test_the_gateways_own_output_is_accepted_verbatim(
    api: Gateway, create: Create, model: str, request_body: JSON
) -> None:
    response = create(model, **request_body)
    streamed = check_stream(api.stream({"model": model, **request_body}).content)[-1]["response"]

    for own in (response, streamed):
        check_response(_again(create, model, own, request_body), status="completed")


@pytest.mark.parametrize("request_body", REQUESTS.values(), ids=REQUESTS)
def test_output_of_one_format_is_accepted_by_every_other(create: Create, model: str, request_body: JSON) -> None:
    for other in ("demo", EXACT):
        response = create(other, **request_body)
        check_response(_again(create, model, response, request_body), status="completed")


def test_ids_of_items_stay_what_they_are_on_their_way_back(create: Create, exact: ScriptedUpstream) -> None:
    response = create(EXACT, "hello", include=["reasoning.encrypted_content"])
    create(EXACT, [message_item("hello"), *response["output"], message_item("go on")])

    assert exact.bodies[-1]["input"][1:-1] == response["output"]


def test_a_compaction_item_is_accepted_back(create: Create, model: str) -> None:
    response = create(model, [message_item("My name is Ada."), {"type": "compaction_trigger"}])

    assert [item["type"] for item in response["output"]] == ["compaction"]
    check_response(create(model, [*response["output"], message_item("And?")]), status="completed")


def test_a_foreign_compaction_item_is_no_error_where_it_cannot_be_read(create: Create) -> None:
    foreign = {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAAforeign"}

    check_response(create("demo", [foreign, message_item("hello")]), status="completed")


# --- encrypted reasoning ----------------------------------------------------------------------------------------


def _sealed(items: list[JSON]) -> list[bool]:
    return [bool(item.get("encrypted_content")) for item in items if item["type"] == "reasoning"]


def test_encrypted_reasoning_is_hidden_unless_requested_and_replayed_all_the_same(
    api: Gateway, create: Create, exact: ScriptedUpstream
) -> None:
    hidden = create(EXACT, "hello")
    assert _sealed(hidden["output"]) == [False]
    assert _sealed(api.get(f"/responses/{hidden['id']}").json()["output"]) == [False]

    create(EXACT, "go on", previous_response_id=hidden["id"])

    assert exact.bodies[0]["include"] == ["reasoning.encrypted_content"]
    assert _sealed(exact.bodies[1]["input"]) == [True]


def test_encrypted_reasoning_is_shown_when_requested(create: Create) -> None:
    assert _sealed(create(EXACT, "hello", include=["reasoning.encrypted_content"])["output"]) == [True]


def test_encrypted_reasoning_is_hidden_in_every_event_of_a_stream(api: Gateway) -> None:
    raw = api.stream({"model": EXACT, "input": "hello"}).content
    check_stream(raw)
    assert b"gAAAA" not in raw

    raw = api.stream({"model": EXACT, "input": "hello", "include": ["reasoning.encrypted_content"]}).content
    assert _sealed(check_stream(raw)[-1]["response"]["output"]) == [True]


# --- what the upstream is sent ----------------------------------------------------------------------------------

OUR_BUSINESS = (
    "previous_response_id",
    "conversation",
    "background",
    "background_options",
    "generate",
    "stream_id",
    "context_management",
)


def test_the_upstream_sees_the_whole_conversation_and_none_of_our_state(
    create: Create, exact: ScriptedUpstream
) -> None:
    first = create(EXACT, "one")
    create(
        EXACT,
        "two",
        previous_response_id=first["id"],
        background=False,
        generate=True,
        stream_id="s",
        store=True,
        context_management=[{"type": "compaction", "compact_threshold": 900_000}],
    )

    sent = exact.bodies[-1]
    assert not sent.keys() & set(OUR_BUSINESS)
    assert sent["store"] is False
    assert user_texts(sent["input"]) == ["one", "two"]
    assert [item["id"] for item in sent["input"] if item.get("id") in {x["id"] for x in first["output"]}] == [
        item["id"] for item in first["output"]
    ]


def test_store_is_false_upstream_whatever_the_client_says(create: Create, exact: ScriptedUpstream) -> None:
    for store in ({}, {"store": True}, {"store": False}, {"store": None}):
        create(EXACT, "hello", **store)

    assert [body["store"] for body in exact.bodies] == [False] * 4


PASSED_ON: dict[str, Any] = {
    "client_metadata": {"session_id": "s"},
    "top_k": 4,
    "tools": [WEATHER, {"type": "invented_tool", "anything": 1}, {"type": "web_search", "external_web_access": False}],
    "tool_choice": {"type": "function", "name": "get_weather"},
    "prompt": {"id": "pmpt_1", "version": "2", "variables": {"a": "b"}},
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
    "safety_identifier": "s",
    "user": "u",
    "metadata": {"k": "v"},
    "temperature": 0.25,
    "top_p": 0.25,
    "top_logprobs": 3,
    "max_output_tokens": 400,
    "max_tool_calls": 2,
    "parallel_tool_calls": False,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "reasoning": {"effort": "low", "summary": "auto", "mode": "pro", "invented": 1},
    "text": {"verbosity": "low", "format": {"type": "json_object"}, "invented": 1},
    "service_tier": "flex",
    "truncation": "auto",
    "moderation": {"model": "m"},
}


@pytest.mark.parametrize(("name", "value"), PASSED_ON.items(), ids=PASSED_ON)
def test_settings_of_the_client_reach_a_responses_upstream(
    create: Create, exact: ScriptedUpstream, name: str, value: Any
) -> None:
    tools = {"tools": [WEATHER]} if name == "tool_choice" else {}
    create(EXACT, "hello", **tools, **{name: value})

    assert exact.bodies[-1][name] == value


def test_unknown_keys_are_no_error_on_any_format(create: Create, model: str) -> None:
    parameters = {name: value for name, value in PASSED_ON.items() if name not in ("prompt", "tool_choice")}

    check_response(create(model, "hello", **parameters, invented=[{"deep": None}]))


def test_stream_options_reach_the_upstream_with_their_unknown_keys(api: Gateway, exact: ScriptedUpstream) -> None:
    options = {"include_obfuscation": False, "reasoning_summary_delivery": "sequential_cutoff"}
    raw = api.stream({"model": EXACT, "input": "hello", "stream_options": options}).content
    check_stream(raw)

    assert b"obfuscation" not in raw
    assert exact.bodies[-1]["stream_options"] == options


def test_the_upstream_gets_our_key_and_none_of_the_clients_headers(api: Gateway, exact: ScriptedUpstream) -> None:
    headers = {"Cookie": "a=b", "X-Forwarded-For": "1.2.3.4", "X-Secret": "s", "OpenAI-Organization": "org"}
    api.post("/responses", {"model": EXACT, "input": "hello"}, headers=headers)

    sent = exact.requests[-1].headers
    assert sent["authorization"] == "Bearer none"
    assert not sent.keys() & {"cookie", "x-forwarded-for", "x-secret", "openai-organization"}


def test_a_duplicate_key_means_to_the_upstream_what_it_means_to_us(api: Gateway, exact: ScriptedUpstream) -> None:
    body = b'{"model":"demo","input":"one","model":"%b","input":"two"}' % EXACT.encode()
    answer = api.request("POST", "/responses", data=body, headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["model"]) == (200, EXACT)
    assert exact.requests[-1].raw.count(b'"model"') == 1
    assert user_texts(exact.bodies[-1]["input"]) == ["two"]


# --- null, stream, store ----------------------------------------------------------------------------------------

NULLABLE = (
    "background",
    "context_management",
    "conversation",
    "frequency_penalty",
    "include",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "moderation",
    "parallel_tool_calls",
    "presence_penalty",
    "previous_response_id",
    "prompt",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
)


def test_null_is_as_if_left_out(api: Gateway, create: Create, exact: ScriptedUpstream, model: str) -> None:
    plain = create(model, "hello")
    nulls = create(model, "hello", **dict.fromkeys(NULLABLE))

    assert _without_chance(nulls) == _without_chance(plain)
    assert [body.keys() for body in exact.bodies[1:]] == [body.keys() for body in exact.bodies[:-1]]
    assert api.get(f"/responses/{nulls['id']}").status_code == 200


@pytest.mark.parametrize("name", NULLABLE)
def test_each_null_alone_is_as_if_left_out(create: Create, model: str, name: str) -> None:
    check_response(create(model, "hello", **{name: None}), status="completed")


def test_stream_false_is_json(api: Gateway, model: str) -> None:
    answer = api.post("/responses", {"model": model, "input": "a", "stream": False, "stream_options": {}})

    assert answer.headers["Content-Type"].startswith("application/json")
    check_response(answer.json())


def test_stream_options_without_stream_have_no_effect(create: Create, model: str) -> None:
    check_response(create(model, "hello", stream_options={"include_obfuscation": True}))


# --- instructions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "instructions",
    [
        "Be brief.",
        {"content": "Be brief."},
        {"text": "Be brief."},
        {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be brief."}]},
    ],
    ids=["string", "content", "text", "message"],
)
def test_the_upstream_gets_instructions_as_a_string_and_the_client_its_own(
    create: Create, exact: ScriptedUpstream, instructions: Any
) -> None:
    response = create(EXACT, "hello", instructions=instructions)

    assert response["instructions"] == instructions
    assert exact.bodies[-1]["instructions"] == "Be brief."


def test_truncation_as_an_object_goes_upstream_as_its_type(create: Create, exact: ScriptedUpstream) -> None:
    response = create(EXACT, "hello", truncation={"type": "auto", "last": 3})

    assert response["truncation"] == "auto"
    assert exact.bodies[-1]["truncation"] == "auto"


# --- function calls ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stateful", [True, False], ids=["by id", "by hand"])
def test_a_function_call_goes_round(create: Create, model: str, stateful: bool) -> None:
    first = create(model, "What is the weather?", tools=[WEATHER], tool_choice="required")
    (call,) = calls_of(first)
    assert call["name"] == "get_weather"
    assert orjson.loads(call["arguments"]).keys() == {"city"}
    assert call["call_id"] != call["id"]

    if stateful:
        second = create(model, [answered(call)], previous_response_id=first["id"], tools=[WEATHER])
    else:
        second = create(
            model, [message_item("What is the weather?"), *first["output"], answered(call)], tools=[WEATHER]
        )

    check_response(second, status="completed")
    assert "sunny" in text_of(second)


def test_an_output_in_parts_answers_a_call(create: Create, model: str) -> None:
    first = create(model, "go", tools=[WEATHER], tool_choice="required")
    output = [{"type": "input_text", "text": "sunny"}, {"type": "input_image", "image_url": PIXEL}]

    create(model, [answered(calls_of(first)[0], output)], previous_response_id=first["id"])


def test_parallel_calls_may_be_answered_in_any_order(create: Create) -> None:
    first = create(EXACT, "weather in both", tools=[WEATHER, {**WEATHER, "name": "other"}])
    one, two = calls_of(first)
    second = create(EXACT, [answered(two, "rainy"), answered(one)], previous_response_id=first["id"])

    assert text_of(second).startswith("The tools said: rainy, sunny.")


# --- headers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
def test_an_answer_has_an_id_header_and_is_never_cached(api: Gateway, model: str, stream: bool) -> None:
    body = {"model": model, "input": "hello", "stream": stream}
    answer = api.post("/responses", body, headers={"X-Client-Request-Id": "mine-1", "X-Request-Id": "forged"})

    assert re.fullmatch(r"req_[0-9a-f]{32}", answer.headers["x-request-id"])
    assert answer.headers["x-client-request-id"] == "mine-1"
    assert "no-store" in answer.headers["cache-control"]
    assert "set-cookie" not in answer.headers


def test_no_two_requests_have_one_id(api: Gateway) -> None:
    ids = {api.post("/responses", {"model": "demo", "input": "a"}).headers["x-request-id"] for _ in range(5)}

    assert len(ids) == 5
