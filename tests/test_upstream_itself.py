"""The scripted upstream keeps OpenAI's contract by itself and commits its faults faithfully."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import orjson
import pydantic
import pytest
import requests

from tests.conftest import MakeUpstream
from tests.ports import closed_port
from tests.response_contract import check_error, check_response, check_stream, check_window
from tests.sse_reader import follow, read
from tests.upstream import (
    DIALECTS,
    FIN,
    HOLD,
    RESET,
    STRICT,
    Script,
    ScriptedUpstream,
    black_hole,
    bomb,
    byte_by_byte,
    byte_order_mark,
    closing,
    commented,
    continued,
    dripping,
    dripping_head,
    dropped,
    endless_line,
    failing,
    failing_at_once,
    framed,
    garbage,
    going_stale,
    html,
    in_one_write,
    invalid_utf8,
    json_instead,
    line_ends,
    rate_limited,
    raw,
    redirect,
    refusal,
    rewritten,
    self_signed,
    silent,
    slammed,
    sloppy,
    split_at,
    split_randomly,
    sse,
    stalled,
    stepped,
    stream_instead,
    too_long,
    unnamed,
    unterminated,
    wire,
    zipped,
)

JSON = dict[str, Any]
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}
CHAT_WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER["parameters"]}}
CUSTOM = {"type": "custom", "name": "run"}
SPACE = {"type": "namespace", "name": "sky", "description": "The sky.", "tools": [WEATHER]}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "array", "items": {"type": "integer"}}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


class Caller:
    """Requests to one upstream over one session."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream
        self.session = requests.Session()
        self.session.trust_env = False

    def post(self, path: str = "/responses", **body: Any) -> requests.Response:
        """A streamed answer is left unread."""
        keys: JSON = {"stream": body.get("stream", False), "timeout": 20, "allow_redirects": False}
        return self.session.post(self.upstream.base_url + path, json={"model": "m", **body}, **keys)

    def streamed(self, **body: Any) -> requests.Response:
        return self.post(**{"input": "hello", "stream": True, **body})

    def chat(self, text: str, **body: Any) -> requests.Response:
        return self.post("/chat/completions", **{"messages": [{"role": "user", "content": text}], **body})


@pytest.fixture
def caller(upstream: ScriptedUpstream) -> Iterator[Caller]:
    caller = Caller(upstream)
    with caller.session:
        yield caller


@pytest.fixture
def sdk(upstream: ScriptedUpstream) -> Iterator[openai.OpenAI]:
    transport = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(base_url=upstream.base_url, api_key="k", max_retries=0, http_client=transport) as client:
        yield client


# --- what it says by itself -------------------------------------------------------------------------------------

TURNS: dict[str, JSON] = {
    "text": {"input": "hello"},
    "items": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}]},
    "tool": {"input": "weather", "tools": [WEATHER]},
    "forced tool": {"input": "hello", "tools": [WEATHER], "tool_choice": {"type": "function", "name": "get_weather"}},
    "parallel tools": {"input": "both weathers", "tools": [WEATHER]},
    "text and tool": {"input": "explain the weather", "tools": [WEATHER]},
    "custom tool": {"input": "weather", "tools": [CUSTOM]},
    "tool in a namespace": {"input": "weather", "tools": [SPACE]},
    "reasoning": {"input": "hello", "include": ["reasoning.encrypted_content"], "reasoning": {"summary": "auto"}},
    "refusal": {"input": "refuse"},
    "search": {"input": "search", "tools": [{"type": "web_search"}]},
    "schema": {
        "input": "hello",
        "text": {"format": {"type": "json_schema", "name": "s", "schema": SCHEMA, "strict": True}},
    },
    "logprobs": {"input": "hello", "include": ["message.output_text.logprobs"]},
    "incomplete": {"input": "hello", "max_output_tokens": 16},
    "compaction": {"input": [{"role": "user", "content": "hello"}, {"type": "compaction_trigger"}]},
    "threshold": {"input": "hello " * 1000, "context_management": [{"type": "compaction", "compact_threshold": 1000}]},
}
STATUS = {"incomplete": "incomplete"}
OUTPUT = {
    "tool": ["function_call"],
    "forced tool": ["function_call"],
    "parallel tools": ["function_call", "function_call"],
    "text and tool": ["message", "function_call"],
    "custom tool": ["custom_tool_call"],
    "tool in a namespace": ["function_call"],
    "reasoning": ["reasoning", "message"],
    "search": ["web_search_call", "message"],
    "compaction": ["compaction"],
    "threshold": ["message", "compaction"],
}


