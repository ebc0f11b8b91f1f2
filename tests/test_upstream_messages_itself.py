"""The scripted upstream speaks Anthropic's Messages API: its SDK reads it, and what Anthropic refuses is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import orjson
import pytest
import requests
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from tests.sse_reader import read
from tests.upstream import (
    Script,
    ScriptedUpstream,
    byte_by_byte,
    dropped,
    failing,
    failing_at_once,
    refusal,
    rewritten,
    split_randomly,
    too_long,
    unterminated,
)

JSON = dict[str, Any]
KEYS = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CLOSED = {**SCHEMA, "additionalProperties": False}
WEATHER = {"name": "get_weather", "input_schema": SCHEMA}
BARE = {"name": "get_weather", "input_schema": {"type": "object"}}
THINKING = {"type": "enabled", "budget_tokens": 1024}
PIXEL = {"type": "base64", "media_type": "image/gif", "data": "R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="}


def user(content: Any) -> JSON:
    return {"role": "user", "content": content}


def assistant(*content: JSON) -> JSON:
    return {"role": "assistant", "content": list(content)}


def call(call_id: str = "toolu_1", **keys: Any) -> JSON:
    return {"type": "tool_use", "id": call_id, "name": "get_weather", "input": {}, **keys}


def result(call_id: str = "toolu_1", content: Any = "sunny", **keys: Any) -> JSON:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **keys}


class Caller:
    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers.update(KEYS)

    def post(self, text: str = "hello", **body: Any) -> requests.Response:
        whole = {"model": "m", "max_tokens": 2048, "messages": [user(text)], **body}
        return self.session.post(f"{self.upstream.base_url}/messages", json=whole, timeout=20)

    def answer_to(self, text: str = "hello", **body: Any) -> JSON:
        answer = self.post(text, **body)
        assert answer.status_code == 200, answer.text
        TypeAdapter(Message).validate_json(answer.content, strict=True)
        return dict(answer.json())

    def events(self, text: str = "hello", **body: Any) -> list[JSON]:
        framed, faults = read(self.post(text, stream=True, **body).content)
        assert not faults
        for name, data, _ in framed:
            assert orjson.loads(data)["type"] == name
            if name != "ping":
                TypeAdapter(RawMessageStreamEvent).validate_json(data, strict=True)
        return [orjson.loads(event.data) for event in framed]

    def refused(self, status: int = 400, **body: Any) -> str:
        answer = self.post(**body)
        assert answer.status_code == status, answer.text
        message = answer.json()
        assert message["type"] == "error"
        return f"{message['error']['type']}: {message['error']['message']}"


@pytest.fixture
def caller(upstream: ScriptedUpstream) -> Iterator[Caller]:
    caller = Caller(upstream)
    with caller.session:
        yield caller


@pytest.fixture
def sdk(upstream: ScriptedUpstream) -> Iterator[anthropic.Anthropic]:
    root = upstream.base_url.removesuffix("/v1")
    transport = anthropic.DefaultHttpxClient(trust_env=False)
    # Its newest version shows a bearer token; the header that every server of this format knows comes beside it.
    with anthropic.Anthropic(
        base_url=root, api_key="k", max_retries=0, http_client=transport, default_headers=KEYS
    ) as client:
        yield client


TURNS: dict[str, tuple[JSON, str, list[str]]] = {
    "text": ({}, "end_turn", ["text"]),
    "tool": ({"text": "weather", "tools": [WEATHER]}, "tool_use", ["tool_use"]),
    "bare tool": ({"text": "weather", "tools": [BARE]}, "tool_use", ["tool_use"]),
    "two tools": ({"text": "both weathers", "tools": [WEATHER]}, "tool_use", ["tool_use", "tool_use"]),
    "text and tool": ({"text": "explain the weather", "tools": [WEATHER]}, "tool_use", ["text", "tool_use"]),
    "forced": ({"tools": [WEATHER], "tool_choice": {"type": "any"}}, "tool_use", ["tool_use"]),
    "thinking": ({"thinking": THINKING}, "end_turn", ["thinking", "text"]),
    "thinking and tool": (
        {"text": "weather", "thinking": {"type": "adaptive"}, "tools": [WEATHER]},
        "tool_use",
        ["thinking", "tool_use"],
    ),
    "refusal": ({"text": "refuse"}, "refusal", []),
    "cut": ({"max_tokens": 16}, "max_tokens", ["text"]),
    "schema": ({"output_config": {"format": {"type": "json_schema", "schema": CLOSED}}}, "end_turn", ["text"]),
}


@pytest.mark.parametrize("turn", TURNS)
def test_a_message_is_one_of_anthropics(caller: Caller, turn: str) -> None:
    body, reason, kinds = TURNS[turn]
    message = caller.answer_to(**body)
    assert message["stop_reason"] == reason
    assert [block["type"] for block in message["content"]] == kinds


@pytest.mark.parametrize("turn", TURNS)
def test_its_events_add_up_to_the_message(caller: Caller, turn: str) -> None:
    body, reason, kinds = TURNS[turn]
    events = caller.events(**body)
    assert events[0]["type"] == "message_start"
    assert [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"] == kinds
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    assert events[-2]["delta"]["stop_reason"] == reason
    assert events[-2]["usage"]["output_tokens"] == caller.answer_to(**body)["usage"]["output_tokens"]


@pytest.mark.parametrize("turn", TURNS)
def test_anthropics_sdk_gathers_the_same_from_a_stream(sdk: anthropic.Anthropic, caller: Caller, turn: str) -> None:
    text, body = TURNS[turn][0].get("text", "hello"), {k: v for k, v in TURNS[turn][0].items() if k != "text"}
    keys: Any = {"model": "m", "max_tokens": 2048, "messages": [user(text)], **body}
    caller.upstream.always(split_randomly(3))
    with sdk.messages.stream(**keys) as stream:
        gathered = stream.get_final_message()
    unstreamed = sdk.messages.create(**keys)

    def streamed_events(message: Message) -> list[JSON]:
        return [{**block.model_dump(), "id": None} for block in message.content]

    assert streamed_events(gathered) == streamed_events(unstreamed)


def test_the_text_names_what_was_received(caller: Caller) -> None:
    messages = [user("one"), assistant({"type": "text", "text": "Yes."}), user([{"type": "text", "text": "two"}])]
    assert caller.answer_to(messages=messages)["content"][0]["text"] == "You said: two. I have seen 3 messages."


def test_results_are_named_in_order_and_images_counted(caller: Caller) -> None:
    shown = [{"type": "text", "text": "cloudy"}, {"type": "image", "source": PIXEL}]
    messages = [user("hello"), assistant(call("a"), call("b")), user([result("a"), result("b", shown)])]
    text = caller.answer_to(messages=messages, tools=[WEATHER])["content"][0]["text"]
    assert text == "The tools said: sunny, cloudy. I have seen 3 messages. I see 1 images."


def test_its_own_thoughts_and_calls_are_taken_back(caller: Caller) -> None:
    keys: JSON = {"thinking": THINKING, "tools": [WEATHER]}
    content = caller.answer_to("weather", **keys)["content"]
    messages = [user("weather"), assistant(*content), user([result(content[-1]["id"])])]
    assert "sunny" in caller.answer_to(messages=messages, **keys)["content"][-1]["text"]


# --- what it refuses --------------------------------------------------------------------------------------------

STRANGE = {"type": "thinking", "thinking": "Hm.", "signature": "x"}
REFUSED: dict[str, tuple[JSON, str]] = {
    "no model": ({"model": None}, "model: Field required"),
    "a role": ({"messages": [{"role": "system", "content": "x"}, user("x")]}, "Unexpected role"),
    "an assistant first": ({"messages": [assistant({"type": "text", "text": "x"})]}, "first message must use"),
    "two in a row": ({"messages": [user("x"), user("y")]}, "roles must alternate"),
    "no messages": ({"messages": []}, "at least one message"),
    "empty content": ({"messages": [user("")]}, "non-empty content"),
    "empty text": ({"messages": [user([{"type": "text", "text": ""}])]}, "must be non-empty"),
    "blank text": ({"messages": [user([{"type": "text", "text": " "}])]}, "non-whitespace"),
    "an empty system": ({"system": ""}, "must be non-empty"),
    "trailing blanks": ({"messages": [user("x"), assistant({"type": "text", "text": "y "})]}, "trailing whitespace"),
    "no tokens": ({"max_tokens": 0}, "greater than or equal to 1"),
    "an unknown key": ({"frequency_penalty": 0}, "frequency_penalty: Extra inputs"),
    "a key in a message": ({"messages": [{**user("x"), "name": "n"}]}, "messages.0.name: Extra inputs"),
    "a key in a block": ({"messages": [user([{"type": "text", "text": "x", "annotations": []}])]}, "Extra inputs"),
    "a kind of block": ({"messages": [user([{"type": "input_text", "text": "x"}])]}, "Input tag 'input_text'"),
    "a block of the other": ({"messages": [user([call()])]}, "not permitted in `user` messages"),
    "another metadata": ({"metadata": {"k": "v"}}, "metadata.k: Extra inputs"),
    "too hot": ({"temperature": 1.5}, "temperature: range: 0..1"),
    "two samplings": ({"temperature": 1, "top_p": 0.9}, "cannot both be specified"),
    "a blank stop": ({"stop_sequences": ["\n"]}, "non-whitespace"),
    "another tier": ({"service_tier": "default"}, "service_tier"),
    "a small budget": ({"thinking": {"type": "enabled", "budget_tokens": 100}}, "greater than or equal to 1024"),
    "a budget over all": ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, "must be greater than"),
    "a forced thinker": ({"thinking": THINKING, "tools": [WEATHER], "tool_choice": {"type": "any"}}, "forces tool use"),
    "a cool thinker": ({"thinking": THINKING, "temperature": 0}, "only be set to 1"),
    "an open schema": ({"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}, "explicitly set"),
    "an open strict tool": ({"tools": [{**WEATHER, "strict": True}]}, "explicitly set"),
    "an effort": ({"output_config": {"effort": "none"}}, "output_config.effort"),
    "a tool's name": ({"tools": [{**WEATHER, "name": "a.b"}]}, "should match pattern"),
    "a tool twice": ({"tools": [WEATHER, WEATHER]}, "must be unique"),
    "a tool as OpenAI's": ({"tools": [{"name": "f", "parameters": {}}]}, "parameters: Extra inputs"),
    "no type of schema": ({"tools": [{"name": "f", "input_schema": {}}]}, "input_schema.type"),
    "a null description": ({"tools": [{**WEATHER, "description": None}]}, "valid string"),
    "a choice of nothing": ({"tool_choice": {"type": "auto"}}, "while providing `tools`"),
    "a choice of another": ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "f"}}, "not found"),
    "an unanswered call": ({"messages": [user("x"), assistant(call())]}, "without `tool_result` blocks"),
    "an answer too late": (
        {"messages": [user("x"), assistant(call()), user([{"type": "text", "text": "y"}, result()])]},
        "without `tool_result` blocks",
    ),
    "an answer to no call": ({"messages": [user([result()])]}, "unexpected `tool_use_id`"),
    "two answers": ({"messages": [user("x"), assistant(call()), user([result(), result()])]}, "single result"),
    "a call twice": (
        {"messages": [user("x"), assistant(call()), user([result()]), assistant(call()), user([result()])]},
        "ids must be unique",
    ),
    "a call's id": ({"messages": [user("x"), assistant(call("a.b")), user([result("a.b")])]}, "tool_use.id"),
    "a call's input": ({"messages": [user("x"), assistant(call(input="{}")), user([result()])]}, "valid dictionary"),
    "a foreign thought": ({"messages": [user("x"), assistant(STRANGE), user("y")]}, "Invalid `signature`"),
    "a thought left out": (
        {"messages": [user("x"), assistant(call()), user([result()])], "thinking": THINKING},
        "Expected `thinking`",
    ),
    "a kind of image": (
        {"messages": [user([{"type": "image", "source": {**PIXEL, "media_type": "image/svg+xml"}}])]},
        "media_type",
    ),
    "broken base64": ({"messages": [user([{"type": "image", "source": {**PIXEL, "data": "?"}}])]}, "invalid base64"),
    "an image by data URL": (
        {"messages": [user([{"type": "image", "source": {"type": "url", "url": "data:image/gif;base64,R0"}}])]},
        "Only HTTP(S)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_that_anthropic_refuses_is_refused(caller: Caller, case: str) -> None:
    body, sentence = REFUSED[case]
    assert sentence in caller.refused(**body)


@pytest.mark.parametrize(("header", "status"), [("x-api-key", 401), ("anthropic-version", 400)])
def test_both_headers_are_needed(caller: Caller, header: str, status: int) -> None:
    del caller.session.headers[header]
    assert f"{header}" in caller.refused(status)


def test_a_wrong_key_or_model_is_refused() -> None:
    with ScriptedUpstream(models=["a"], api_key="right") as upstream:
        caller = Caller(upstream)
        assert caller.refused(401) == "authentication_error: invalid x-api-key"
        caller.session.headers["x-api-key"] = "right"
        assert caller.refused(404) == "not_found_error: model: m"
        caller.session.close()


# --- scripts ----------------------------------------------------------------------------------------------------


def test_scripts_fail_in_anthropics_envelope(caller: Caller) -> None:
    caller.upstream.enqueue(refusal(529, "Overloaded"))
    assert caller.refused(529) == "overloaded_error: Overloaded"
    caller.upstream.enqueue(too_long())
    assert "prompt is too long" in caller.refused()


@pytest.mark.parametrize("script", [failing(after=5), failing_at_once()], ids=["amid", "at once"])
def test_a_stream_breaks_with_anthropics_error_event(sdk: anthropic.Anthropic, caller: Caller, script: Script) -> None:
    caller.upstream.enqueue(script)
    stream = sdk.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "hello"}], stream=True)
    with pytest.raises(anthropic.APIStatusError, match="The model broke"):
        list(stream)


def test_a_stream_without_an_end_lacks_its_last_two_events(caller: Caller) -> None:
    caller.upstream.enqueue(unterminated())
    assert caller.events()[-1]["type"] == "content_block_stop"


def test_bytes_may_come_one_by_one_or_break_off(caller: Caller) -> None:
    caller.upstream.enqueue(rewritten(lambda event: event), byte_by_byte())
    assert caller.events()[-1]["type"] == "message_stop"
    caller.upstream.enqueue(dropped(after=4))
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        caller.events()
