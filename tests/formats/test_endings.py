"""The reasons with which upstreams end an answer, as JSON and as a stream."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from app import formats
from app.contract.turn import Answer, Turn
from app.errors import UpstreamFailed
from app.formats import replay
from app.formats.chat_completions import passthrough
from tests.formats.conversations import events, framed, message_item, read, turn
from tests.response_contract import check_stream

LIMIT = 16
TURN = turn(message_item("user", "?"), stream=True, max_output_tokens=LIMIT)
#: Output tokens of an answer. Only a count at the limit matters, and only without a reason.
COUNTS = [LIMIT - 1, LIMIT, LIMIT + 1]
COMPLETED, CUT, FILTERED = ("completed", None), ("incomplete", "max_output_tokens"), ("incomplete", "content_filter")

#: The reasons of all dialects. Those of one format may reach another one through a proxy, so each is tried on both.
REASONS: Mapping[tuple[str, str | None], Sequence[str]] = {
    COMPLETED: [
        *["stop", "tool_calls", "tool_call", "function_call", "eos_token", "eos", "end", "completed", "STOP"],
        *["end_turn", "stop_sequence", "tool_use", "pause_turn", "COMPLETE", "TOOL_CALL", "FINISH_REASON_STOP"],
    ],
    CUT: [
        *["length", "max_tokens", "model_length", "MAX_TOKENS", "max_output_tokens", "model_context_window_exceeded"],
        *["max_length", "token_limit", "ERROR_LIMIT", "FinishReason.MAX_TOKENS"],
    ],
    FILTERED: [
        *[
            "content_filter",
            "refusal",
            "sensitive",
            "SAFETY",
            "safety",
            "RECITATION",
            "BLOCKLIST",
            "SPII",
            "ERROR_TOXIC",
        ],
        *["PROHIBITED_CONTENT", "IMAGE_SAFETY", "LANGUAGE", "guardrail_intervened", "content-filtered"],
    ],
}
BROKEN_OFF = [
    *["abort", "error", "insufficient_system_resource", "network_error", "engine_overloaded", "OTHER", "cancelled"],
    *["malformed_function_call", "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS"],
    *["malformed_tool_use", "rate_limit_exceeded", "timeout", "USER_CANCEL", "a new one", "unknown", "?"],
]
#: Words that a server writes while it has no reason yet.
SILENT = [None, "", "null", "FINISH_REASON_UNSPECIFIED"]
ENDINGS = [(reason, end) for end, reasons in REASONS.items() for reason in reasons]


def chat(reason: str | None, used: int) -> tuple[bytes, bytes]:
    """The same answer as JSON and as a stream."""
    about = {"id": "chatcmpl-1", "model": "up"}
    usage = {"prompt_tokens": 1, "completion_tokens": used, "total_tokens": 1 + used}
    whole = {"index": 0, "message": {"role": "assistant", "content": "Half"}, "finish_reason": reason}
    delta = {"index": 0, "delta": {"role": "assistant", "content": "Half"}, "finish_reason": None}
    last = {"index": 0, "delta": {}, "finish_reason": reason}
    chunks = [{**about, "choices": [delta]}, {**about, "choices": [last]}, {**about, "choices": [], "usage": usage}]
    stream = b"".join(b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks) + b"data: [DONE]\n\n"
    return orjson.dumps({**about, "choices": [whole], "usage": usage}), stream


def messages(reason: str | None, used: int) -> tuple[bytes, bytes]:
    text = {"type": "text", "text": "Half"}
    about = {"id": "msg_1", "model": "claude-x", "role": "assistant", "type": "message"}
    blocks = [
        {"type": "message_start", "message": {**about, "content": [], "usage": {"input_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Half"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": used}},
        {"type": "message_stop"},
    ]
    stream = b"".join(b"event: %b\ndata: %b\n\n" % (str(one["type"]).encode(), orjson.dumps(one)) for one in blocks)
    usage = {"input_tokens": 1, "output_tokens": used}
    return orjson.dumps({**about, "content": [text], "stop_reason": reason, "usage": usage}), stream


STREAMS = {"chat_completions": chat, "messages": messages}


def both(name: str, reason: str | None, used: int, request_turn: Turn = TURN) -> list[Answer]:
    """The status of the JSON answer, and of the stream."""
    whole, stream = STREAMS[name](reason, used)
    out, decoder = read(name, [stream], request_turn)
    assert decoder.answer is not None
    check_stream(framed(out, decoder, request_turn))
    return [formats.load(name).decode(whole, request_turn), decoder.answer]


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize(("reason", "end"), ENDINGS)
@pytest.mark.parametrize("used", COUNTS)
def test_a_reason_that_was_given_is_the_end(name: str, reason: str, end: tuple[str, Any], used: int) -> None:
    for answer in both(name, reason, used):
        assert (answer.status, (answer.incomplete_details or {}).get("reason")) == end
        assert answer.output[-1]["status"] == end[0]


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("silent", SILENT)
@pytest.mark.parametrize("used", COUNTS)
def test_without_a_reason_a_full_count_was_cut_off(name: str, silent: str | None, used: int) -> None:
    for answer in both(name, silent, used):
        assert answer.status == ("completed" if used < LIMIT else "incomplete")
        assert answer.incomplete_details == (None if used < LIMIT else {"reason": "max_output_tokens"})


@pytest.mark.parametrize("name", STREAMS)
def test_without_a_reason_and_a_limit_an_answer_is_whole(name: str) -> None:
    for answer in both(name, None, 1_000_000, turn(message_item("user", "?"), stream=True)):
        assert answer.status == "completed"


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("reason", BROKEN_OFF)
def test_a_broken_answer_and_one_with_an_unknown_reason_have_failed(name: str, reason: str) -> None:
    whole, stream = STREAMS[name](reason, 3)
    with pytest.raises(UpstreamFailed, match=re.escape(reason)):
        formats.load(name).decode(whole, TURN)
    _, decoder = read(name, [stream], TURN)
    assert decoder.answer is not None
    assert decoder.answer.status == "failed"


@pytest.mark.parametrize(("reason", "end"), [*ENDINGS, *((reason, ("failed", None)) for reason in BROKEN_OFF)])
def test_a_passthrough_is_recorded_with_the_status_that_its_reason_means(reason: str, end: tuple[str, Any]) -> None:
    whole, stream = chat(reason, 3)
    decoder = passthrough.decoder({"stream": True})
    decoder.feed(stream)
    assert decoder.summary.status == passthrough.read_whole(whole).status == end[0]


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed"])
@pytest.mark.parametrize("used", COUNTS)
def test_the_status_of_a_response_is_the_end(status: str, used: int) -> None:
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": []}
    usage = {"input_tokens": 1, "output_tokens": used, "total_tokens": 1 + used}
    response = {"id": "r", "status": status, "output": [item], "usage": usage, "model": "up"}
    answer = formats.load("responses").decode(orjson.dumps(response), TURN)
    assert (answer.status, answer.incomplete_details) == (status, None)


@pytest.mark.parametrize("count", [2, 3])
def test_of_calls_that_were_cut_off_side_by_side_every_half_one_is_incomplete(count: int) -> None:
    """Servers stream parallel calls side by side: their JSON alone shows which of them are whole."""
    calls = [{"index": at, "id": f"call_{at}", "function": {"name": "f", "arguments": '{"a":'}} for at in range(count)]
    calls.append({"index": count, "id": "whole", "function": {"name": "f", "arguments": "{}"}})
    chunks: list[Any] = [{"delta": {"tool_calls": calls}}, {"delta": {}, "finish_reason": "length"}]
    body = b"".join(b"data: %b\n\n" % orjson.dumps({"choices": [choice]}) for choice in chunks)
    request_turn = turn(message_item("user", "?"), tools=[{"type": "function", "name": "f"}])
    out, decoder = read("chat_completions", [body], request_turn)
    assert decoder.answer is not None
    expected = ["incomplete"] * count + ["completed"]
    assert [item["status"] for item in decoder.answer.output] == expected
    assert [one["item"]["status"] for one in events(out) if one["type"] == "response.output_item.done"] == expected


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_whole_answer_as_a_stream_stands_behind_the_leading_items(before: int) -> None:
    request_turn = replace(TURN, leading_items=({"type": "compaction", "id": "cmp_1"},) * before)
    whole, _ = chat("stop", 3)
    decoder = replay(formats.load("chat_completions").decode(whole, request_turn), request_turn, 7)
    sent = events(decoder.feed(b""))
    assert {event["output_index"] for event in sent} == {before}
    assert [event["sequence_number"] for event in sent] == list(range(7, decoder.sequence))