@pytest.mark.parametrize("turn", TURNS)
def test_a_response_keeps_the_contract(caller: Caller, turn: str) -> None:
    body = check_response(caller.post(**TURNS[turn]).json(), status=STATUS.get(turn, "completed"))
    assert body["model"] == "m-2026-01-01"
    assert [item["type"] for item in body["output"]] == OUTPUT.get(turn, ["message"])


@pytest.mark.parametrize("turn", TURNS)
def test_a_stream_keeps_the_contract_and_ends_without_a_sentinel(caller: Caller, turn: str) -> None:
    events = check_stream(caller.streamed(**TURNS[turn]).content, sentinel=None, status=STATUS.get(turn, "completed"))
    assert [item["type"] for item in events[-1]["response"]["output"]] == OUTPUT.get(turn, ["message"])


def test_the_text_names_what_was_received(caller: Caller) -> None:
    body = caller.post(input=[{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]).json()
    assert body["output"][0]["content"][0]["text"] == "You said: two. I have seen 2 items."


def test_longer_input_costs_more(caller: Caller) -> None:
    short, long = (caller.post(input="x" * size).json()["usage"]["input_tokens"] for size in (10, 1000))
    assert short < long


def test_tool_outputs_are_named_in_order(caller: Caller) -> None:
    question = {"role": "user", "content": "both weathers"}
    calls = caller.post(input=[question], tools=[WEATHER]).json()["output"]
    outputs = [
        {"type": "function_call_output", "call_id": call["call_id"], "output": f"{degrees} degrees"}
        for call, degrees in zip(calls, (4, 7), strict=True)
    ]
    body = caller.post(input=[question, *calls, *outputs], tools=[WEATHER]).json()
    assert body["output"][0]["content"][0]["text"] == "The tools said: 4 degrees, 7 degrees. I have seen 5 items."


def test_the_sdk_parses_what_fits_its_schema(sdk: openai.OpenAI) -> None:
    class Trip(pydantic.BaseModel):
        city: str
        days: list[int]

    assert sdk.responses.parse(model="m", input="hello", text_format=Trip).output_parsed == Trip(city="Oslo", days=[7])


def test_the_sdk_streams(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(model="m", input="weather", tools=[WEATHER]) as stream:  # type: ignore[list-item]
        assert stream.get_final_response().output[0].type == "function_call"


def test_a_window_is_the_user_messages_and_one_item_that_it_reads_again(caller: Caller) -> None:
    answered = {"role": "assistant", "content": "Hi."}
    window = check_window(
        caller.post("/responses/compact", input=[{"role": "user", "content": "hello"}, answered]).json()
    )
    assert [item["type"] for item in window["output"]] == ["message", "compaction"]
    body = caller.post(input=[*window["output"], {"role": "user", "content": "and now"}]).json()
    assert "I remember: hello." in body["output"][0]["content"][0]["text"]


def test_another_family_cannot_read_its_opaque_items(make_upstream: MakeUpstream) -> None:
    mine, kin, foreign = (Caller(make_upstream(family=family)) for family in ("a", "a", "b"))
    output = mine.post(**TURNS["reasoning"]).json()["output"]
    again = [{"role": "user", "content": "hello"}, *output, {"role": "user", "content": "more"}]
    assert kin.post(input=again).status_code == 200
    check_error(foreign.post(input=again), 400, "invalid_encrypted_content")


def test_models_are_listed(make_upstream: MakeUpstream) -> None:
    caller = Caller(make_upstream(models=["a", "b"]))
    listed = caller.session.get(caller.upstream.base_url + "/models", timeout=20).json()
    assert [model["id"] for model in listed["data"]] == ["a", "b"]


# --- what it refuses --------------------------------------------------------------------------------------------

CALL = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "call_1", "output": "4"}
REFUSED: dict[str, tuple[JSON, str | None, str]] = {
    "too few tokens": ({"input": "x", "max_output_tokens": 15}, "integer_below_min_value", "max_output_tokens"),
    "an unanswered call": ({"input": [CALL]}, None, "input"),
    "an answer to no call": ({"input": [RESULT]}, None, "input"),
    "a long call_id": ({"input": [{**CALL, "call_id": "c" * 65}]}, "string_above_max_length", "input[0].call_id"),
    "an id of another kind": ({"input": [{**CALL, "id": "msg_1"}]}, "invalid_value", "input[0].id"),
    "no input": ({}, "missing_required_parameter", "input"),
    "a previous response": (
        {"input": "x", "previous_response_id": "resp_1"},
        "previous_response_not_found",
        "previous_response_id",
    ),
    "a conversation": ({"input": "x", "conversation": "conv_1"}, "unknown_parameter", "conversation"),
    "background": ({"input": "x", "background": True}, "unknown_parameter", "background"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_that_openai_refuses_is_refused(caller: Caller, case: str) -> None:
    body, code, param = REFUSED[case]
    check_error(caller.post(**body), 400, code, param)
    check_error(caller.post(**body, stream=True), 400, code, param)


def test_an_unresolved_reference_is_not_found(caller: Caller) -> None:
    for reference in ({"type": "item_reference", "id": "msg_1"}, {"id": "fc_1"}):
        check_error(caller.post(input=[reference]), 404, None, "input")


def test_another_key_or_model_is_refused(make_upstream: MakeUpstream) -> None:
    caller = Caller(make_upstream(models=["a"], api_key="right"))
    check_error(caller.post(input="x"), 401, None)
    caller.session.headers["Authorization"] = "Bearer wrong"
    check_error(caller.post(input="x"), 401, "invalid_api_key")
    caller.session.headers["Authorization"] = "Bearer right"
    check_error(caller.post(input="x"), 400, "model_not_found", "model")
    check_error(caller.chat("x"), 404, "model_not_found")
    check_response(caller.post(input="x", model="a").json())


# --- chat completions -------------------------------------------------------------------------------------------


def chunks_of(answer: requests.Response) -> list[JSON]:
    events, faults = read(answer.content)
    assert not faults
    assert events[-1].data == "[DONE]"
    return [orjson.loads(event.data) for event in events[:-1]]


@pytest.mark.parametrize("text", ["hello", "think", "refuse", "both weathers", "explain the weather"])
def test_a_chat_stream_adds_up_to_its_json(caller: Caller, text: str) -> None:
    choice = caller.chat(text, tools=[CHAT_WEATHER]).json()["choices"][0]
    chunks = chunks_of(caller.chat(text, tools=[CHAT_WEATHER], stream=True))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    for key in ("content", "refusal", "reasoning_content"):
        assert "".join(delta.get(key) or "" for delta in deltas) == (choice["message"].get(key) or "")
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    for index, call in enumerate(choice["message"].get("tool_calls", ())):
        arguments = (part["function"]["arguments"] for part in calls if part["index"] == index)
        assert "".join(arguments) == call["function"]["arguments"]
    assert chunks[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]


def test_chat_usage_comes_in_a_chunk_of_its_own_on_request(caller: Caller) -> None:
    assert all("usage" not in chunk for chunk in chunks_of(caller.chat("hello", stream=True)))
    last = chunks_of(caller.chat("hello", stream=True, stream_options={"include_usage": True}))[-1]
    assert last["choices"] == []
    assert last["usage"] == caller.chat("hello").json()["usage"]


def test_chat_is_cut_short_and_fits_a_schema(caller: Caller) -> None:
    assert caller.chat("hello", max_completion_tokens=16).json()["choices"][0]["finish_reason"] == "length"
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
    assert (
        caller.chat("x", response_format=form).json()["choices"][0]["message"]["content"]
        == '{"city":"Oslo","days":[7]}'
    )


def chat_request(*messages: JSON) -> JSON:
    return {"messages": [{"role": "user", "content": "x"}, *messages]}


def called(call_id: str = "call_1", arguments: Any = "{}", name: str = "f", **keys: Any) -> JSON:
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call], **keys}


def tool_result(call_id: str = "call_1", content: Any = "4") -> JSON:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


PICTURE = [{"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0"}}]
CHAT_REFUSED: dict[str, JSON] = {
    "no messages": {"messages": []},
    "no tools in the array": {"tools": []},
    "a choice without tools": {"tool_choice": "auto"},
    "parallel calls without tools": {"parallel_tool_calls": True},
    "a tool of another kind": {"tools": [{"type": "web_search"}]},
    "a tool's name": {"tools": [{"type": "function", "function": {"name": "a.b"}}]},
    "a long name of a tool": {"tools": [{"type": "function", "function": {"name": "f" * 65}}]},
    "a part of another format": chat_request({"role": "user", "content": [{"type": "input_text", "text": "x"}]}),
    "no parts": chat_request({"role": "user", "content": []}),
    "null content": chat_request({"role": "user", "content": None}),
    "an answer to no call": chat_request(tool_result()),
    "an answer too late": chat_request(called(), {"role": "user", "content": "y"}, tool_result()),
    "an unanswered call": chat_request(called()),
    "an image from a tool": chat_request(called(), tool_result(content=PICTURE)),
    "an empty array of calls": chat_request({"role": "assistant", "content": "y", "tool_calls": []}),
    "a long id": chat_request(called("c" * 65), tool_result("c" * 65)),
    "arguments as an object": chat_request(called(arguments={}), tool_result()),
    "arguments that are no JSON": chat_request(called(arguments="{"), tool_result()),
    "a role": chat_request({"role": "critic", "content": "y"}),
    "a developer": chat_request({"role": "developer", "content": "y"}),
    "a second system message": chat_request({"role": "system", "content": "y"}),
    "reasoning": chat_request(called(reasoning_content="Hm."), tool_result()),
    "no tokens": {"max_tokens": 0},
    "two limits": {"max_tokens": 9, "max_completion_tokens": 9},
    "usage of no stream": {"stream_options": {"include_usage": True}},
    "logprobs of nothing": {"top_logprobs": 2},
    "an unknown key": {"include": ["message.output_text.logprobs"]},
    "a nameless schema": {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
}


@pytest.mark.parametrize("case", CHAT_REFUSED)
def test_chat_that_a_strict_server_refuses_is_refused(make_upstream: MakeUpstream, case: str) -> None:
    check_error(Caller(make_upstream(dialect=STRICT)).chat("x", **CHAT_REFUSED[case]), 400)


def test_other_formats_ignore_unknown_keys(caller: Caller) -> None:
    assert (
        caller.chat("x", include=[], **chat_request(called(reasoning_content="Hm."), tool_result())).status_code == 200
    )


def test_chat_takes_its_own_calls_back(caller: Caller) -> None:
    message = caller.chat("both weathers", tools=[CHAT_WEATHER]).json()["choices"][0]["message"]
    results = [
        tool_result(call["id"], f"{degrees} degrees")
        for call, degrees in zip(message["tool_calls"], (4, 7), strict=True)
    ]
    system = {"role": "system", "content": "Be brief."}
    messages = [system, {"role": "user", "content": "both weathers"}, message, *results]
    again = caller.chat("", messages=messages, tools=[CHAT_WEATHER]).json()["choices"][0]["message"]
    assert again["content"] == "The tools said: 4 degrees, 7 degrees. I have seen 5 messages."


@pytest.mark.parametrize("name", DIALECTS)
def test_each_dialect_streams_what_it_says(make_upstream: MakeUpstream, name: str) -> None:
    caller = Caller(make_upstream(dialect=DIALECTS[name]))
    message = caller.chat("think of both weathers", tools=[CHAT_WEATHER]).json()["choices"][0]["message"]
    deltas = [
        chunk["choices"][0]["delta"]
        for chunk in chunks_of(caller.chat("think of both weathers", tools=[CHAT_WEATHER], stream=True))
    ]
    key = DIALECTS[name].reasoning
    assert "".join(delta.get(key, "") for delta in deltas) == message[key] == "I have thought about it."
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert (len(calls) == len(message["tool_calls"])) == DIALECTS[name].whole_calls


def test_dialects_differ_in_what_they_take(make_upstream: MakeUpstream) -> None:
    openai_like, deepseek = (Caller(make_upstream(dialect=DIALECTS[name])) for name in ("openai", "deepseek"))
    later = chat_request({"role": "developer", "content": "y"}, {"role": "system", "content": "z"})
    assert openai_like.chat("", **later).status_code == 200
    check_error(deepseek.chat("", **later), 400)
    assert deepseek.chat("", **chat_request(called(reasoning_content=""), tool_result())).status_code == 200
    check_error(deepseek.chat("", **chat_request(called(), tool_result())), 400)
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
    check_error(deepseek.chat("x", response_format=form), 400)


# --- scripts ----------------------------------------------------------------------------------------------------

HARMLESS: dict[str, Script] = {
    "split": split_at(1, 100, 101, 5000),
    "random splits": split_randomly(7),
    "byte by byte": byte_by_byte(),
    "one write": in_one_write(),
    "CRLF": line_ends(b"\r\n"),
    "CR": line_ends(b"\r"),
    "byte order mark": byte_order_mark(),
    "comments": commented(),
    "close-delimited": framed("close"),
    "content length": framed("length"),
    "closing": closing(),
    "gzip": zipped(),
}


@pytest.mark.parametrize("script", HARMLESS)
def test_other_spellings_have_the_same_meaning(caller: Caller, script: str) -> None:
    caller.upstream.enqueue(HARMLESS[script])
    check_stream(caller.streamed().content, sentinel=None)
    check_response(caller.post(input="and again").json())


def test_a_stale_connection_is_closed_unannounced(caller: Caller) -> None:
    caller.upstream.enqueue(going_stale())
    assert "Connection" not in caller.post(input="x").headers
    caller.upstream.wait_connections(0)
    caller.post(input="and again")
    assert [request.connection for request in caller.upstream.requests] == [1, 2]


def test_scripts_apply_one_after_the_other(caller: Caller) -> None:
    caller.upstream.enqueue(line_ends(b"\r"), split_randomly(1), framed("close"))
    answer = caller.streamed()
    assert answer.headers["Connection"] == "close"
    check_stream(answer.content, sentinel=None)


def test_a_standing_script_steps_back_for_an_enqueued_one(caller: Caller) -> None:
    caller.upstream.always(refusal(500, "Broken."))
    caller.upstream.enqueue(refusal(529, "Overloaded."), times=2)
    assert [caller.post(input="x").status_code for _ in range(4)] == [529, 529, 500, 500]
    caller.upstream.reset()
    assert caller.post(input="x").status_code == 200


BROKEN: dict[str, tuple[Script, ...]] = {
    "no terminal event": (unterminated(),),
    "more after the end": (continued(b'event: x\ndata: {"type":"x"}\n\n'),),
    "garbage": (garbage(after=3),),
    "invalid UTF-8": (invalid_utf8(),),
    "no names": (unnamed(),),
    "no numbers": (rewritten(lambda event: {k: v for k, v in event.items() if k != "sequence_number"}),),
    "an event left out": (rewritten(lambda event: None if event["sequence_number"] == 4 else event),),
    "sloppy": (sloppy(),),
    "error at once": (failing_at_once(),),
    "bytes": (sse(b"data: nonsense\n\n"),),
}


@pytest.mark.parametrize("script", BROKEN)
def test_a_broken_stream_arrives_whole_and_breaks_the_contract(caller: Caller, script: str) -> None:
    caller.upstream.enqueue(*BROKEN[script])
    content = caller.streamed().content
    with pytest.raises(AssertionError):
        check_stream(content, sentinel=None)


def test_a_chat_may_break_off_before_its_end_or_with_an_error(caller: Caller) -> None:
    caller.upstream.enqueue(unterminated())
    events, _ = read(caller.chat("x", stream=True, stream_options={"include_usage": True}).content)
    assert orjson.loads(events[-1].data)["choices"][0] == {
        "index": 0,
        "delta": {"content": " messages."},
        "logprobs": None,
        "finish_reason": None,
    }
    caller.upstream.enqueue(failing(after=2))
    events, _ = read(caller.chat("x", stream=True).content)
    assert orjson.loads(events[2].data)["error"]["message"] == "The model broke."


def test_a_context_too_long_is_refused_in_the_formats_words(caller: Caller) -> None:
    caller.upstream.enqueue(too_long(), times=2)
    check_error(caller.post(input="x"), 400, "context_length_exceeded", "input")
    check_error(caller.chat("x"), 400, "context_length_exceeded", "messages")


def test_a_failure_after_the_beginning_is_openais_pair(caller: Caller) -> None:
    caller.upstream.enqueue(failing(after=5))
    events = check_stream(caller.streamed().content, sentinel=None, status="failed")
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]


