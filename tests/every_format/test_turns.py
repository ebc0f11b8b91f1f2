"""Requests and answers of a client are the same on every format."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.every_format.conversations import (
    CLOSED,
    CUSTOM,
    IMAGE,
    SKY,
    WEATHER,
    answered,
    called,
    calls_of,
    essence,
    form,
    message_item,
    refused,
    text_of,
    tool,
)
from tests.response_contract import check_error, check_item_list
from tests.upstream import refusal, too_long
from tests.upstream_formats import FormatCase

JSON = dict[str, Any]
BERGEN: JSON = {**WEATHER, "name": "get_tides"}

TURNS: dict[str, JSON] = {
    "text": {},
    "items": {"input": [message_item("one"), message_item("Yes.", "assistant"), message_item("two")]},
    "a call": {"input": "weather", "tools": [WEATHER]},
    "two calls": {"input": "both weathers", "tools": [WEATHER, BERGEN]},
    "text and a call": {"input": "explain the weather", "tools": [WEATHER]},
    "a call without arguments": {"input": "weather", "tools": [tool()]},
    "a custom tool": {"input": "weather", "tools": [CUSTOM]},
    "a tool in a namespace": {"input": "weather", "tools": [SKY]},
    "a schema": {"text": form(CLOSED)},
    "an image": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "look"}, IMAGE]}]},
    "a refusal": {"input": "refuse"},
    "a cut": {"max_output_tokens": 16},
    "reasoning": {"input": "think", "reasoning": {"effort": "medium"}, "include": ["reasoning.encrypted_content"]},
    "a summary": {"input": "think", "reasoning": {"effort": "medium", "summary": "auto"}},
    "reasoning and a call": {"input": "think of the weather", "reasoning": {"effort": "medium"}, "tools": [WEATHER]},
}
streamed = pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])


@pytest.mark.parametrize("turn", TURNS)
def test_a_stream_equals_the_json_and_both_are_stored(format_case: FormatCase, turn: str) -> None:
    whole, ended = format_case.create(**TURNS[turn]), format_case.events(**TURNS[turn])[-1]["response"]
    assert essence(ended) == essence(whole)
    assert whole["output"]
    for response in (whole, ended):
        included = {"include[]": TURNS[turn].get("include", [])}
        assert format_case.gateway.get(f"/responses/{response['id']}", params=included).json() == response


def test_text_goes_there_and_back(format_case: FormatCase) -> None:
    response = format_case.create(input="Grüße, 世界 👋🏽")
    assert format_case.sent_lines == [("user", "Grüße, 世界 👋🏽")]
    assert text_of(response).startswith("You said: Grüße, 世界 👋🏽.")
    assert response["model"] == format_case.model


# --- memory -----------------------------------------------------------------------------------------------------


@streamed
def test_a_conversation_is_remembered(format_case: FormatCase, streamed: bool) -> None:
    first = format_case.ask(streamed, input="My name is Ada.")
    second = format_case.ask(streamed, input="And?", previous_response_id=first["id"])
    third = format_case.ask(streamed, input="Well?", previous_response_id=second["id"])
    assert format_case.sent_lines == [
        ("user", "My name is Ada."),
        ("assistant", text_of(first)),
        ("user", "And?"),
        ("assistant", text_of(second)),
        ("user", "Well?"),
    ]
    tokens = [response["usage"]["input_tokens"] for response in (first, second, third)]
    assert tokens == sorted(set(tokens))


def test_instructions_are_for_one_turn(format_case: FormatCase) -> None:
    first = format_case.create(instructions="Speak like a pirate.")
    assert format_case.sent_lines[0] == ("system", "Speak like a pirate.")
    second = format_case.create(input="And?", previous_response_id=first["id"])
    assert "pirate" not in str(format_case.sent_body)
    assert (first["instructions"], second["instructions"]) == ("Speak like a pirate.", None)


def test_an_unstored_response_is_not_found(format_case: FormatCase) -> None:
    response = format_case.create(store=False)
    assert response["store"] is False
    check_error(format_case.gateway.get(f"/responses/{response['id']}"), 404)
    check_error(format_case.post(previous_response_id=response["id"]), 400, "previous_response_not_found")


def test_the_whole_context_is_listed(format_case: FormatCase) -> None:
    first = format_case.create(input="weather", tools=[WEATHER])
    (call,) = calls_of(first)
    second = format_case.create(input=[answered(call)], previous_response_id=first["id"], tools=[WEATHER])
    listed = format_case.gateway.get(f"/responses/{second['id']}/input_items", params={"order": "asc"})
    items = [item for item in check_item_list(listed.json()) if item["type"] != "reasoning"]
    assert [item["type"] for item in items] == ["message", "function_call", "function_call_output"]
    assert items[1] == call


def test_a_response_can_be_continued_although_it_was_cut(format_case: FormatCase) -> None:
    cut = format_case.create(max_output_tokens=16)
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    format_case.create(input="Go on.", previous_response_id=cut["id"])
    assert format_case.sent_lines == [("user", "hello"), ("assistant", text_of(cut)), ("user", "Go on.")]


def test_a_refusal_is_a_refusal_and_the_conversation_goes_on(format_case: FormatCase) -> None:
    response = format_case.create(input="refuse")
    words = refused(response)
    assert words
    assert "hello" in text_of(format_case.create(input="hello", previous_response_id=response["id"]))
    assert format_case.sent_lines == [("user", "refuse"), ("assistant", words), ("user", "hello")]


# --- tools ------------------------------------------------------------------------------------------------------


@streamed
def test_a_tool_is_called_and_its_result_read(format_case: FormatCase, streamed: bool) -> None:
    first = format_case.ask(streamed, input="weather", tools=[WEATHER])
    (call,) = calls_of(first)
    assert (call["name"], orjson.loads(call["arguments"])) == ("get_weather", {"city": "Oslo"})
    second = format_case.ask(streamed, input=[answered(call)], previous_response_id=first["id"], tools=[WEATHER])
    assert "The tools said: sunny." in text_of(second)
    assert format_case.sent_lines == [
        ("user", "weather"),
        ("call", "get_weather", '{"city":"Oslo"}'),
        ("output", "sunny"),
    ]


def test_calls_are_answered_in_any_order(format_case: FormatCase) -> None:
    first = format_case.create(input="both weathers", tools=[WEATHER, BERGEN])
    one, two = calls_of(first)
    assert one["call_id"] != two["call_id"]
    results = [answered(two, "windy"), answered(one, "sunny")]
    second = format_case.create(input=results, previous_response_id=first["id"], tools=[WEATHER, BERGEN])
    assert set(format_case.sent_lines[-2:]) == {("output", "sunny"), ("output", "windy")}
    assert {"sunny", "windy"} <= set(text_of(second).replace(",", " ").replace(".", " ").split())


def test_one_call_at_a_time_can_be_requested(format_case: FormatCase) -> None:
    assert len(calls_of(format_case.create(input="both weathers", tools=[WEATHER], parallel_tool_calls=False))) == 1


CHOICES: dict[str, tuple[Any, list[str]]] = {
    "required": ("required", ["get_weather"]),
    "named": ({"type": "function", "name": "get_tides"}, ["get_tides"]),
    "allowed": (
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_tides"}]},
        ["get_tides"],
    ),
    "auto": ("auto", []),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_a_tool_can_be_demanded(format_case: FormatCase, choice: str) -> None:
    requested, names = CHOICES[choice]
    response = format_case.create(tools=[WEATHER, BERGEN], tool_choice=requested)
    assert [call["name"] for call in calls_of(response)] == names
    assert response["tool_choice"] == requested


def test_tools_can_be_forbidden(format_case: FormatCase) -> None:
    assert calls_of(format_case.create(input="weather", tools=[WEATHER], tool_choice="none")) == []


def test_an_unknown_tool_cannot_be_demanded(format_case: FormatCase) -> None:
    check_error(
        format_case.post(tools=[WEATHER], tool_choice={"type": "function", "name": "f"}), 400, param="tool_choice"
    )


@streamed
def test_a_custom_tool_takes_text(format_case: FormatCase, streamed: bool) -> None:
    first = format_case.ask(streamed, input="weather", tools=[CUSTOM])
    (call,) = calls_of(first)
    assert (call["type"], call["name"]) == ("custom_tool_call", "run")
    assert call["input"]
    second = format_case.ask(streamed, input=[answered(call, "done")], previous_response_id=first["id"], tools=[CUSTOM])
    assert "The tools said: done." in text_of(second)
    assert [line[0] for line in format_case.sent_lines] == ["user", "call", "output"]


@streamed
def test_a_tool_in_a_namespace_keeps_it(format_case: FormatCase, streamed: bool) -> None:
    first = format_case.ask(streamed, input="weather", tools=[SKY])
    (call,) = calls_of(first)
    assert (call["namespace"], call["name"]) == ("sky", "get_weather")
    second = format_case.ask(streamed, input=[answered(call)], previous_response_id=first["id"], tools=[SKY])
    assert "sunny" in text_of(second)


def test_a_call_needs_its_result_and_a_result_its_call(format_case: FormatCase) -> None:
    check_error(format_case.post(input=[message_item("x"), called("call_1")]), 400, param="input")
    check_error(format_case.post(input=[message_item("x"), answered(called("call_1"))]), 400, param="input")
    assert format_case.upstream.bodies == []


# --- forms and images -------------------------------------------------------------------------------------------


@streamed
def test_a_schema_reaches_the_upstream(format_case: FormatCase, streamed: bool) -> None:
    response = format_case.ask(streamed, text=form(CLOSED))
    assert orjson.loads(text_of(response)) == {"city": "Oslo", "days": [7]}
    assert response["text"]["format"] == form(CLOSED)["format"]


def test_images_are_seen(format_case: FormatCase) -> None:
    look = {"role": "user", "content": [{"type": "input_text", "text": "look"}, IMAGE, IMAGE]}
    assert "I see 2 images." in text_of(format_case.create(input=[look]))


def test_images_from_tools_are_seen(format_case: FormatCase) -> None:
    shown = answered(called("call_1"), [{"type": "input_text", "text": "A map."}, IMAGE])
    response = format_case.create(input=[message_item("look"), called("call_1"), shown], tools=[WEATHER])
    assert "image" in str(format_case.sent_body)
    assert ("output", "A map.") in format_case.sent_lines
    assert response["status"] == "completed"


# --- what is echoed ---------------------------------------------------------------------------------------------

ECHOED: JSON = {
    "metadata": {"k": "v"},
    "instructions": "Be brief.",
    "max_output_tokens": 500,
    "max_tool_calls": 3,
    "parallel_tool_calls": False,
    "prompt_cache_key": "key",
    "safety_identifier": "ada",
    "temperature": 0.5,
    "tool_choice": "auto",
    "tools": [{**WEATHER, "description": "The weather.", "strict": False}],
    "truncation": "auto",
    "user": "ada",
}


@streamed
def test_the_request_is_echoed(format_case: FormatCase, streamed: bool) -> None:
    response = format_case.ask(streamed, **ECHOED)
    assert {key: response[key] for key in ECHOED} == ECHOED


def test_defaults_are_the_contracts(format_case: FormatCase) -> None:
    defaults = {"temperature": 1.0, "top_p": 1.0, "tool_choice": "auto", "tools": [], "metadata": {}, "store": True}
    response = format_case.create()
    assert {key: response[key] for key in defaults} == defaults


# --- errors -----------------------------------------------------------------------------------------------------


@streamed
def test_an_upstreams_refusal_keeps_its_sentence(format_case: FormatCase, streamed: bool) -> None:
    format_case.enqueue(refusal(400, "You may not say that here."))
    error = check_error(format_case.post(stream=streamed), 400, type="invalid_request_error")
    assert error["message"] == "You may not say that here."


@streamed
def test_too_long_a_context_has_its_code(format_case: FormatCase, streamed: bool) -> None:
    format_case.enqueue(too_long())
    check_error(format_case.post(stream=streamed, truncation="disabled"), 400, "context_length_exceeded")


def test_a_wrong_key_is_the_operators_business(format_case: FormatCase) -> None:
    format_case.enqueue(refusal(401, "Incorrect API key provided: sk-secret."))
    error = check_error(format_case.on("denied").post(), 502, "upstream_denied")
    assert "sk-secret" not in error["message"]


def test_too_many_requests_are_too_many(format_case: FormatCase) -> None:
    format_case.enqueue(refusal(429, "Slow down.", "rate_limit_exceeded", Retry_After="7"))
    answer = format_case.on("limited").post()
    check_error(answer, 429, "rate_limit_exceeded")
    assert answer.headers["Retry-After"] == "7"
