"""Bodies that MySQL takes in no statement: a request is refused before an upstream is asked, and an answer fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import requests

from tests.databases import running_server
from tests.gateway import Gateway
from tests.response_contract import check_error, check_response, check_stream
from tests.upstream import Script, ScriptedUpstream, raw, sse
from tests.websocket_client import Socket

MIB = 1024 * 1024
PACKET = 2 * MIB
#: Longer than a statement; quotes take two bytes in JSON and four in the statement.
TOO_LARGE = {"text": "x" * PACKET, "quotes": '"' * (PACKET // 3)}
LARGE = "y" * (PACKET * 3 // 4)


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedUpstream) -> Iterator[Gateway]:
    with running_server(tmp_path_factory.mktemp("narrow")) as server:
        server.run(f"SET GLOBAL max_allowed_packet = {PACKET}")
        server.run("CREATE DATABASE narrow")
        rows = [
            upstream.channel("m", models=["m"], cooldown={"after": 1000}),
            upstream.channel("chat", models=["chat"], format="chat_completions"),
        ]
        with Gateway(tmp_path_factory.mktemp("packets"), rows, database_url=server.url("narrow")) as gateway:
            yield gateway


@pytest.fixture(autouse=True)
def _clean(upstream: ScriptedUpstream) -> None:
    upstream.reset()


def create(gateway: Gateway, text: str, **keys: Any) -> requests.Response:
    return gateway.post("/responses", {"model": "m", "input": text, **keys})


def check_refused(answer: requests.Response) -> None:
    error = check_error(answer, 413, "request_too_large")
    assert f"{PACKET:,} bytes" in error["message"]
    assert "max_allowed_packet" in error["message"]
    assert "store: false" in error["message"]
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize("keys", [{}, {"stream": True}, {"background": True}], ids=["json", "stream", "background"])
@pytest.mark.parametrize("text", TOO_LARGE)
def test_a_request_is_refused_before_it_is_sent(
    gateway: Gateway, upstream: ScriptedUpstream, text: str, keys: Any
) -> None:
    check_refused(create(gateway, TOO_LARGE[text], **keys))
    assert upstream.requests == []


@pytest.mark.parametrize("path", ["/responses", "/responses/compact"])
def test_large_instructions_are_refused_as_well(gateway: Gateway, upstream: ScriptedUpstream, path: str) -> None:
    check_refused(gateway.post(path, {"model": "m", "input": "x", "instructions": TOO_LARGE["text"]}))
    assert upstream.requests == []


def test_a_request_that_is_not_stored_is_answered(gateway: Gateway) -> None:
    check_response(create(gateway, TOO_LARGE["text"], store=False).json(), status="completed")


def test_a_large_request_is_stored_and_continued(gateway: Gateway) -> None:
    first = create(gateway, LARGE).json()
    check_response(create(gateway, "go on", previous_response_id=first["id"]).json(), status="completed")


def test_a_background_request_counts_as_it_is_sealed(gateway: Gateway) -> None:
    """Sealed for the worker that runs it, a request is a third larger than its input."""
    check_response(create(gateway, LARGE).json(), status="completed")
    check_refused(create(gateway, LARGE + "y" * (PACKET // 16), background=True))


def test_an_idempotency_key_is_free_after_the_refusal(gateway: Gateway) -> None:
    headers = {"Idempotency-Key": "narrow"}
    for _ in range(2):
        check_refused(gateway.post("/responses", {"model": "m", "input": TOO_LARGE["text"]}, headers=headers))
    answer = gateway.post("/responses", {"model": "m", "input": "x"}, headers=headers)
    check_response(answer.json(), status="completed")


def test_a_websocket_refuses_the_turn_and_goes_on(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    with Socket(gateway) as sock:
        sock.ask(model="m", input=TOO_LARGE["text"])
        refused = sock.receive()
        assert (refused["type"], refused["status"], refused["error"]["code"]) == ("error", 413, "request_too_large")
        assert upstream.requests == []
        sock.ask(model="m", input="x")
        assert sock.rest()[-1]["type"] == "response.completed"


def test_items_of_a_conversation_are_refused_as_well(gateway: Gateway) -> None:
    items = [{"role": "user", "content": TOO_LARGE["text"]}]
    check_refused(gateway.post("/conversations", {"items": items}))
    conversation = gateway.post("/conversations", {}).json()["id"]
    check_refused(gateway.post(f"/conversations/{conversation}/items", {"items": items}))
    check_refused(create(gateway, TOO_LARGE["text"], conversation=conversation))
    assert gateway.get(f"/conversations/{conversation}/items").json()["data"] == []


# --- answers ----------------------------------------------------------------------------------------------------


def answering(text: str) -> Script:
    """The text as the answer of a chat upstream, streamed or not."""

    def script(exchange: Any, answer: Any) -> Any:
        if not answer.streams:
            message = {"role": "assistant", "content": text}
            body = {"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
            return raw(200, orjson.dumps(body))(exchange, answer)
        pieces = [text[at : at + MIB // 4] for at in range(0, len(text), MIB // 4)]
        deltas = [{"index": 0, "delta": {"content": piece}} for piece in pieces]
        chunks = [*deltas, {"index": 0, "delta": {}, "finish_reason": "stop"}]
        events = [b"data: %b\n\n" % orjson.dumps({"id": "c", "choices": [chunk]}) for chunk in chunks]
        return sse(*events, b"data: [DONE]\n\n")(exchange, answer)

    return script


@pytest.mark.parametrize("where", ["alone", "in a conversation"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_large_request_and_a_large_answer_are_stored_together(
    gateway: Gateway, upstream: ScriptedUpstream, stream: bool, where: str
) -> None:
    upstream.enqueue(answering(LARGE))
    keys = {"conversation": gateway.post("/conversations", {}).json()["id"]} if where != "alone" else {}
    answer = create(gateway, LARGE, model="chat", stream=stream, **keys)
    response = check_stream(answer.content)[-1]["response"] if stream else answer.json()
    check_response(response, status="completed")
    assert gateway.get(f"/responses/{response['id']}").json()["output"] == response["output"]
    if keys:
        items = gateway.get(f"/conversations/{keys['conversation']}/items").json()["data"]
        assert [len(item["content"][0]["text"]) for item in items] == [len(LARGE)] * 2


def test_an_answer_that_is_too_large_fails_once_and_for_all(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(answering(TOO_LARGE["text"]))
    answer = create(gateway, "x", model="chat")
    error = check_error(answer, 503, "too_large_to_store")
    assert "max_allowed_packet" in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert "Retry-After" not in answer.headers
    assert len(upstream.requests) == 1


def test_the_stream_of_an_answer_that_is_too_large_fails(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(answering(TOO_LARGE["text"]))
    events = check_stream(create(gateway, "x", model="chat", stream=True).content)
    assert events[-2]["error"]["code"] == "too_large_to_store"
    response = events[-1]["response"]
    assert response["error"]["code"] == "too_large_to_store"
    stored = gateway.get(f"/responses/{response['id']}").json()
    assert (stored["status"], stored["output"]) == ("failed", [])


def test_the_start_warns_of_the_limit(gateway: Gateway) -> None:
    assert f"The database takes {PACKET:,} bytes in one statement (max_allowed_packet)" in gateway.log


def test_doctor_shows_the_limit(gateway: Gateway) -> None:
    (line,) = [line for line in gateway.command("doctor").splitlines() if "max_allowed_packet" in line]
    assert line.startswith("warning")
    assert "2 MiB" in line
    assert "128M" in line