def test_the_sloppy_dialect_lacks_what_llama_cpp_lacks(caller: Caller) -> None:
    caller.upstream.always(sloppy())
    events = [orjson.loads(e.data) for e in read(caller.streamed(**TURNS["tool"]).content)[0]]
    assert not any(event.keys() & {"sequence_number", "output_index", "content_index"} for event in events)
    assert not any(event["type"].endswith("arguments.done") for event in events)
    assert events[0]["response"].keys() == {"id", "object", "status"}
    assert caller.post(input="x").json()["usage"].keys() == {"input_tokens", "output_tokens", "total_tokens"}


def test_raw_answers_are_sent_as_given(caller: Caller) -> None:
    scripts = [
        raw(418, b"tea", "text/plain"),
        rate_limited("7"),
        redirect("http://127.0.0.1:1/"),
        html(),
        json_instead(),
    ]
    for script in scripts:
        caller.upstream.enqueue(script)
    assert (caller.streamed().text, caller.streamed().headers["Retry-After"]) == ("tea", "7")
    assert caller.streamed().headers["Location"] == "http://127.0.0.1:1/"
    assert caller.streamed().text.startswith("<!doctype html>")
    check_response(caller.streamed().json())
    caller.upstream.enqueue(stream_instead())
    check_stream(caller.post(input="x").content, sentinel=None)
    caller.upstream.enqueue(bomb(megabytes=1))
    assert len(caller.post(input="x").content) > 1 << 20


