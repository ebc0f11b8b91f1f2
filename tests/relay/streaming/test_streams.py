"""What a client reads from a stream: the upstream's bytes under our id, in order, and one proper end."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway import Gateway, portions
from tests.relay.conftest import (
    JSON,
    ChannelPair,
    RequestTape,
    blocks,
    deltas,
    events_of,
    on_both_transports,
    read_until,
    response_id_in,
    text_of,
)
from tests.response_contract import LIFECYCLE, check_response, check_stream
from tests.sse_reader import follow
from tests.upstream import (
    Script,
    ScriptedUpstream,
    byte_by_byte,
    byte_order_mark,
    commented,
    continued,
    event_bytes,
    framed,
    in_one_write,
    json_instead,
    line_ends,
    respelled,
    retold,
    rewritten,
    sloppy,
    split_at,
    split_randomly,
    stalled,
    stream_instead,
    unnamed,
    zipped,
)

pytestmark = on_both_transports

WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
HARD_TEXT = "naïve – 𝄞 \u2028 \u2029 \u0085 \\u0041 \"data: \" event: [DONE] \r\n\r\n end"  # fmt: skip
REQUESTS: dict[str, JSON] = {
    "text": {},
    "hard text": {"input": HARD_TEXT},
    "call": {"input": "What is the weather?", "tools": [WEATHER]},
    "two calls": {"input": "the weather in both cities", "tools": [WEATHER, {**WEATHER, "name": "forecast"}]},
    "text and call": {"input": "explain, then the weather", "tools": [WEATHER]},
    "custom call": {"input": "weather", "tools": [{"type": "custom", "name": "shell"}]},
    "search": {"input": "search it", "tools": [{"type": "web_search"}]},
    "refusal": {"input": "please refuse"},
    "reasoning": {"reasoning": {"summary": "auto"}},
    "schema": {"text": {"format": {"type": "json_schema", "name": "s", "schema": WEATHER["parameters"]}}},
    "logprobs": {"include": ["message.output_text.logprobs"]},
    "cut short": {"max_output_tokens": 16},
}
SPELLINGS: dict[str, tuple[Script, ...]] = {
    "LF": (),
    "CRLF": (line_ends(b"\r\n"),),
    "CR": (line_ends(b"\r"),),
    "BOM": (byte_order_mark(),),
    "BOM and CRLF": (line_ends(b"\r\n"), byte_order_mark()),
    "unnamed": (unnamed(),),
    "comments": (commented(),),
    "long comments": (commented(b":" + b"-" * 9000 + b"\r\n\n"),),
    "no blank after colon": (respelled(lambda body: re.sub(rb"(?m)^(data|event): ", rb"\1:", body)),),
    "ids and retry": (respelled(lambda body: re.sub(rb"(?m)^event: ", b"id: 7\nretry: 10\nevent: ", body)),),
    "data before event": (respelled(lambda body: _data_first(body)),),
    "data on two lines": (respelled(lambda body: body.replace(b',"sequence_number"', b'\ndata: ,"sequence_number"')),),
}
SPLITS: dict[str, tuple[Script, ...]] = {
    "as it comes": (),
    "one write": (in_one_write(),),
    "byte by byte": (byte_by_byte(),),
    "at random 1": (split_randomly(1),),
    "at random 2": (split_randomly(2, 200),),
}


@pytest.fixture
def channel_pair(steady_pair: ChannelPair) -> ChannelPair:
    return steady_pair


def _data_first(body: bytes) -> bytes:
    lines = [block.split(b"\n") for block in body.split(b"\n\n") if block]
    return b"".join(b"\n".join(reversed(block)) + b"\n\n" for block in lines)


def check_relayed(raw: bytes, sent: bytes, **expected: Any) -> list[JSON]:
    """The client got the upstream's events: all of them, unchanged but for what is ours in the lifecycle events."""
    events, theirs = check_stream(raw, **expected), events_of(sent)
    assert [event["type"] for event in events] == [event["type"] for event in theirs]
    ours = [event for event in events if event["type"] not in LIFECYCLE]
    assert ours == [event for event in theirs if event["type"] not in LIFECYCLE]
    assert events[-1]["response"]["output"] == theirs[-1]["response"]["output"]
    return events


@pytest.mark.parametrize("ask", REQUESTS)
def test_an_exact_stream_arrives_in_order_and_byte_for_byte(channel_pair: ChannelPair, ask: str) -> None:
    tape = RequestTape()
    channel_pair.first.enqueue(tape)
    answer = channel_pair.stream(**REQUESTS[ask])
    check_relayed(answer.content, tape.bodies[0])
    theirs = [block for block in blocks(tape.bodies[0]) if b'"response":{' not in block]
    assert [block for block in blocks(answer.content) if b'"response":{' not in block][:-1] == theirs


