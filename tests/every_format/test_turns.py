"""What a client asks and is answered is the same on every format."""

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
    refused,
    said,
    text_of,
    tool,
)
from tests.response_contract import check_error, check_item_list
from tests.upstream import refusal, too_long
from tests.upstream_formats import Lane

JSON = dict[str, Any]
BERGEN: JSON = {**WEATHER, "name": "get_tides"}

TURNS: dict[str, JSON] = {
    "text": {},
    "items": {"input": [said("one"), said("Yes.", "assistant"), said("two")]},
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
def test_a_stream_says_what_the_json_says_and_both_are_kept(lane: Lane, turn: str) -> None:
    whole, ended = lane.create(**TURNS[turn]), lane.events(**TURNS[turn])[-1]["response"]
    assert essence(ended) == essence(whole)
    assert whole["output"]
    for response in (whole, ended):
        included = {"include[]": TURNS[turn].get("include", [])}
        assert lane.gateway.get(f"/responses/{response['id']}", params=included).json() == response


def test_text_goes_there_and_back(lane: Lane) -> None:
    response = lane.create(input="Grüße, 世界 👋🏽")
    assert lane.told == [("user", "Grüße, 世界 👋🏽")]
    assert text_of(response).startswith("You said: Grüße, 世界 👋🏽.")
    assert response["model"] == lane.model


# --- memory -----------------------------------------------------------------------------------------------------


@streamed
def test_a_conversation_is_remembered(lane: Lane, streamed: bool) -> None:
    first = lane.ask(streamed, input="My name is Ada.")
    second = lane.ask(streamed, input="And?", previous_response_id=first["id"])
    third = lane.ask(streamed, input="Well?", previous_response_id=second["id"])
    assert lane.told == [
        ("user", "My name is Ada."),
        ("assistant", text_of(first)),
        ("user", "And?"),
        ("assistant", text_of(second)),
        ("user", "Well?"),
    ]
    tokens = [response["usage"]["input_tokens"] for response in (first, second, third)]
    assert tokens == sorted(set(tokens))


def test_instructions_are_for_one_turn(lane: Lane) -> None:
    first = lane.create(instructions="Speak like a pirate.")
    assert lane.told[0] == ("system", "Speak like a pirate.")
    second = lane.create(input="And?", previous_response_id=first["id"])
    assert "pirate" not in str(lane.sent)
    assert (first["instructions"], second["instructions"]) == ("Speak like a pirate.", None)


def test_what_is_not_stored_is_not_found(lane: Lane) -> None:
    response = lane.create(store=False)
    assert response["store"] is False
    check_error(lane.gateway.get(f"/responses/{response['id']}"), 404)
    check_error(lane.post(previous_response_id=response["id"]), 400, "previous_response_not_found")


def test_the_whole_context_is_listed(lane: Lane) -> None:
    first = lane.create(input="weather", tools=[WEATHER])
    (call,) = calls_of(first)
    second = lane.create(input=[answered(call)], previous_response_id=first["id"], tools=[WEATHER])
    listed = lane.gateway.get(f"/responses/{second['id']}/input_items", params={"order": "asc"})
    items = [item for item in check_item_list(listed.json()) if item["type"] != "reasoning"]
    assert [item["type"] for item in items] == ["message", "function_call", "function_call_output"]
    assert items[1] == call


def test_a_response_can_be_continued_although_it_was_cut(lane: Lane) -> None:
    cut = lane.create(max_output_tokens=16)
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    lane.create(input="Go on.", previous_response_id=cut["id"])
    assert lane.told == [("user", "hello"), ("assistant", text_of(cut)), ("user", "Go on.")]


def test_a_refusal_is_a_refusal_and_the_conversation_goes_on(lane: Lane) -> None:
    response = lane.create(input="refuse")
    words = refused(response)
    assert words
    assert "hello" in text_of(lane.create(input="hello", previous_response_id=response["id"]))
    assert lane.told == [("user", "refuse"), ("assistant", words), ("user", "hello")]


# --- tools ------------------------------------------------------------------------------------------------------


@streamed
def test_a_tool_is_called_and_its_result_read(lane: Lane, streamed: bool) -> None:
    first = lane.ask(streamed, input="weather", tools=[WEATHER])
    (call,) = calls_of(first)
    assert (call["name"], orjson.loads(call["arguments"])) == ("get_weather", {"city": "Oslo"})
    second = lane.ask(streamed, input=[answered(call)], previous_response_id=first["id"], tools=[WEATHER])
    assert "The tools said: sunny." in text_of(second)
    assert lane.told == [("user", "weather"), ("call", "get_weather", '{"city":"Oslo"}'), ("output", "sunny")]


def test_calls_are_answered_in_any_order(lane: Lane) -> None:
    first = lane.create(input="both weathers", tools=[WEATHER, BERGEN])
    one, two = calls_of(first)
    assert one["call_id"] != two["call_id"]
    results = [answered(two, "windy"), answered(one, "sunny")]
    second = lane.create(input=results, previous_response_id=first["id"], tools=[WEATHER, BERGEN])
    assert set(lane.told[-2:]) == {("output", "sunny"), ("output", "windy")}
    assert {"sunny", "windy"} <= set(text_of(second).replace(",", " ").replace(".", " ").split())


def test_one_call_at_a_time_can_be_asked_for(lane: Lane) -> None:
    assert len(calls_of(lane.create(input="both weathers", tools=[WEATHER], parallel_tool_calls=False))) == 1


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
def test_a_tool_can_be_demanded(lane: Lane, choice: str) -> None:
    asked, names = CHOICES[choice]
    response = lane.create(tools=[WEATHER, BERGEN], tool_choice=asked)
    assert [call["name"] for call in calls_of(response)] == names
    assert response["tool_choice"] == asked


def test_tools_can_be_forbidden(lane: Lane) -> None:
    assert calls_of(lane.create(input="weather", tools=[WEATHER], tool_choice="none")) == []


def test_an_unknown_tool_cannot_be_demanded(lane: Lane) -> None:
    check_error(lane.post(tools=[WEATHER], tool_choice={"type": "function", "name": "f"}), 400, param="tool_choice")


@streamed
def test_a_custom_tool_takes_text(lane: Lane, streamed: bool) -> None:
    first = lane.ask(streamed, input="weather", tools=[CUSTOM])
    (call,) = calls_of(first)
    assert (call["type"], call["name"]) == ("custom_tool_call", "run")
    assert call["input"]
    second = lane.ask(streamed, input=[answered(call, "done")], previous_response_id=first["id"], tools=[CUSTOM])
    assert "The tools said: done." in text_of(second)
    assert [line[0] for line in lane.told] == ["user", "call", "output"]


@streamed
def test_a_tool_in_a_namespace_keeps_it(lane: Lane, streamed: bool) -> None:
    first = lane.ask(streamed, input="weather", tools=[SKY])
    (call,) = calls_of(first)
    assert (call["namespace"], call["name"]) == ("sky", "get_weather")
    second = lane.ask(streamed, input=[answered(call)], previous_response_id=first["id"], tools=[SKY])
    assert "sunny" in text_of(second)


def test_a_call_needs_its_result_and_a_result_its_call(lane: Lane) -> None:
    check_error(lane.post(input=[said("x"), called("call_1")]), 400, param="input")
    check_error(lane.post(input=[said("x"), answered(called("call_1"))]), 400, param="input")
    assert lane.upstream.bodies == []


# --- forms and images -------------------------------------------------------------------------------------------


@streamed
def test_a_schema_is_kept(lane: Lane, streamed: bool) -> None:
    response = lane.ask(streamed, text=form(CLOSED))
    assert orjson.loads(text_of(response)) == {"city": "Oslo", "days": [7]}
    assert response["text"]["format"] == form(CLOSED)["format"]


def test_images_are_seen(lane: Lane) -> None:
    look = {"role": "user", "content": [{"type": "input_text", "text": "look"}, IMAGE, IMAGE]}
    assert "I see 2 images." in text_of(lane.create(input=[look]))


def test_images_from_tools_are_seen(lane: Lane) -> None:
    shown = answered(called("call_1"), [{"type": "input_text", "text": "A map."}, IMAGE])
    response = lane.create(input=[said("look"), called("call_1"), shown], tools=[WEATHER])
    assert "image" in str(lane.sent)
    assert ("output", "A map.") in lane.told
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
def test_the_request_is_echoed(lane: Lane, streamed: bool) -> None:
    response = lane.ask(streamed, **ECHOED)
    assert {key: response[key] for key in ECHOED} == ECHOED


def test_defaults_are_the_contracts(lane: Lane) -> None:
    defaults = {"temperature": 1.0, "top_p": 1.0, "tool_choice": "auto", "tools": [], "metadata": {}, "store": True}
    response = lane.create()
    assert {key: response[key] for key in defaults} == defaults


# --- errors -----------------------------------------------------------------------------------------------------


@streamed
def test_an_upstreams_refusal_keeps_its_sentence(lane: Lane, streamed: bool) -> None:
    lane.enqueue(refusal(400, "You may not say that here."))
    error = check_error(lane.post(stream=streamed), 400, type="invalid_request_error")
    assert error["message"] == "You may not say that here."


@streamed
def test_a_context_too_long_is_told_by_its_code(lane: Lane, streamed: bool) -> None:
    lane.enqueue(too_long())
    check_error(lane.post(stream=streamed, truncation="disabled"), 400, "context_length_exceeded")


def test_a_wrong_key_is_the_operators_business(lane: Lane) -> None:
    lane.enqueue(refusal(401, "Incorrect API key provided: sk-secret."))
    error = check_error(lane.on("denied").post(), 502, "upstream_denied")
    assert "sk-secret" not in error["message"]


def test_too_many_requests_are_too_many(lane: Lane) -> None:
    lane.enqueue(refusal(429, "Slow down.", "rate_limit_exceeded", Retry_After="7"))
    answer = lane.on("limited").post()
    check_error(answer, 429, "rate_limit_exceeded")
    assert answer.headers["Retry-After"] == "7"
