"""Failures of channels through the gateway: the length of cooldowns, the owners concerned, and the log lines."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import requests

from tests.gateway import Gateway
from tests.ports import closed_port
from tests.relay.conftest import SOME_TEXT, check_failed_stream, eventually
from tests.response_contract import check_error, check_response, check_stream
from tests.store import rows
from tests.upstream import Pause, Script, ScriptedUpstream, failing, failing_at_once, refusal, silent
from tests.websocket_client import Socket

CONTENT = "canary: the prompt as the upstream quotes it"
NO_PICTURES = "image input is not supported - hint: you may need to provide the mmproj"
TOO_LONG = "request (40030 tokens) exceeds the available context size (4096 tokens), try increasing it"
#: Beyond the `first_byte` of the table's defaults, and of the row that has its own.
BEYOND = 0.9


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedUpstream) -> Iterator[Gateway]:
    def row(name: str, **keys: Any) -> dict[str, Any]:
        return upstream.channel(name, models=[keys.pop("model", name)], **keys)

    channels = [
        row("m"),
        row("own", timeout={"first_byte": "500ms"}),
        row("chat", format="chat_completions"),
        row("only", cooldown={"after": 2}),
        row("patient", chat=True, cooldown={"after": 1000}, timeout={"first_byte": "15s"}),
        row("gone", base_url=f"http://127.0.0.1:{closed_port()}/v1"),
        *(row(f"many-{at}", model="many", priority=at, cooldown={"after": 99}) for at in (4, 3, 2, 1)),
    ]
    defaults = {"defaults": {"timeout": {"first_byte": "500ms", "idle": "500ms", "total": "20s"}}}
    with Gateway(tmp_path_factory.mktemp("failures"), channels, defaults) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def _clean(upstream: ScriptedUpstream) -> None:
    upstream.reset()


def ask(gateway: Gateway, model: str, stream: bool = False, **keys: Any) -> requests.Response:
    return gateway.post("/responses", {"model": model, "input": "x", "stream": stream}, **keys)


def late() -> Script:
    return lambda exchange, answer: replace(answer, lead=(Pause(BEYOND),))


# --- how long one waits -----------------------------------------------------------------------------------------


def test_an_answer_in_one_piece_takes_its_time(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(late())
    check_response(ask(gateway, "m").json(), status="completed")


def test_a_stream_has_to_begin(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(late())
    check_error(ask(gateway, "m", stream=True), 504, "upstream_timeout")


def test_a_first_byte_of_the_rows_own_holds_for_every_answer(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(late())
    check_error(ask(gateway, "own"), 504, "upstream_timeout")


# --- attempts ---------------------------------------------------------------------------------------------------


def test_attempts_are_three_and_each_is_made_when_the_one_before_has_failed(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.enqueue(refusal(500, "no"), silent(), times=3)
    with gateway.dial({"model": "many", "input": "x"}) as sock:
        for number in (1, 2, 3):
            upstream.wait_for_request(number)
            assert len(upstream.requests) == number
            upstream.release()
        assert sock.recv(65536).startswith(b"HTTP/1.1 502")
    assert len(upstream.requests) == 3


def test_the_only_channel_is_tried_again_within_a_second(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.always(refusal(502, "no"))
    for _ in range(2):
        assert ask(gateway, "only").status_code == 502
    upstream.always()
    answer = eventually(lambda: (got := ask(gateway, "only")).status_code == 200 and got, "the trial")
    check_response(answer.json(), status="completed")


@pytest.mark.parametrize("path", ["/responses", "/chat/completions"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_model_that_is_being_loaded_is_waited_for(
    gateway: Gateway, upstream: ScriptedUpstream, path: str, stream: bool
) -> None:
    """A second passes before the next request; the stream's `first_byte` is shorter, so it is the row's own."""
    gateway_row = {"model": "patient", "messages": [{"role": "user", "content": "x"}], "input": "x", "stream": stream}
    body = {name: value for name, value in gateway_row.items() if name != ("input" if "chat" in path else "messages")}
    upstream.enqueue(refusal(503, "Loading model"), times=2)
    answer = gateway.post(path, body)
    assert answer.status_code == 200, answer.text
    assert len(upstream.requests) == 3


# --- whose fault it is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["m", "chat"])
@pytest.mark.parametrize("stream", [True, False])
def test_pictures_that_a_server_cannot_read_are_their_owners_400(
    gateway: Gateway, upstream: ScriptedUpstream, model: str, stream: bool
) -> None:
    upstream.enqueue(refusal(500, NO_PICTURES), times=8)
    for _ in range(8):
        error = check_error(ask(gateway, model, stream), 400, "invalid_value", "input", "invalid_request_error")
        assert error["message"] == NO_PICTURES
    assert ask(gateway, model).status_code == 200


@pytest.mark.parametrize("model", ["m", "chat"])
@pytest.mark.parametrize("stream", [True, False])
def test_too_long_a_prompt_has_its_code_in_every_format(
    gateway: Gateway, upstream: ScriptedUpstream, model: str, stream: bool
) -> None:
    upstream.enqueue(refusal(400, TOO_LONG))
    error = check_error(ask(gateway, model, stream), 400, "context_length_exceeded", "input")
    assert error["message"] == TOO_LONG


@pytest.mark.parametrize("model", ["m", "chat"])
def test_too_long_a_prompt_has_its_code_in_the_event_of_a_stream(
    gateway: Gateway, upstream: ScriptedUpstream, model: str
) -> None:
    upstream.enqueue(failing_at_once("server_error", TOO_LONG))
    check_error(ask(gateway, model, stream=True), 400, "context_length_exceeded")
    upstream.enqueue(failing(SOME_TEXT, "server_error", TOO_LONG))
    error = check_failed_stream(ask(gateway, model, stream=True).content, "context_length_exceeded")[-2]["error"]
    assert error["message"] == TOO_LONG


# --- what is written --------------------------------------------------------------------------------------------


def lines(gateway: Gateway, channel: str) -> list[str]:
    return [line for line in gateway.log.splitlines() if f"channel {channel} failed" in line]


def test_a_failure_is_a_warning_without_content(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    before = len(lines(gateway, "many-4"))
    upstream.enqueue(refusal(500, CONTENT, "cuda_error"))
    response = check_response(ask(gateway, "many").json(), status="completed")
    (line,) = lines(gateway, "many-4")[before:]
    assert "WARNING" in line
    assert "status=500 upstream_code=cuda_error" in line
    assert CONTENT not in gateway.log
    assert CONTENT in gateway.command("show", response["id"])
    gateway.delete(f"/responses/{response['id']}")
    assert CONTENT not in gateway.command("show", response["id"])


def test_a_server_that_cannot_be_reached_is_named_with_its_errno(gateway: Gateway) -> None:
    assert ask(gateway, "gone").status_code == 502
    assert any("errno=ECONNREFUSED" in line for line in lines(gateway, "gone"))


def test_an_error_without_a_code_has_a_name_in_the_log(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(refusal(400, "No."))
    assert ask(gateway, "m").status_code == 400
    assert "None" not in "".join(lines(gateway, "m"))


def test_a_successful_stream_writes_no_line(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    for _ in range(3):
        check_stream(ask(gateway, "m", stream=True).content, status="completed")
    assert "its streams are" not in gateway.log


# --- what is not written of a response that is not stored ---------------------------------------------------------

UNSTORED = {"store": False}
COMPACT = {"input": [{"role": "user", "content": "word " * 50}, {"role": "user", "content": "and more"}]}
#: The answer of the upstream with its sentence, and the kind of request.
REFUSALS: dict[str, Callable[[Gateway, str], object]] = {
    "json": lambda gateway, token: post(gateway, token, UNSTORED),
    "a stream": lambda gateway, token: post(gateway, token, {**UNSTORED, "stream": True}),
    "a token that stores nothing": lambda gateway, token: post(gateway, token, {}, stores=False),
    "a stream of such a token": lambda gateway, token: post(gateway, token, {"stream": True}, stores=False),
    "chat completions": lambda gateway, token: post(gateway, token, MESSAGES, "/chat/completions"),
    "a chat stream": lambda gateway, token: post(gateway, token, {**MESSAGES, "stream": True}, "/chat/completions"),
    "a compaction": lambda gateway, token: post(gateway, token, {**UNSTORED, **COMPACT}, "/responses/compact"),
    "a compaction before the answer": lambda gateway, token: post(gateway, token, {**UNSTORED, **COMPACT, **DUE}),
    "a WebSocket": lambda gateway, token: talk(gateway, token, store=False),
    "a WebSocket of such a token": lambda gateway, token: talk(gateway, token, stores=False),
}
MESSAGES = {"messages": [{"role": "user", "content": "x"}], "input": None}
DUE = {"context_management": [{"type": "compaction", "compact_threshold": 10}]}
FAILURES: dict[str, Callable[[str], Script]] = {
    "refused": lambda words: refusal(400, words, "invalid_value"),
    "failed": lambda words: refusal(500, words, "cuda_error"),
    "in the stream": lambda words: failing_at_once("server_error", words),
    "after some text": lambda words: failing_late(words),
}


def failing_late(words: str) -> Script:
    """A stream fails after some text; an answer in one piece is refused."""
    late, refused = failing(SOME_TEXT, "server_error", words), refusal(400, words, "invalid_value")
    return lambda exchange, answer: (late if answer.streams else refused)(exchange, answer)


@pytest.fixture(scope="module")
def storeless(gateway: Gateway) -> str:
    return gateway.new_token("storeless", "--no-store")


def post(gateway: Gateway, token: str, keys: dict[str, Any], path: str = "/responses", stores: bool = True) -> None:
    body = {"model": "patient", "input": "x", **keys}
    gateway.post(path, {name: value for name, value in body.items() if value is not None}, **using(token, stores))


def talk(gateway: Gateway, token: str, stores: bool = True, **keys: Any) -> None:
    with Socket(gateway, **using(token, stores)) as sock:
        sock.turn(model="patient", **keys)


def using(token: str, stores: bool) -> dict[str, Any]:
    return {} if stores else {"token": token}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("way", REFUSALS)
def test_the_words_of_a_failure_are_not_written_where_nothing_is_stored(
    gateway: Gateway, upstream: ScriptedUpstream, storeless: str, way: str, failure: str
) -> None:
    words = f"canary {secrets.token_hex(8)}: the prompt as the upstream quotes it"
    before = rows.count(gateway.database_url, "response")
    upstream.always(FAILURES[failure](words))
    REFUSALS[way](gateway, storeless)
    assert upstream.requests
    eventually(lambda: rows.count(gateway.database_url, "response") > before, "the row")
    found = [
        file.name for file in gateway.directory.iterdir() if file.is_file() and words.encode() in file.read_bytes()
    ]
    assert found == []