@pytest.mark.parametrize("ask", REQUESTS)
def test_an_inexact_upstream_is_repaired_into_a_proper_stream(channel_pair: ChannelPair, ask: str) -> None:
    """What the client reads is what it would have read of an exact one, but for ids, usage and obfuscation."""
    expected = check_stream(channel_pair.stream(**REQUESTS[ask]).content)
    channel_pair.first.enqueue(sloppy())
    repaired = check_stream(channel_pair.stream(**REQUESTS[ask]).content)
    assert [comparable(event) for event in repaired] == [comparable(event) for event in expected]
    final = repaired[-1]["response"]
    assert channel_pair.stored(final["id"])["output"] == final["output"]


@pytest.mark.parametrize("ask", REQUESTS)
def test_an_inexact_answer_is_the_same_streamed_and_unstreamed(channel_pair: ChannelPair, ask: str) -> None:
    channel_pair.first.enqueue(sloppy(), times=2)
    streamed = check_stream(channel_pair.stream(**REQUESTS[ask]).content)[-1]["response"]
    whole = channel_pair.post(**REQUESTS[ask]).json()
    check_response(whole, status=streamed["status"])
    assert [stored_item(item) for item in whole["output"]] == [stored_item(item) for item in streamed["output"]]


@pytest.mark.parametrize("streamed", [True, False])
def test_an_estimate_of_what_was_read_includes_the_history(channel_pair: ChannelPair, streamed: bool) -> None:
    text = "a long story " * 500
    channel_pair.first.enqueue(retold(lambda body: {**body, "usage": None}), times=2)
    response = channel_pair.post(input=text).json()
    answer = channel_pair.ask(streamed, previous_response_id=response["id"], input="And then?")
    final = check_stream(answer.content)[-1]["response"] if streamed else check_response(answer.json())
    history = len(text) + len(text_of(response))
    # Three words, fifteen hundred tokens.
    assert response["usage"]["input_tokens"] >= 1400
    assert final["usage"]["input_tokens"] > response["usage"]["input_tokens"]
    assert final["usage"]["input_tokens"] < history, "an estimate that is several times too high is none"


def comparable(event: JSON) -> JSON:
    if "response" in event:
        return {"type": event["type"], "output": [stored_item(item) for item in event["response"]["output"]]}
    fields = {key: value for key, value in event.items() if key not in ("item_id", "obfuscation", "logprobs")}
    return {**fields, "item": stored_item(event["item"])} if "item" in event else fields


def stored_item(item: JSON) -> JSON:
    return {key: value for key, value in item.items() if key not in ("id", "call_id")}


def test_obfuscation_is_kept_when_the_upstream_sends_it_and_not_invented_when_not(channel_pair: ChannelPair) -> None:
    assert b'"obfuscation"' in channel_pair.stream().content
    assert b'"obfuscation"' not in channel_pair.stream(stream_options={"include_obfuscation": False}).content


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_any_spelling_and_any_split_gives_the_same_events(channel_pair: ChannelPair, spelling: str, split: str) -> None:
    tape = RequestTape()
    channel_pair.first.enqueue(tape, *SPELLINGS[spelling], *SPLITS[split])
    check_relayed(channel_pair.stream(input=HARD_TEXT).content, tape.bodies[0], status="completed")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    offsets=st.lists(st.integers(1, 4500), max_size=30),
    ending=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    text=st.text(min_size=1, max_size=20),
    close=st.booleans(),
)
def test_any_text_survives_any_split(
    channel_pair: ChannelPair, offsets: list[int], ending: bytes, text: str, close: bool
) -> None:
    tape = RequestTape()
    framing = (framed("close"),) if close else ()
    channel_pair.first.enqueue(tape, line_ends(ending), split_at(*offsets), *framing)
    answer = channel_pair.stream(input=f"<{text}>")
    events = check_relayed(answer.content, tape.bodies[0], status="completed")
    assert f"<{text}>" in deltas(events)


@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
def test_the_framing_of_the_body_does_not_matter(channel_pair: ChannelPair, framing: Any) -> None:
    tape = RequestTape()
    channel_pair.first.enqueue(tape, framed(framing))
    check_relayed(channel_pair.stream().content, tape.bodies[0], status="completed")


def test_all_lifecycle_events_carry_our_id_and_the_upstreams_never_shows(channel_pair: ChannelPair) -> None:
    tape = RequestTape()
    channel_pair.first.enqueue(tape)
    raw = channel_pair.stream().content
    shown = {event["response"]["id"] for event in check_stream(raw) if event["type"] in LIFECYCLE}
    theirs = events_of(tape.bodies[0])[0]["response"]["id"]
    (ours,) = shown
    assert re.fullmatch("resp_[0-9a-f]{48}", ours)
    assert ours != theirs
    assert theirs.encode() not in raw
    assert channel_pair.stored(ours)["id"] == ours