def test_a_stream_can_break_off(caller: Caller) -> None:
    for how in (FIN, RESET):
        caller.upstream.enqueue(dropped(after=4, how=how))
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            _ = caller.streamed().content


def test_an_exchange_can_end_without_an_answer(caller: Caller) -> None:
    for script in (slammed(), slammed(RESET), wire(b"HTTP/1.1 2"), wire(b"garbage\r\n\r\n")):
        caller.upstream.enqueue(script)
        with pytest.raises(requests.ConnectionError):
            caller.post(input="x")


# --- waiting ----------------------------------------------------------------------------------------------------


def test_a_stalled_stream_goes_on_when_released(caller: Caller) -> None:
    caller.upstream.enqueue(stalled(after=3))
    events = follow(caller.streamed().iter_content(chunk_size=None))
    assert [next(events).name for _ in range(3)][-1] == "response.output_item.added"
    caller.upstream.release()
    assert [event.name for event in events][-1] == "response.completed"


def test_a_stepped_stream_sends_one_event_a_release(caller: Caller) -> None:
    caller.upstream.enqueue(stepped())
    caller.upstream.release()
    events = follow(caller.streamed().iter_content(chunk_size=None))
    for name in ("response.created", "response.in_progress", "response.output_item.added"):
        assert next(events).name == name
        caller.upstream.release()


