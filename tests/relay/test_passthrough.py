"""Chat completions on their way: failover before the first chunk, one clear error after it, hang-ups, the books."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from tests.gateway import Gateway, portions, reset
from tests.relay.conftest import PROMPTLY, RequestTape, pairs, read_until, restored, unused_models
from tests.relay.passthrough_channels import (
    DONE,
    SOME_WORDS,
    PassthroughPair,
    chat_error,
    chunks_of,
    error_of,
    event,
    with_pieces,
    words_of,
)
from tests.response_contract import check_error
from tests.stored_data import written
from tests.upstream import (
    HOLD,
    RESET,
    Script,
    ScriptedUpstream,
    byte_by_byte,
    commented,
    dripping,
    dropped,
    ended,
    endless_line,
    framed,
    garbage,
    going_stale,
    html,
    json_instead,
    line_ends,
    rate_limited,
    raw,
    redirect,
    refusal,
    silent,
    slammed,
    split_randomly,
    sse,
    stalled,
    stream_instead,
    wire,
)

PAIR_COUNTS = {"long": 110, "short": 12}
CANARY = "canary: https://10.0.0.7/v1 sk-canary-of-the-upstream"
NO_JSON = b"data: {not json}\n\n"
ANSWER = "You said: Say something to me. I have seen 1 messages."


@pytest.fixture(scope="module")
def passthrough_gateway(
    tmp_path_factory: pytest.TempPathFactory, upstreams: tuple[ScriptedUpstream, ScriptedUpstream]
) -> Iterator[Gateway]:
    rows = list(pairs(*upstreams, PAIR_COUNTS, format="chat_completions", bridge=False))
    with Gateway(tmp_path_factory.mktemp("passthrough"), rows, threads=64) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def models(passthrough_gateway: Gateway) -> dict[str, Iterator[str]]:
    return unused_models(PAIR_COUNTS)


@pytest.fixture
def passthrough_pair(
    passthrough_gateway: Gateway, upstreams: tuple[ScriptedUpstream, ScriptedUpstream], models: dict[str, Iterator[str]]
) -> Iterator[PassthroughPair]:
    """An unused pair, with the retries that a test may need."""
    for unused in restored(PassthroughPair(passthrough_gateway, *upstreams, next(models["long"]))):
        unused.earn_retries()
        yield unused


@pytest.fixture
def short_timeouts(passthrough_pair: PassthroughPair, models: dict[str, Iterator[str]]) -> PassthroughPair:
    """An unused pair with timeouts of a second."""
    return passthrough_pair.on(next(models["short"]))


def check_answered(answer: object, streamed: bool) -> None:
    assert answer.status_code == 200, answer.text  # type: ignore[attr-defined]
    content: bytes = answer.content  # type: ignore[attr-defined]
    if streamed:
        assert words_of(content) == ANSWER
        assert content.endswith(DONE)
    else:
        assert orjson.loads(content)["choices"][0]["message"]["content"] == ANSWER


# --- bytes ------------------------------------------------------------------------------------------------------

SPELLINGS: dict[str, tuple[Script, ...]] = {
    "plain": (),
    "CRLF": (line_ends(b"\r\n"),),
    "comments": (commented(),),
    "byte by byte": (byte_by_byte(),),
    "split": (split_randomly(7),),
    "until the connection closes": (framed("close"),),
    "continuous usage": (with_pieces(lambda pieces: tuple(piece.replace(b"null}", b"0}") for piece in pieces)),),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_stream_with_requested_usage_leaves_byte_for_byte(passthrough_pair: PassthroughPair, spelling: str) -> None:
    tape = RequestTape()
    passthrough_pair.first.enqueue(*SPELLINGS[spelling], tape)
    answer = passthrough_pair.stream(stream_options={"include_usage": True})
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert [answer.content] == tape.bodies
    assert answer.content.count(b'"prompt_tokens"') == 1


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_only_the_usage_chunk_is_withheld_when_it_was_not_requested(
    passthrough_pair: PassthroughPair, spelling: str
) -> None:
    tape = RequestTape()
    passthrough_pair.first.enqueue(*SPELLINGS[spelling], tape)
    sent = passthrough_pair.stream().content
    (raw_answer,) = tape.bodies
    blank_line = b"\r\n\r\n" if spelling == "CRLF" else b"\n\n"
    count = raw_answer.index(b'"prompt_tokens"')
    begin, end = raw_answer.rindex(b"data: ", 0, count), raw_answer.index(blank_line, count) + len(blank_line)
    assert sent == raw_answer[:begin] + raw_answer[end:]
    assert passthrough_pair.first.bodies[-1]["stream_options"] == {"include_usage": True}


def test_an_unstreamed_answer_leaves_byte_for_byte(passthrough_pair: PassthroughPair) -> None:
    body = b'{ "object":"chat.completion", "x" : 1.50, "choices":[{"message":{"content":"\\u00e4"}}] }\n'
    passthrough_pair.first.enqueue(raw(200, body, "application/json; charset=utf-8"))
    answer = passthrough_pair.post()
    assert (answer.status_code, answer.headers["Content-Type"], answer.content) == (200, "application/json", body)


def test_a_request_goes_up_as_it_came_but_for_the_models_name(
    tmp_path: Path, passthrough_pair: PassthroughPair
) -> None:
    row = passthrough_pair.first.channel("named", format="chat_completions", models={"fast": "Qwen/Qwen3-32B"})
    with Gateway(tmp_path, [{**row, "api_key": "canary-key-of-first"}]) as gateway:
        sent = {"x_extra": None, "model": "fast", "messages": [{"role": "user", "content": "x", "y": 1.5}], "n": 1}
        assert gateway.post("/chat/completions", sent).status_code == 200
    assert passthrough_pair.first.requests[-1].raw == orjson.dumps({**sent, "model": "Qwen/Qwen3-32B"})
    assert passthrough_pair.first.requests[-1].path == "/v1/chat/completions"


def test_a_whole_answer_to_a_stream_becomes_one(passthrough_pair: PassthroughPair) -> None:
    passthrough_pair.first.enqueue(json_instead())
    answer = passthrough_pair.stream()
    check_answered(answer, True)
    assert b'"prompt_tokens"' not in answer.content
    assert not passthrough_pair.row()["estimated"]


# --- another channel --------------------------------------------------------------------------------------------

REFUSALS: dict[str, Script] = {
    "429": rate_limited(),
    **{str(status): refusal(status, CANARY) for status in (500, 503, 401, 403)},
    "404 model": refusal(404, "The model does not exist.", "model_not_found"),
    "redirect": redirect("http://127.0.0.1:9/elsewhere"),
    "HTML 200": html(),
    "HTML 502": html(502),
    "no JSON": raw(200, b"{half"),
    "no completion": raw(200, b'{"object":"list","data":[]}'),
    "an error in a 200": raw(200, b'{"error":{"message":"Boom.","code":500}}'),
    "empty 200": raw(200, b""),
    "slammed": slammed(),
    "reset": slammed(RESET),
}
BEFORE_OUTPUT: dict[str, Script] = {
    "dropped at once": dropped(0),
    "reset at once": dropped(0, RESET),
    "ended at once": ended(0),
    "error at once": chat_error(0),
    "garbage at once": garbage(0, NO_JSON),
    "no chunk": sse(event({"hello": 1})),
    "no events": sse(b"hello\n\n" * 10),
    "only comments": sse(b": hello\n\n" * 10),
    "only the sentinel": sse(DONE),
    "half a chunk": sse(b'data: {"choices":[{"del'),
}


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("refused", REFUSALS)
def test_a_refusal_that_is_not_the_clients_fault_is_made_good_elsewhere(
    passthrough_pair: PassthroughPair, refused: str, streamed: bool
) -> None:
    passthrough_pair.first.enqueue(REFUSALS[refused])
    check_answered(passthrough_pair.ask(streamed), streamed)
    assert (len(passthrough_pair.first.requests), len(passthrough_pair.second.requests)) == (1, 1)
    assert passthrough_pair.first.bodies == passthrough_pair.second.bodies
    row = passthrough_pair.row()
    tries = orjson.loads(row["attempts"])
    assert [entry["channel"] for entry in tries] == [
        f"{passthrough_pair.model}-first",
        f"{passthrough_pair.model}-second",
    ]
    assert tries[0]["error"]
    assert (row["status"], row["channel"]) == ("completed", f"{passthrough_pair.model}-second")


@pytest.mark.parametrize("fault", BEFORE_OUTPUT)
def test_a_stream_that_fails_before_its_first_chunk_goes_on_elsewhere(
    passthrough_pair: PassthroughPair, fault: str
) -> None:
    passthrough_pair.first.enqueue(BEFORE_OUTPUT[fault])
    check_answered(passthrough_pair.stream(), True)
    assert (len(passthrough_pair.first.requests), len(passthrough_pair.second.requests)) == (1, 1)


@pytest.mark.parametrize("fault", ["error at once", "dropped at once", "no events"])
def test_when_all_fail_the_client_learns_it_by_the_status(passthrough_pair: PassthroughPair, fault: str) -> None:
    for upstream in (passthrough_pair.first, passthrough_pair.second):
        upstream.enqueue(BEFORE_OUTPUT[fault])
    answer = passthrough_pair.stream()
    check_error(answer, 502, type="server_error")
    assert answer.headers["x-should-retry"] == "false"
    assert passthrough_pair.row()["status"] == "failed"


def test_an_unstreamed_answer_that_is_a_stream_is_no_answer(passthrough_pair: PassthroughPair) -> None:
    passthrough_pair.first.enqueue(stream_instead())
    check_answered(passthrough_pair.post(), False)
    assert len(passthrough_pair.second.requests) == 1


@pytest.mark.parametrize("streamed", [True, False])
def test_the_upstreams_400_is_the_clients_with_its_sentence(passthrough_pair: PassthroughPair, streamed: bool) -> None:
    passthrough_pair.first.enqueue(refusal(400, "Unsupported value: 'n'.", "unsupported_value", "n"))
    error = check_error(passthrough_pair.ask(streamed), 400, "unsupported_value", "n", "invalid_request_error")
    assert error["message"] == "Unsupported value: 'n'."
    assert passthrough_pair.second.requests == []


@pytest.mark.parametrize("streamed", [True, False])
def test_nothing_of_the_upstream_leaks(passthrough_pair: PassthroughPair, streamed: bool) -> None:
    for upstream in (passthrough_pair.first, passthrough_pair.second):
        upstream.enqueue(refusal(500, CANARY))
    answer = passthrough_pair.ask(streamed)
    check_error(answer, 502)
    shown = answer.text + str(answer.headers)
    for secret in (
        "canary-key",
        "sk-",
        "10.0.0.7",
        str(passthrough_pair.first.port),
        str(passthrough_pair.second.port),
    ):
        assert secret not in shown


@pytest.mark.parametrize("streamed", [True, False])
def test_an_unanswered_request_is_not_sent_twice(short_timeouts: PassthroughPair, streamed: bool) -> None:
    short_timeouts.first.enqueue(silent())
    check_error(short_timeouts.ask(streamed), 504, "upstream_timeout")
    short_timeouts.first.wait_hangup()
    assert short_timeouts.second.requests == []


@pytest.mark.parametrize("streamed", [True, False])
def test_an_unanswered_request_is_sent_elsewhere_where_the_table_allows_it(
    passthrough_pair: PassthroughPair, streamed: bool
) -> None:
    passthrough_pair.first.enqueue(silent())
    check_answered(passthrough_pair.on("resending").ask(streamed), streamed)


def test_a_stream_that_is_silent_before_its_first_chunk_goes_on_elsewhere(short_timeouts: PassthroughPair) -> None:
    short_timeouts.first.enqueue(stalled(0))
    check_answered(short_timeouts.stream(), True)


def test_limited_channels_enter_cooldown_and_then_get_no_request(passthrough_pair: PassthroughPair) -> None:
    for upstream in (passthrough_pair.first, passthrough_pair.second):
        upstream.enqueue(rate_limited("30"))
    check_error(passthrough_pair.post(), 429, "rate_limit_exceeded")
    answer = passthrough_pair.stream()
    check_error(answer, 503, type="service_unavailable_error")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert (len(passthrough_pair.first.requests), len(passthrough_pair.second.requests)) == (1, 1)


def test_a_channel_that_keeps_failing_enters_cooldown(passthrough_pair: PassthroughPair) -> None:
    passthrough_pair.first.always(refusal(500))
    for _ in range(8):
        check_answered(passthrough_pair.post(), False)
    assert len(passthrough_pair.first.requests) == 5


@pytest.mark.parametrize("streamed", [True, False])
def test_a_connection_that_went_stale_is_replaced(passthrough_pair: PassthroughPair, streamed: bool) -> None:
    passthrough_pair.first.always(going_stale())
    for _ in range(3):
        check_answered(passthrough_pair.ask(streamed), streamed)
    assert passthrough_pair.second.requests == []


# --- after the first chunk --------------------------------------------------------------------------------------

BREAKS: dict[str, tuple[Script, ...]] = {
    "chunks cut": (dropped(SOME_WORDS),),
    "ended properly": (ended(SOME_WORDS),),
    "closed without length": (ended(SOME_WORDS), framed("close")),
    "no JSON": (garbage(SOME_WORDS, NO_JSON),),
    "no object": (garbage(SOME_WORDS, b"data: [1]\n\n"),),
    "no UTF-8": (garbage(SOME_WORDS, b'data: {"choices":[],"x":"\xff"}\n\n'),),
    "half a chunk": (garbage(SOME_WORDS, b'data: {"choices"'), ended(SOME_WORDS + 1)),
    "its own error": (chat_error(SOME_WORDS),),
}


@pytest.mark.parametrize("fault", BREAKS)
def test_a_stream_that_breaks_says_so_and_nothing_more(passthrough_pair: PassthroughPair, fault: str) -> None:
    # The words have left before the break comes.
    passthrough_pair.first.enqueue(
        *BREAKS[fault], with_pieces(lambda pieces: (*pieces[:SOME_WORDS], HOLD, *pieces[SOME_WORDS:]))
    )
    received = b""
    for portion in portions(passthrough_pair.stream()):
        received += portion
        passthrough_pair.first.release()
    assert words_of(received) == "You said:"
    assert error_of(received)["type"] == "server_error"
    assert passthrough_pair.second.requests == []
    row = passthrough_pair.row()
    assert (row["status"], row["estimated"], row["channel"]) == ("failed", 1, f"{passthrough_pair.model}-first")
    assert row["output_tokens"] == len("You said:") // 4


def test_a_chunk_without_an_end_is_not_waited_for(passthrough_pair: PassthroughPair) -> None:
    passthrough_pair.first.enqueue(endless_line(SOME_WORDS))
    received = passthrough_pair.stream().content
    assert words_of(received) == "You said:"
    assert error_of(received)["code"] == "upstream_protocol_error"
    passthrough_pair.first.wait_hangup(timeout=PROMPTLY)


@pytest.mark.parametrize("fault", [stalled(SOME_WORDS), dripping(SOME_WORDS)], ids=["stalled", "dripping"])
def test_a_stream_that_falls_silent_fails_in_time(short_timeouts: PassthroughPair, fault: Script) -> None:
    short_timeouts.first.enqueue(fault)
    received = short_timeouts.stream().content
    assert words_of(received) == "You said:"
    assert error_of(received)["code"] == "upstream_idle_timeout"
    short_timeouts.first.wait_hangup()


def test_the_upstreams_own_error_keeps_its_words(passthrough_pair: PassthroughPair) -> None:
    error = {"message": "Slow down.", "type": "requests", "code": "rate_limit_exceeded", "param": None}
    passthrough_pair.first.enqueue(chat_error(SOME_WORDS, error), stalled(SOME_WORDS))
    received = b""
    for portion in portions(passthrough_pair.stream()):
        received += portion
        passthrough_pair.first.release()
    assert error_of(received) == error


@pytest.mark.parametrize("how", ["ended", "closed", "cut", "reset", "silent"])
def test_an_answer_that_gave_its_reason_is_whole(short_timeouts: PassthroughPair, how: str) -> None:
    """Only the sentinel is missing, and it is supplied."""
    scripts: dict[str, tuple[Script, ...]] = {
        "ended": (with_pieces(lambda pieces: pieces[:-1]),),
        "closed": (with_pieces(lambda pieces: pieces[:-1]), framed("close")),
        "cut": (with_pieces(lambda pieces: (*pieces[:-1], b"data: [DO")),),
        "reset": (with_pieces(lambda pieces: (*pieces[:-1], HOLD, RESET)),),
        "silent": (with_pieces(lambda pieces: (*pieces[:-1], HOLD)),),
    }
    short_timeouts.first.enqueue(*scripts[how])
    received = b""
    for portion in portions(short_timeouts.stream()):
        received += portion
        if how == "reset" and b'"stop"' in received:
            short_timeouts.first.release()
    assert words_of(received) == ANSWER
    assert received.endswith(DONE)
    assert received.count(DONE) == 1
    assert (short_timeouts.row()["status"], short_timeouts.row()["estimated"]) == ("completed", 0)


# --- clients that leave -----------------------------------------------------------------------------------------

LEAVINGS: dict[str, Callable[[socket.socket], None]] = {
    "FIN": lambda sock: sock.close(),
    "RST": reset,
    "half closed": lambda sock: sock.shutdown(socket.SHUT_WR),
}


@pytest.mark.parametrize("leaving", LEAVINGS)
def test_leaving_while_the_upstream_is_silent(passthrough_pair: PassthroughPair, leaving: str) -> None:
    passthrough_pair.first.enqueue(stalled(SOME_WORDS))
    with passthrough_pair.dial(stream=True) as sock:
        read_until(sock, b" said:")
        LEAVINGS[leaving](sock)
        passthrough_pair.first.wait_hangup(timeout=PROMPTLY)
    row = passthrough_pair.row()
    assert (row["status"], row["estimated"], row["output_tokens"]) == ("cancelled", 1, len("You said:") // 4)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("leaving", LEAVINGS)
def test_leaving_before_the_upstream_has_answered(
    passthrough_pair: PassthroughPair, leaving: str, streamed: bool
) -> None:
    passthrough_pair.first.enqueue(silent())
    with passthrough_pair.dial(stream=streamed) as sock:
        passthrough_pair.first.wait_for_request()
        LEAVINGS[leaving](sock)
        passthrough_pair.first.wait_hangup(timeout=PROMPTLY)
    assert passthrough_pair.second.requests == []
    assert passthrough_pair.row()["status"] == "cancelled"


def test_leaving_before_the_first_chunk(passthrough_pair: PassthroughPair) -> None:
    passthrough_pair.first.enqueue(stalled(0))
    with passthrough_pair.dial(stream=True):
        passthrough_pair.first.wait_for_request()
    passthrough_pair.first.wait_hangup(timeout=PROMPTLY)


def test_leaving_in_the_middle_of_an_unstreamed_answer(passthrough_pair: PassthroughPair) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n"
    passthrough_pair.first.enqueue(wire(head + b'{"id":', HOLD))
    with passthrough_pair.dial():
        passthrough_pair.first.wait_for_request()
    passthrough_pair.first.wait_hangup(timeout=PROMPTLY)
    assert passthrough_pair.second.requests == []


def test_leaving_after_the_finish_reason_is_no_cancel(passthrough_pair: PassthroughPair) -> None:
    passthrough_pair.first.enqueue(with_pieces(lambda pieces: (*pieces[:-2], HOLD)))
    with passthrough_pair.dial(stream=True) as sock:
        read_until(sock, b'"stop"')
    passthrough_pair.first.wait_hangup(timeout=PROMPTLY)
    assert (passthrough_pair.row()["status"], passthrough_pair.row()["estimated"]) == ("completed", 1)


# --- silence and shutting down ----------------------------------------------------------------------------------


def test_a_comment_keeps_a_silent_stream_alive(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    row = upstream.channel(format="chat_completions")
    with Gateway(tmp_path, [row], heartbeat=1) as gateway:
        upstream.enqueue(stalled(SOME_WORDS))
        with gateway.client().chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        ) as chunks:
            passthrough_pair = PassthroughPair(gateway, upstream, upstream, "m")
            upstream.enqueue(stalled(SOME_WORDS))
            with passthrough_pair.dial(stream=True) as sock:
                assert b" said:" in read_until(sock, b": keep-alive\n\n")
            upstream.release(2)
            words = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(words) == "You said: hi. I have seen 1 messages."


def test_a_worker_that_ends_says_so(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    row = upstream.channel(format="chat_completions")
    with Gateway(tmp_path, [row], drain=1) as gateway:
        passthrough_pair = PassthroughPair(gateway, upstream, upstream, "m")
        upstream.enqueue(stalled(SOME_WORDS))
        with passthrough_pair.dial(stream=True) as sock:
            received = read_until(sock, b" said:")
            gateway.stop()
            received += read_until(sock, b"server_shutting_down")
        assert DONE not in received
        assert passthrough_pair.row()["status"] == "failed"


# --- the books --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
def test_every_request_is_counted_with_the_upstreams_numbers(passthrough_pair: PassthroughPair, streamed: bool) -> None:
    tape = RequestTape()
    passthrough_pair.first.enqueue(tape)
    assert passthrough_pair.ask(streamed).content
    row = passthrough_pair.row()
    last = chunks_of(tape.bodies[0])[-1] if streamed else orjson.loads(tape.bodies[0])
    usage = last["usage"]
    assert (row["input_tokens"], row["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert row["id"].startswith("chatcmpl_")
    assert len(row["id"]) == len("chatcmpl_") + 48
    assert (row["kept"], row["streamed"], row["status"]) == (0, streamed, "completed")
    assert (row["channel"], row["upstream_id"]) == (f"{passthrough_pair.model}-first", last["id"])
    assert (row["first_byte_ms"] is not None) == streamed
    (sums,) = passthrough_pair.usage()
    assert (sums["token_name"], sums["channel"], sums["requests"]) == ("tests", f"{passthrough_pair.model}-first", 1)
    assert (sums["input_tokens"], sums["estimated"], sums["failed"]) == (usage["prompt_tokens"], 0, 0)


@pytest.mark.parametrize("streamed", [True, False])
def test_missing_usage_is_estimated(passthrough_pair: PassthroughPair, streamed: bool) -> None:
    def uncounted(pieces: tuple[bytes, ...]) -> tuple[bytes, ...]:
        return tuple(piece for piece in pieces if b'"prompt_tokens"' not in piece)

    body = {"choices": [{"message": {"role": "assistant", "content": ANSWER}, "finish_reason": "length"}]}
    passthrough_pair.first.enqueue(with_pieces(uncounted) if streamed else raw(200, orjson.dumps(body)))
    check_answered(passthrough_pair.ask(streamed), streamed)
    row = passthrough_pair.row()
    assert (row["estimated"], row["output_tokens"]) == (1, len(ANSWER) // 4)
    # "Say something to me", the role and the name of the model.
    assert 5 <= row["input_tokens"] <= 20
    assert row["status"] == ("completed" if streamed else "incomplete")


def test_no_content_is_stored(passthrough_pair: PassthroughPair) -> None:
    canary = "canary-of-the-conversation"
    assert canary in passthrough_pair.post(messages=[{"role": "user", "content": canary}]).text
    assert passthrough_pair.row()["error"] is None
    assert canary.encode() not in written(passthrough_pair.gateway)


def test_a_completions_id_can_neither_be_retrieved_nor_chained_from(passthrough_pair: PassthroughPair) -> None:
    passthrough_pair.post()
    assert passthrough_pair.gateway.get(f"/responses/{passthrough_pair.row()['id']}").status_code == 404


def test_a_bad_request_is_no_row_and_a_failed_one_is(passthrough_pair: PassthroughPair) -> None:
    assert passthrough_pair.post(messages=[]).status_code == 400
    passthrough_pair.first.enqueue(refusal(400, "No."))
    assert passthrough_pair.post().status_code == 400
    assert [row["status"] for row in passthrough_pair.rows(1)] == ["failed"]
