"""Turns over a WebSocket: the same events as over SSE, one end each, and a memory that lasts as long as the socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway import Gateway
from tests.relay.conftest import SOME_TEXT
from tests.shared_upstream import module_upstream, upstream
from tests.upstream import (
    Script,
    ScriptedUpstream,
    commented,
    dropped,
    failing,
    failing_at_once,
    html,
    json_instead,
    line_ends,
    rate_limited,
    raw,
    refusal,
    respelled,
    rewritten,
    slammed,
    stalled,
    unnamed,
)
from tests.websocket_client import CREATE, JSON, Socket, check_error_frame, check_frames

__all__ = ["module_upstream", "upstream"]

UNKNOWN = "resp_" + "0" * 48
TRIGGER = {"type": "compaction_trigger"}
TOOL = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def _gateway(tmp_path_factory: pytest.TempPathFactory, module_upstream: ScriptedUpstream) -> Iterator[Gateway]:
    table = {"defaults": {"cooldown": {"after": 1000}}}
    rows = [module_upstream.channel(), module_upstream.channel("limited", models=["limited"])]
    with Gateway(tmp_path_factory.mktemp("sockets"), rows, table, workers=2) as gateway:
        yield gateway


@pytest.fixture
def api(_gateway: Gateway, upstream: ScriptedUpstream) -> Gateway:
    return _gateway


@pytest.fixture
def sock(api: Gateway) -> Iterator[Socket]:
    with Socket(api) as sock:
        yield sock


def sent_texts(upstream: ScriptedUpstream) -> list[str]:
    """The user messages in the context of the newest request."""
    items = upstream.bodies[-1]["input"]
    contents = [item["content"] for item in items if item.get("role") == "user"]
    return [content if isinstance(content, str) else content[0]["text"] for content in contents]


# --- events -----------------------------------------------------------------------------------------------------


def test_the_frames_of_a_turn_are_the_events_of_a_stream(sock: Socket, api: Gateway) -> None:
    frames = sock.turn()

    check_frames(frames, status="completed", previous_response_id=None)
    streamed = [line for line in api.stream({**CREATE, "stream": True}).content.split(b"\n") if b"event: " in line]
    assert [frame["type"].encode() for frame in frames] == [line.removeprefix(b"event: ") for line in streamed]
    assert not any("stream_id" in frame for frame in frames)


def test_an_answer_is_stored_and_can_be_continued_anywhere(sock: Socket, api: Gateway) -> None:
    first = sock.answer()
    assert api.get(f"/responses/{first['id']}").json() == first
    elsewhere = api.post("/responses", {"model": "m", "input": "And?", "previous_response_id": first["id"]}).json()
    assert sock.answer(previous_response_id=elsewhere["id"])["previous_response_id"] == elsewhere["id"]


@pytest.mark.parametrize(
    "extra",
    [{"stream": False}, {"stream": True}, {"stream": "?"}, {"stream_options": 7}, {"background": True}],
    ids=str,
)
def test_parameters_without_a_meaning_on_a_socket_are_ignored(sock: Socket, extra: JSON) -> None:
    assert sock.answer(**extra)["background"] is False


def test_the_upstream_gets_nothing_of_the_envelope(sock: Socket, upstream: ScriptedUpstream) -> None:
    sock.turn(stream_id="a", generate=True, background=False)
    assert upstream.bodies[-1].keys().isdisjoint({"type", "stream_id", "generate", "background"})


@pytest.mark.parametrize("script", [line_ends(b"\r\n"), line_ends(b"\r"), json_instead(), unnamed(), commented()])
def test_however_an_upstream_spells_its_events_each_is_a_frame(
    sock: Socket, upstream: ScriptedUpstream, script: Script
) -> None:
    upstream.enqueue(script)
    assert sock.answer()["output"]


@pytest.mark.parametrize("channel_pair", [None, "a", '"\\é'])
def test_an_event_is_spelt_as_the_upstream_spelt_it(
    sock: Socket, upstream: ScriptedUpstream, channel_pair: str | None
) -> None:
    upstream.enqueue(respelled(lambda raw: raw.replace(b'"delta":', b'"n": 123456789012345678901234, "delta":')))
    frames = sock.turn(stream_id=channel_pair)
    assert frames[-1]["type"] == "response.completed"
    deltas = [frame for frame in frames if frame["type"] == "response.output_text.delta"]
    assert [(frame["n"], frame.get("stream_id")) for frame in deltas] == [
        (123456789012345678901234, channel_pair)
    ] * len(deltas)


# --- stream ids -------------------------------------------------------------------------------------------------


def test_every_frame_of_a_turn_names_its_stream(sock: Socket, upstream: ScriptedUpstream) -> None:
    assert {frame["stream_id"] for frame in sock.turn(stream_id="left")} == {"left"}
    upstream.enqueue(refusal(400))
    assert sock.turn(stream_id="right")[-1]["stream_id"] == "right"
    sock.send({"type": "response.steer", "stream_id": "middle"})
    assert sock.receive()["stream_id"] == "middle"


def test_turns_are_answered_in_the_order_of_their_frames(sock: Socket) -> None:
    pairs = ["a", "b", "a", "c", "b"]
    for number, keys in enumerate(pairs):
        sock.ask(stream_id=keys, input=f"This is {number}")
    turns = [sock.rest() for _ in pairs]
    assert [turn[-1]["stream_id"] for turn in turns] == pairs
    assert [f"This is {number}" in str(turn[-1]["response"]["output"]) for number, turn in enumerate(turns)]


# --- failures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (refusal(400), 400, "invalid_request_error"),
        (refusal(400, code="their_code"), 400, "their_code"),
        (raw(500), 502, "upstream_error"),
        (html(), 502, "upstream_protocol_error"),
        (failing_at_once(), 502, "server_error"),
        (slammed(), 502, "upstream_protocol_error"),
    ],
)
def test_a_refusal_before_the_response_began_is_one_error_frame(
    sock: Socket, upstream: ScriptedUpstream, script: Script, status: int, code: str
) -> None:
    upstream.always(script)
    frames = sock.turn()
    assert [frame["type"] for frame in frames] == ["error"]
    assert frames[0]["status"] == status
    assert check_error_frame(frames[0])["code"] == code
    upstream.reset()
    sock.answer()


@pytest.mark.parametrize("script", [failing(SOME_TEXT), dropped(SOME_TEXT)])
def test_a_failure_after_that_is_one_response_failed(
    sock: Socket, api: Gateway, upstream: ScriptedUpstream, script: Script
) -> None:
    upstream.enqueue(script)
    frames = sock.turn()
    assert frames[-1]["type"] == "response.failed", frames[-1]
    check_frames(frames, status="failed")
    failed = frames[-1]["response"]
    assert failed["error"]["code"]
    assert "error" not in [frame["type"] for frame in frames]
    assert api.get(f"/responses/{failed['id']}").json()["status"] == "failed"
    sock.answer()


def test_an_incomplete_response_ends_its_turn(sock: Socket, upstream: ScriptedUpstream) -> None:
    def cut(event: JSON) -> JSON:
        if event["type"] != "response.completed":
            return event
        details = {"reason": "max_output_tokens"}
        response = {**event["response"], "status": "incomplete", "incomplete_details": details}
        return {**event, "type": "response.incomplete", "response": response}

    upstream.enqueue(rewritten(cut))
    frames = check_frames(sock.turn(store=False), status="incomplete")
    assert sock.answer(store=False, previous_response_id=frames[-1]["response"]["id"])


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{", "invalid_json"),
        ("", "invalid_json"),
        ("[]", "invalid_frame"),
        ('"response.create"', "invalid_frame"),
        (b'{"type":"response.create"}', "invalid_frame"),
        ({}, "unsupported_frame"),
        ({"type": 7}, "unsupported_frame"),
        ({"type": "response.steer", "previous_response_id": UNKNOWN, "input": "Faster"}, "unsupported_frame"),
        ({"type": "response.compact"}, "unsupported_frame"),
        ({"type": "response.create"}, "missing_required_parameter"),
        ({**CREATE, "input": []}, "missing_required_parameter"),
        ({**CREATE, "temperature": 9}, "decimal_above_max_value"),
        ({**CREATE, "generate": "no"}, "invalid_type"),
        ({**CREATE, "stream_id": 7}, "invalid_type"),
        ({**CREATE, "model": "nobody"}, "model_not_found"),
        ({**CREATE, "model": "nobody", "generate": False}, "model_not_found"),
        ({**CREATE, "previous_response_id": UNKNOWN}, "previous_response_not_found"),
    ],
    ids=str,
)
def test_a_wrong_frame_ends_a_turn_and_not_the_socket(sock: Socket, frame: Any, code: str) -> None:
    sock.send(frame)
    assert check_error_frame(sock.receive())["code"] == code
    sock.answer()


def test_a_limited_upstream_says_when_to_come_back(sock: Socket, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(rate_limited("7"))
    frame = sock.turn(model="limited")[-1]
    assert (frame["status"], check_error_frame(frame)["code"]) == (429, "rate_limit_exceeded")
    assert frame["error"]["headers"] == {"retry-after": "7", "retry-after-ms": "7000"}


# --- memory -----------------------------------------------------------------------------------------------------


def test_an_unstored_response_can_be_continued_on_its_socket_alone(
    sock: Socket, api: Gateway, upstream: ScriptedUpstream
) -> None:
    parent = None
    for number in range(1, 5):
        parent = sock.answer(input=f"This is {number}", store=False, previous_response_id=parent)["id"]
        assert sent_texts(upstream) == [f"This is {number}" for number in range(1, number + 1)]
    assert api.get(f"/responses/{parent}").status_code == 404
    with Socket(api) as other:
        assert other.refused(store=False, previous_response_id=parent)["code"] == "previous_response_not_found"


def test_a_response_that_is_not_stored_has_branches(sock: Socket, upstream: ScriptedUpstream) -> None:
    root = sock.answer(input="root", store=False)["id"]
    left = sock.answer(input="left", store=False, previous_response_id=root)["id"]
    sock.answer(input="right", store=False, previous_response_id=root)
    assert sent_texts(upstream) == ["root", "right"]
    sock.answer(input="leaf", store=False, previous_response_id=left)
    assert sent_texts(upstream) == ["root", "left", "leaf"]


def test_an_unstored_response_may_continue_a_stored_one(sock: Socket, upstream: ScriptedUpstream) -> None:
    stored = sock.answer(input="stored")["id"]
    first = sock.answer(input="first", store=False, previous_response_id=stored)["id"]
    sock.answer(input="second", store=False, previous_response_id=first)
    assert sent_texts(upstream) == ["stored", "first", "second"]


def test_a_stored_response_cannot_continue_an_unstored_one(sock: Socket) -> None:
    parent = sock.answer(store=False)["id"]
    error = sock.refused(previous_response_id=parent)
    assert (error["code"], error["param"]) == ("previous_response_not_found", "previous_response_id")
    assert "store" in error["message"]


def test_a_token_that_stores_nothing_goes_on_all_the_same(api: Gateway) -> None:
    with Socket(api, api.new_token("forgetful", "--no-store")) as sock:
        first = sock.answer()
        assert first["store"] is False
        sock.answer(previous_response_id=first["id"])


def test_a_failed_continuation_forgets_what_it_went_on_from(sock: Socket, upstream: ScriptedUpstream) -> None:
    for script in (refusal(400), raw(500), failing(SOME_TEXT)):
        parent = sock.answer(store=False)["id"]
        upstream.enqueue(script)
        assert sock.turn(store=False, previous_response_id=parent)[-1]["type"] in ("error", "response.failed")
        error = sock.refused(store=False, previous_response_id=parent)
        assert error["code"] == "previous_response_not_found"
        assert parent in error["message"]


def test_a_stored_response_survives_a_failed_continuation(sock: Socket, upstream: ScriptedUpstream) -> None:
    parent = sock.answer()["id"]
    upstream.enqueue(refusal(400))
    sock.refused(previous_response_id=parent)
    sock.answer(previous_response_id=parent)


def test_a_tool_is_called_and_answered_without_storage(sock: Socket, upstream: ScriptedUpstream) -> None:
    called = sock.answer(input="Please look", tools=[TOOL], tool_choice="required", store=False)
    call = next(item for item in called["output"] if item["type"] == "function_call")
    keys = {"tools": [TOOL], "store": False, "previous_response_id": called["id"]}
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "seen"}
    sock.answer(input=[output], **keys)
    assert [item["type"] for item in upstream.bodies[-1]["input"]][-2:] == ["function_call", "function_call_output"]


# --- warming up -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("nothing", [[], "", None])
def test_a_warm_up_sends_no_request_and_can_be_continued(
    sock: Socket, upstream: ScriptedUpstream, store: bool, nothing: Any
) -> None:
    warm = sock.answer(input="Be ready", generate=False, store=store)
    assert (warm["output"], warm["usage"]["total_tokens"], upstream.requests) == ([], 0, [])
    sock.answer(input=nothing, store=store, previous_response_id=warm["id"])
    assert sent_texts(upstream) == ["Be ready"]


def test_a_warm_up_may_say_nothing_at_all(sock: Socket, upstream: ScriptedUpstream) -> None:
    warm = sock.answer(input=[], generate=False, store=False)
    sock.answer(input="Hello", store=False, previous_response_id=warm["id"])
    assert sent_texts(upstream) == ["Hello"]


# --- compaction -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", [True, False])
def test_a_trigger_compacts_and_the_conversation_goes_on(sock: Socket, upstream: ScriptedUpstream, store: bool) -> None:
    first = sock.answer(input="Remember the milk", store=store)["id"]
    compacted = sock.answer(input=[TRIGGER], store=store, previous_response_id=first)
    assert [item["type"] for item in compacted["output"]] == ["compaction"]
    following = sock.answer(input="And now?", store=store, previous_response_id=compacted["id"])
    assert sent_texts(upstream)[-1] == "And now?"
    sock.answer(input="Then?", store=store, previous_response_id=following["id"])
    assert sent_texts(upstream)[-2:] == ["And now?", "Then?"]


def test_a_window_from_http_is_the_base_of_a_turn(sock: Socket, api: Gateway, upstream: ScriptedUpstream) -> None:
    history = [{"role": "user", "content": "Remember the milk"}, {"role": "assistant", "content": "I will."}]
    window = api.post("/responses/compact", {"model": "m", "input": history}).json()
    sock.answer(input=[*window["output"], {"role": "user", "content": "And now?"}], store=False)
    assert sent_texts(upstream)[-1] == "And now?"


# --- Codex ------------------------------------------------------------------------------------------------------


def test_codex_warms_up_goes_on_and_calls_its_tools(sock: Socket, upstream: ScriptedUpstream) -> None:
    shell = {**TOOL, "name": "shell", "strict": False, "description": "Runs a command"}
    request = {
        "model": "m",
        "instructions": "You are a coding agent.",
        "tools": [shell, {"type": "web_search"}],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "01a2039e-0359-7a10-ba4f-6c7077885487",
        "client_metadata": {"ws_request_header_traceparent": "00-0-0-00"},
    }
    words = [{"type": "input_text", "text": "Please use shell"}]
    first = [{"type": "message", "role": "user", "content": words}]
    warm = sock.answer(**request, input=first, generate=False)
    called = sock.answer(**{**request, "tool_choice": "required"}, input=[], previous_response_id=warm["id"])
    call = next(item for item in called["output"] if item["type"] == "function_call")
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "done"}
    answered = sock.answer(**request, input=[output], previous_response_id=called["id"])
    assert [item["type"] for item in answered["output"]][-1] == "message"
    compacted = sock.answer(**request, input=[TRIGGER], previous_response_id=answered["id"])
    assert [item["type"] for item in compacted["output"]] == ["compaction"]
    sock.answer(**request, input=[*first, *compacted["output"], *first])


def test_a_turn_that_stalls_is_released_by_its_upstream(sock: Socket, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(stalled(SOME_TEXT))
    sock.ask(store=False)
    sock.hear("response.output_text.delta")
    upstream.release()
    assert sock.rest()[-1]["type"] == "response.completed"