def test_lifecycle_events_echo_the_client_and_not_the_upstream(channel_pair: ChannelPair) -> None:
    parent = channel_pair.post().json()["id"]
    settings = {"instructions": "Be brief.", "metadata": {"a": "b"}, "temperature": 0.5, "previous_response_id": parent}
    for event in check_stream(channel_pair.stream(**settings).content):
        if event["type"] in LIFECYCLE:
            assert {key: event["response"][key] for key in settings} == settings
            assert event["response"]["model"] == channel_pair.model
            assert event["response"]["store"] is True


@pytest.mark.parametrize("size", [60_000, 70_000, 300_000])
def test_an_upstream_may_echo_a_lot_before_its_first_output(channel_pair: ChannelPair, size: int) -> None:
    tape = RequestTape()
    channel_pair.first.enqueue(tape)
    check_relayed(channel_pair.stream(instructions="x" * size).content, tape.bodies[0], status="completed")


def test_the_headers_of_a_stream_forbid_buffering_and_caching(channel_pair: ChannelPair) -> None:
    headers = channel_pair.stream().headers
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers["X-Accel-Buffering"] == "no"
    assert "no-store" in headers["Cache-Control"]
    assert headers["x-request-id"].startswith("req_")
    assert "Set-Cookie" not in headers
    assert "openai-version" not in headers