@pytest.mark.parametrize(
    "script", [stalled(after=2), dripping(after=2), endless_line(after=2)], ids=["stalled", "dripping", "endless"]
)
def test_a_hang_up_is_seen_while_the_upstream_is_silent_or_busy(caller: Caller, script: Script) -> None:
    caller.upstream.enqueue(script)
    answer = caller.streamed()
    assert next(follow(answer.iter_content(chunk_size=None))).name == "response.created"
    answer.close()
    assert caller.upstream.wait_hangup().number == 1
    caller.upstream.wait_connections(0)


@pytest.mark.parametrize("script", [silent(), dripping_head(), wire(HOLD)], ids=["silent", "dripping", "held"])
def test_a_hang_up_is_seen_before_the_head_is_sent(upstream: ScriptedUpstream, script: Script) -> None:
    upstream.enqueue(script)
    connection = http.client.HTTPConnection("127.0.0.1", upstream.port)
    connection.request("POST", "/v1/responses", b'{"model":"m","input":"x"}')
    assert upstream.wait_for_request().body["input"] == "x"
    connection.close()
    assert upstream.wait_hangup().body["input"] == "x"


def test_an_idle_connection_that_closes_is_no_hang_up(caller: Caller) -> None:
    caller.post(input="x")
    caller.session.close()
    caller.upstream.wait_connections(0)
    assert caller.upstream.hangups == []


