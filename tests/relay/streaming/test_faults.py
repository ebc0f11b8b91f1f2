"""Streams that break after their first output: one proper end, and the output before it is stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway import Gateway, portions
from tests.relay.conftest import (
    SOME_TEXT,
    ChannelPair,
    blocks,
    check_failed_stream,
    deltas,
    eventually,
    on_both_transports,
    pair,
    read_until,
    text_of,
)
from tests.response_contract import check_error, check_response, check_stream
from tests.sse_reader import follow
from tests.upstream import (
    RESET,
    Script,
    ScriptedUpstream,
    bomb,
    dripping,
    dripping_head,
    dropped,
    ended,
    endless_line,
    event_bytes,
    failing,
    framed,
    garbage,
    in_one_write,
    invalid_utf8,
    rewritten,
    stalled,
    unterminated,
    wire,
    zipped,
)

pytestmark = on_both_transports

NO_TYPE = b'data: {"sequence_number":6,"delta":"more"}\n\n'
BREAKS: dict[str, tuple[Script, ...]] = {
    "chunks cut": (dropped(SOME_TEXT),),
    "closed without length": (ended(SOME_TEXT), framed("close")),
    "ended properly": (ended(SOME_TEXT),),
    "ended in one write": (ended(SOME_TEXT), in_one_write()),
    "without terminal event": (unterminated(),),
    "without terminal event, closed": (unterminated(), framed("close")),
    "body shorter than its length": (framed("length"), dropped(SOME_TEXT)),
    "no JSON": (garbage(SOME_TEXT),),
    "no object": (garbage(SOME_TEXT, b"data: [1]\n\n"),),
    "no type": (garbage(SOME_TEXT, NO_TYPE),),
    "half an event at the end": (ended(SOME_TEXT), garbage(SOME_TEXT, b"event: response.output_text.delta\ndata: {")),
    "early sentinel": (ended(SOME_TEXT), garbage(SOME_TEXT, b"data: [DONE]\n\n")),
    "its own error": (failing(SOME_TEXT, "rate_limit_exceeded"),),
    "terminal event without a response": (
        garbage(SOME_TEXT, event_bytes({"type": "response.completed", "sequence_number": 6})),
        ended(SOME_TEXT + 1),
    ),
    "zipped and cut": (ended(SOME_TEXT), zipped()),
}
SILENCES: dict[str, tuple[Script, ...]] = {"stalled": (stalled(SOME_TEXT),), "dripping": (dripping(SOME_TEXT),)}


def check_broken(channel_pair: ChannelPair, raw: bytes, text: str = "You said:") -> None:
    events = check_failed_stream(raw)
    failed = events[-1]["response"]
    assert deltas(events).startswith(text)
    assert text_of(failed) == deltas(events)
    stored = check_response(
        channel_pair.stored(failed["id"]), status="failed", output=failed["output"], error=failed["error"]
    )
    assert stored["output"][0]["status"] == "incomplete"
    assert channel_pair.second.requests == []


@pytest.mark.parametrize("fault", [name for name in BREAKS if not name.startswith("without")])
def test_a_stream_that_breaks_fails_and_keeps_its_output(channel_pair: ChannelPair, fault: str) -> None:
    channel_pair.first.enqueue(*BREAKS[fault])
    check_broken(channel_pair, channel_pair.stream().content)


@pytest.mark.parametrize("fault", [name for name in BREAKS if name.startswith("without")])
def test_everything_but_the_terminal_event_is_not_an_answer(channel_pair: ChannelPair, fault: str) -> None:
    channel_pair.first.enqueue(*BREAKS[fault])
    events = check_failed_stream(channel_pair.stream().content)
    stored = channel_pair.stored(events[-1]["response"]["id"])
    assert stored["status"] == "failed"
    assert text_of(stored) == deltas(events)
    assert channel_pair.second.requests == []


def test_a_reset_after_some_text_fails_the_stream(channel_pair: ChannelPair) -> None:
    """A RST throws away what was not read yet, so the text has to be at the client first."""
    channel_pair.first.enqueue(dropped(SOME_TEXT, RESET), stalled(SOME_TEXT))
    raw = b""
    for portion in portions(channel_pair.stream()):
        raw += portion
        if b'"delta":" said:"' in portion:
            channel_pair.first.release()
    check_broken(channel_pair, raw)


@pytest.mark.parametrize("fault", SILENCES)
def test_a_stream_that_falls_silent_fails_in_time(short_timeouts: ChannelPair, fault: str) -> None:
    short_timeouts.first.enqueue(*SILENCES[fault])
    check_broken(short_timeouts, short_timeouts.stream().content)
    short_timeouts.first.wait_hangup()


def test_silence_is_called_by_its_name(short_timeouts: ChannelPair) -> None:
    short_timeouts.first.enqueue(stalled(SOME_TEXT))
    check_failed_stream(short_timeouts.stream().content, "upstream_idle_timeout")


def test_the_end_of_a_body_is_no_silence(channel_pair: ChannelPair) -> None:
    """A body that is over is known to be over, however patient the channel."""
    channel_pair.first.enqueue(ended(SOME_TEXT))
    check_failed_stream(channel_pair.stream().content, "upstream_protocol_error")


def test_silence_before_the_first_output_goes_elsewhere(short_timeouts: ChannelPair) -> None:
    short_timeouts.first.enqueue(stalled(2))
    check_stream(short_timeouts.stream().content, status="completed")
    assert len(short_timeouts.second.requests) == 1


def test_the_upstreams_own_failure_keeps_its_code_and_sentence(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(failing(SOME_TEXT, "model_overloaded", "The model is too busy."))
    error = check_failed_stream(channel_pair.stream().content, "model_overloaded")[-2]["error"]
    assert error["message"] == "The model is too busy."


def test_an_event_without_an_end_is_given_up(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(endless_line(SOME_TEXT))
    check_broken(channel_pair, channel_pair.stream().content)
    channel_pair.first.wait_hangup()


def test_an_endless_beginning_goes_elsewhere(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(endless_line(0))
    check_stream(channel_pair.stream().content, status="completed")
    channel_pair.first.wait_hangup()


def test_a_broken_chunk_size_is_a_broken_stream(channel_pair: ChannelPair) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    channel_pair.first.enqueue(wire(head + b"zz\r\n"))
    check_stream(channel_pair.stream().content, status="completed")
    channel_pair.first.enqueue(wire(head + b"9" * 9000))
    check_stream(channel_pair.stream().content, status="completed")


def test_a_head_that_never_ends_is_given_up(short_timeouts: ChannelPair) -> None:
    short_timeouts.first.enqueue(dripping_head())
    answer = short_timeouts.stream()
    assert answer.status_code in (502, 504)
    check_error(answer)
    short_timeouts.first.wait_hangup()


@pytest.mark.parametrize("fault", ["a wrong status line", "no HTTP", "half a head", "endless header"])
def test_an_answer_that_is_no_http_is_a_failed_attempt(channel_pair: ChannelPair, fault: str) -> None:
    usage = {
        "a wrong status line": b"HTTP/1.1 abc\r\n\r\n",
        "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
        "half a head": b"HTTP/1.1 200 OK\r\nContent-Ty",
        "endless header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
    }
    channel_pair.first.enqueue(wire(usage[fault]))
    check_stream(channel_pair.stream().content, status="completed")
    assert len(channel_pair.second.requests) == 1


@pytest.mark.parametrize("after", range(3, 16))
def test_wherever_it_breaks_the_numbers_go_on_without_a_gap(channel_pair: ChannelPair, after: int) -> None:
    channel_pair.first.enqueue(dropped(after))
    check_failed_stream(channel_pair.stream().content)


@pytest.mark.parametrize("after", range(2, 7))
def test_a_call_that_breaks_off_is_stored_as_incomplete(channel_pair: ChannelPair, after: int) -> None:
    tools = [{"type": "function", "name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}]
    channel_pair.first.enqueue(dropped(after + 1))
    events = check_failed_stream(channel_pair.stream(input="weather", tools=tools).content)
    (call,) = channel_pair.stored(events[-1]["response"]["id"])["output"]
    arguments = "".join(event["delta"] for event in events if event["type"].endswith("arguments.delta"))
    assert (call["type"], call["arguments"]) == ("function_call", arguments)


def test_invalid_utf8_breaks_nothing_but_its_own_stream(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(invalid_utf8())
    raw = channel_pair.stream().content
    raw.decode("utf-8")
    assert blocks(raw)[-1] == b"data: [DONE]\n\n"
    check_stream(channel_pair.stream().content, status="completed")


def test_a_broken_response_cannot_be_continued(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(dropped(SOME_TEXT))
    failed = check_failed_stream(channel_pair.stream().content)[-1]["response"]["id"]
    answer = channel_pair.post(previous_response_id=failed)
    check_error(answer, 400, "previous_response_failed", "previous_response_id")


def test_an_unstored_stream_that_breaks_leaves_nothing_behind(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(dropped(SOME_TEXT))
    failed = check_failed_stream(channel_pair.stream(store=False).content)[-1]["response"]["id"]
    check_error(channel_pair.gateway.get(f"/responses/{failed}"), 404)


def test_an_incomplete_answer_is_an_answer(channel_pair: ChannelPair) -> None:
    events = check_stream(channel_pair.stream(max_output_tokens=16).content, status="incomplete")
    response = events[-1]["response"]
    check_response(channel_pair.stored(response["id"]), status="incomplete", output=response["output"])
    assert channel_pair.post(previous_response_id=response["id"]).status_code == 200


# --- unstreamed -------------------------------------------------------------------------------------------------

UNSTREAMED: dict[str, tuple[Script, ...]] = {
    "cut": (dropped(0),),
    "reset": (dropped(0, RESET),),
    "bomb": (bomb(),),
    "no output": (rewritten(lambda body: {**body, "output": None}),),
    "failed": (rewritten(lambda body: {**body, "status": "failed", "output": []}),),
}


@pytest.mark.parametrize("fault", UNSTREAMED)
def test_an_unstreamed_answer_that_breaks_is_made_good_elsewhere(channel_pair: ChannelPair, fault: str) -> None:
    channel_pair.first.enqueue(*UNSTREAMED[fault])
    check_response(channel_pair.post().json(), status="completed")
    assert len(channel_pair.second.requests) == 1


def test_an_unstreamed_body_that_stalls_is_given_up(short_timeouts: ChannelPair) -> None:
    short_timeouts.first.enqueue(
        wire(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{")
    )
    assert short_timeouts.post().status_code in (200, 502, 504)


# --- afterwards -------------------------------------------------------------------------------------------------


def test_a_thousand_faults_leave_no_connection_thread_or_descriptor_behind(
    tmp_path: Path, upstreams: tuple[ScriptedUpstream, ScriptedUpstream], transport: str
) -> None:
    """A thousand in spirit: each kind several times, in one worker."""
    first, second = upstreams
    for upstream in upstreams:
        upstream.reset()
    rows = pair("m", first, second, cooldown={"after": 1000}, timeout={"idle": 1, "first_byte": 1, "total": 5})
    body = {"model": "m", "input": "Say something"}
    with Gateway(tmp_path, rows, threads=32, mover=transport) as gateway:
        gateway.stream(body).content  # noqa: B018 - what is opened once is open from here on
        before = _open_descriptors(gateway)
        # A rate limit would put the channel into cooldown.
        for fault in [script for name, script in BREAKS.items() if name != "its own error" for _ in range(3)]:
            first.enqueue(*fault)
            assert b"[DONE]" in gateway.stream(body).content
        for fault in (dropped(2), garbage(0)) * 5:
            first.enqueue(fault)
            assert b"[DONE]" in gateway.stream(body).content
        for _ in range(10):
            first.enqueue(stalled(SOME_TEXT))
            with gateway.dial({**body, "stream": True}) as sock:
                read_until(sock, b"output_text.delta")
        first.wait_hangup(10)
        eventually(lambda: _open_descriptors(gateway) <= before + 4, "descriptors to be closed")
        streams = [gateway.stream(body) for _ in range(4)]
        assert all([event.data for event in follow(portions(stream))][-1] == "[DONE]" for stream in streams)


def _open_descriptors(gateway: Gateway) -> int:
    (worker,) = gateway.workers
    return len(list(Path(f"/proc/{worker}/fd").iterdir()))