def test_exactly_one_sentinel_ends_a_stream_also_when_the_upstream_sends_one(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(continued(b"data: [DONE]\n\n"))
    raw = channel_pair.stream().content
    check_stream(raw, status="completed")
    assert raw.count(b"[DONE]") == 1
    assert raw.endswith(b"data: [DONE]\n\n")


def test_events_after_the_terminal_event_are_ignored(channel_pair: ChannelPair) -> None:
    late = event_bytes({"type": "response.output_text.delta", "sequence_number": 99, "delta": "late"})
    tape = RequestTape()
    channel_pair.first.enqueue(tape, continued(late, late))
    check_relayed(channel_pair.stream().content, tape.bodies[0], status="completed")
    assert channel_pair.post().status_code == 200


def test_a_second_terminal_event_is_not_passed_on(channel_pair: ChannelPair) -> None:
    failed = {"type": "response.failed", "sequence_number": 50, "response": {"status": "failed"}}
    channel_pair.first.enqueue(continued(event_bytes(failed)))
    check_stream(channel_pair.stream().content, status="completed")


def test_the_connection_to_an_upstream_is_used_again_after_a_stream(channel_pair: ChannelPair) -> None:
    for _ in range(3):
        check_stream(channel_pair.stream().content, status="completed")
    assert len({request.connection for request in channel_pair.first.requests}) == 1


def test_the_beginning_leaves_as_soon_as_an_upstream_has_accepted(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(stalled(1))
    events = follow(portions(channel_pair.stream()))
    assert [next(events).name, next(events).name] == ["response.created", "response.in_progress"]
    channel_pair.first.release()
    assert [event.name for event in events][-2:] == ["response.completed", None]


def test_each_delta_arrives_while_the_next_one_is_not_yet_sent(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(*(stalled(after) for after in (9, 7, 5)))
    events = follow(portions(channel_pair.stream()))
    seen = [next(events).name for _ in range(5)]
    assert seen[-1] == "response.output_text.delta"
    for _ in range(2):
        channel_pair.first.release()
        assert [next(events).name, next(events).name][-1] == "response.output_text.delta"
    channel_pair.first.release()
    assert [event.data for event in events][-1] == "[DONE]"


NUMBERINGS = {
    "absent": lambda event: {key: value for key, value in event.items() if key != "sequence_number"},
    "all zero": lambda event: {**event, "sequence_number": 0},
    "from one": lambda event: {**event, "sequence_number": event["sequence_number"] + 1},
    "with gaps": lambda event: {**event, "sequence_number": event["sequence_number"] * 2},
    "twice": lambda event: {**event, "sequence_number": event["sequence_number"] // 2},
    "null": lambda event: {**event, "sequence_number": None},
    "gap late": lambda event: {
        **event,
        "sequence_number": event["sequence_number"] + 5 * (event["sequence_number"] > 8),
    },
}


@pytest.mark.parametrize("numbering", NUMBERINGS)
def test_wrong_numbers_are_put_right(channel_pair: ChannelPair, numbering: str) -> None:
    channel_pair.first.enqueue(rewritten(NUMBERINGS[numbering]))
    check_stream(channel_pair.stream().content, status="completed")


USAGES: dict[str, Any] = {
    "absent": None,
    "empty": {},
    "negative": {"input_tokens": -5, "output_tokens": -1, "total_tokens": -6},
    "strings": {"input_tokens": "12", "output_tokens": "many", "total_tokens": None},
    "a list": [1, 2],
    "huge": {"input_tokens": 2**60, "output_tokens": 1, "total_tokens": 2**60},
    "fractions": {"input_tokens": 1.5, "output_tokens": 0.1, "total_tokens": 1.6},
    "details null": {
        "input_tokens": 5,
        "output_tokens": 2,
        "total_tokens": 7,
        "input_tokens_details": None,
        "output_tokens_details": None,
    },
}


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("usage", USAGES)
def test_senseless_usage_neither_breaks_an_answer_nor_gets_into_it(
    channel_pair: ChannelPair, usage: str, streamed: bool
) -> None:
    def spoil(event: JSON) -> JSON:
        if "response" in event:
            return {**event, "response": {**event["response"], "usage": USAGES[usage]}}
        return {**event, "usage": USAGES[usage]} if event.get("object") == "response" else event

    channel_pair.first.enqueue(rewritten(spoil))
    answer = channel_pair.ask(streamed)
    final = check_stream(answer.content)[-1]["response"] if streamed else answer.json()
    check_response(final, status="completed")
    check_response(channel_pair.stored(final["id"]), usage=final["usage"])


def test_json_where_a_stream_was_requested_becomes_a_stream(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(json_instead())
    events = check_stream(channel_pair.stream().content, status="completed")
    assert deltas(events) == "You said: Say something to me. I have seen 1 items."


def test_a_stream_where_json_was_requested_becomes_json(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(stream_instead())
    answer = channel_pair.post()
    assert answer.headers["Content-Type"].startswith("application/json")
    check_response(answer.json(), status="completed")


@pytest.mark.parametrize("streamed", [True, False])
def test_an_upstream_that_zips_unasked_is_understood(channel_pair: ChannelPair, streamed: bool) -> None:
    channel_pair.first.enqueue(zipped())
    answer = channel_pair.ask(streamed)
    final = check_stream(answer.content)[-1]["response"] if streamed else answer.json()
    check_response(final, status="completed")
    assert channel_pair.first.requests[0].headers.get("accept-encoding", "identity") == "identity"


def test_events_of_unknown_types_pass(channel_pair: ChannelPair) -> None:
    def rename(event: JSON) -> JSON:
        return {**event, "type": "response.dreamt_up"} if event["type"].endswith("text.done") else event

    channel_pair.first.enqueue(rewritten(rename))
    raw = channel_pair.stream().content
    assert b"event: response.dreamt_up\n" in raw
    assert [event["sequence_number"] for event in events_of(raw)] == list(range(len(events_of(raw))))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_both_versions_of_http_get_the_same_stream(channel_pair: ChannelPair, version: str) -> None:
    """nginx speaks 1.0 to its upstreams by default: no chunks then, and the connection ends the body."""
    data = orjson.dumps(channel_pair.body(stream=True))
    head = f"POST /v1/responses HTTP/{version}\r\nHost: here\r\nAuthorization: Bearer {channel_pair.gateway.token}\r\n"
    head += f"Content-Type: application/json\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", channel_pair.gateway.port), timeout=20) as sock:
        sock.sendall(head.encode() + data)
        received = b"".join(iter(lambda: sock.recv(65536), b""))
    header, _, body = received.partition(b"\r\n\r\n")
    assert (b"chunked" in header.lower()) == (version == "1.1")
    if version == "1.0":
        check_stream(body, status="completed")
    else:
        assert body.endswith(b"\r\n0\r\n\r\n")


def test_the_clients_connection_serves_another_request_after_a_stream(channel_pair: ChannelPair) -> None:
    with channel_pair.dial(stream=True) as sock:
        read_until(sock, b"0\r\n\r\n")
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_long_silence_is_filled_with_comments_that_are_no_events(
    tmp_path: Path, upstreams: tuple[ScriptedUpstream, ScriptedUpstream], transport: str
) -> None:
    upstream, _ = upstreams
    upstream.reset()
    tape = RequestTape()
    upstream.enqueue(tape, stalled(5))
    with Gateway(tmp_path, [upstream.channel()], heartbeat=1, mover=transport) as gateway:
        pieces, raw = portions(gateway.stream({"model": "m", "input": "Say something"})), b""
        while raw.count(b"\n:") < 2:
            raw += next(pieces)
        upstream.release()
        raw += b"".join(pieces)
    check_relayed(raw, tape.bodies[0], status="completed")


def test_the_row_of_a_stream_is_stored_before_its_id_is_sent(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(stalled(1))
    with channel_pair.dial(stream=True) as sock:
        response_id = response_id_in(read_until(sock, b"response.created"))
        check_response(channel_pair.stored(response_id), status="in_progress")
        channel_pair.first.release()
        read_until(sock, b"[DONE]")