def test_connections_are_reused_and_requests_recorded(caller: Caller) -> None:
    caller.post(input="one")
    caller.post(input="two")
    first, second = caller.upstream.requests
    assert (first.connection, second.connection, second.number) == (1, 1, 2)
    assert second.headers["content-type"] == "application/json"
    assert [body["input"] for body in caller.upstream.bodies] == ["one", "two"]


def test_a_chunked_request_is_read(upstream: ScriptedUpstream) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", upstream.port)
    connection.request("POST", "/v1/responses", iter([b'{"model":"m",', b'"input":"x"}']), encode_chunked=True)
    assert connection.getresponse().status == 200
    assert upstream.bodies == [{"model": "m", "input": "x"}]
    connection.close()


def test_closing_ends_what_is_held() -> None:
    with ScriptedUpstream() as upstream, socket.create_connection(("127.0.0.1", upstream.port)) as held:
        upstream.enqueue(silent())
        held.sendall(b"POST /v1/responses HTTP/1.1\r\nContent-Length: 25\r\n\r\n" + b'{"model":"m","input":"x"}')
        upstream.wait_for_request()
        upstream.close()
        assert held.recv(1) == b""
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(f"upstream-{upstream.port}")]


def test_waiting_in_vain_says_what_did_happen(caller: Caller) -> None:
    caller.post(input="x")
    with pytest.raises(AssertionError, match="for 2 requests: 1 requests, 0 hang-ups"):
        caller.upstream.wait_for_request(2, timeout=0.01)


def test_tls_needs_the_certificate_of_the_upstream(make_upstream: MakeUpstream, tmp_path: Path) -> None:
    context, certificate = self_signed(tmp_path)
    caller = Caller(make_upstream(tls=context))
    with pytest.raises(requests.exceptions.SSLError):
        caller.post(input="x")
    caller.session.verify = str(certificate)
    check_stream(caller.streamed().content, sentinel=None)


def test_a_closed_port_and_a_black_hole_do_not_answer() -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", closed_port()))
    with black_hole() as base_url, pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", int(base_url.rpartition(":")[2].removesuffix("/v1"))), timeout=0.2)
