"""What an upstream says of its failure reaches the client through the gateway, and what is the operator's does not."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import orjson
import pytest
import requests

from tests.gateway import Gateway
from tests.response_contract import check_error, check_stream
from tests.upstream import Script, ScriptedUpstream, raw, sse
from tests.websocket_client import Socket

JSON = dict[str, Any]
WORDS = "Function call is missing a thought_signature."
FORMATS = ("responses", "chat_completions", "messages")
KEY, HEADER = "canary-key-of-the-channel", "canary-header-of-the-channel"
PLAIN, PAGE = "text/plain", "text/html"


def body(value: object) -> bytes:
    return orjson.dumps(value)


WRAPPED = body({"message": WORDS}).decode()
#: Answers with status 200 that carry nothing but an error.
ONLY_AN_ERROR: dict[str, Script] = {
    "an error": raw(200, body({"error": {"message": WORDS, "code": 400}})),
    "an error without a code": raw(200, body({"error": {"message": WORDS}})),
    "a text": raw(200, body({"error": WORDS})),
    "flat": raw(200, body({"code": 400, "message": WORDS})),
    "a detail": raw(200, body({"detail": WORDS})),
    "an array": raw(200, body([{"error": {"code": 400, "message": WORDS}}])),
    "errors": raw(200, body({"success": False, "errors": [{"code": 7003, "message": WORDS}]})),
    "MiniMax": raw(200, body({"id": "1", "choices": None, "base_resp": {"status_code": 2013, "status_msg": WORDS}})),
    "raw": raw(
        200,
        body({"error": {"message": "Provider returned error", "metadata": {"raw": body({"message": WORDS}).decode()}}}),
    ),
    "plain text": raw(200, WORDS.encode(), PLAIN),
    "a page": raw(200, f"<html><title>{WORDS}</title><body>x</body></html>".encode(), PAGE),
    "JSON as an event stream": raw(200, body({"error": {"message": WORDS}}), "text/event-stream"),
    "an event": sse(b"data: %b\n\n" % body({"type": "error", "error": {"message": WORDS, "code": 400}})),
    "an event without a type": sse(b"data: %b\n\n" % body({"error": {"message": WORDS, "code": 502}})),
    "a named event": sse(b"event: error\ndata: %b\n\n" % body({"error": {"message": WORDS, "type": "api_error"}})),
    "an event of an array": sse(b"data: %b\n\n" % body({"error": {"message": [WORDS]}})),
}
#: Answers with another status.
REFUSED: dict[str, Script] = {
    "400": raw(400, body([{"error": {"message": WORDS}}])),
    "422": raw(422, body({"detail": [{"loc": ["body", "x"], "msg": WORDS}]})),
    "500": raw(500, body({"error": {"message": WORDS}})),
    "502 page": raw(502, f"<html><head><title>{WORDS}</title></head></html>".encode(), PAGE),
    "503 text": raw(503, WORDS.encode(), PLAIN),
    "409": raw(409, body({"msg": WORDS})),
}
LEAK = (
    f"{WORDS} Called http://10.0.0.7:8000/v1 with key '{KEY}' and {HEADER}, sk-canary-1234567890, "
    "Bearer canary.token.value-1 in {'messages': [{'role': 'user', 'content': 'canary-prompt'}]}"
)


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedUpstream) -> Iterator[Gateway]:
    keys: JSON = {"api_key": KEY, "headers": {"X-Route": HEADER}, "cooldown": {"after": 1000}}
    rows = [upstream.channel(format_, models=[format_], format=format_, **deepcopy(keys)) for format_ in FORMATS]
    with Gateway(tmp_path_factory.mktemp("words"), rows) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def _clean(upstream: ScriptedUpstream) -> None:
    upstream.reset()


def ask(gateway: Gateway, model: str, stream: bool, **keys: Any) -> requests.Response:
    return gateway.post("/responses", {"model": model, "input": "hello", "stream": stream, **keys})


def complete(gateway: Gateway, stream: bool) -> requests.Response:
    messages = [{"role": "user", "content": "hello"}]
    return gateway.post("/chat/completions", {"model": "chat_completions", "messages": messages, "stream": stream})


def message_of(answer: requests.Response) -> str:
    assert answer.status_code >= 400, answer.text
    message: str = check_error(answer)["message"]
    return message


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("format_", [*FORMATS, "passthrough"])
@pytest.mark.parametrize("case", ONLY_AN_ERROR | REFUSED)
def test_the_words_reach_the_client(
    gateway: Gateway, upstream: ScriptedUpstream, case: str, format_: str, stream: bool
) -> None:
    upstream.always((ONLY_AN_ERROR | REFUSED)[case])
    passed_on = format_ == "passthrough"
    answer = complete(gateway, stream) if passed_on else ask(gateway, format_, stream)
    assert WORDS.rstrip(".") in message_of(answer)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("format_", FORMATS)
def test_keys_addresses_and_the_request_stay(
    gateway: Gateway, upstream: ScriptedUpstream, format_: str, status: int, stream: bool
) -> None:
    said = f"{LEAK} at 127.0.0.1:{upstream.port} {upstream.base_url}"
    upstream.always(raw(status, body({"error": {"message": said, "code": 400}})))
    answer = ask(gateway, format_, stream)
    assert WORDS in message_of(answer)
    for secret in ("canary", "10.0.0.7", "sk-", str(upstream.port)):
        assert secret not in answer.text


@pytest.mark.parametrize("model", FORMATS)
def test_a_websocket_gets_the_words(gateway: Gateway, upstream: ScriptedUpstream, model: str) -> None:
    upstream.always(REFUSED["422"])
    with Socket(gateway) as sock:
        sock.ask(model=model, input="hello")
        event = sock.receive()
    assert WORDS in event["error"]["message"]
    assert (event["type"], event["status"]) == ("error", 400)


#: A chunk of text, and what an upstream sends after it.
BROKEN: dict[str, Any] = {
    "a number as code": {"error": {"message": WORDS, "code": 502}},
    "no code": {"error": {"message": WORDS}},
    "a text": {"error": WORDS},
    "in the choice": {
        "choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": {"message": WORDS, "code": 502}}]
    },
    "beside the choices": {
        "choices": [{"index": 0, "delta": {"content": ""}}],
        "error": {"message": WORDS, "code": "server_error"},
    },
    "MiniMax": {"choices": None, "base_resp": {"status_code": 1013, "status_msg": WORDS}},
    "raw": {"error": {"message": "Provider returned error", "code": 502, "metadata": {"raw": WORDS}}},
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_error_after_some_text_ends_the_stream_with_its_words(
    gateway: Gateway, upstream: ScriptedUpstream, case: str
) -> None:
    text = {"id": "c", "choices": [{"index": 0, "delta": {"content": f"half of it, {KEY}"}}]}
    upstream.always(sse(*(b"data: %b\n\n" % body(chunk) for chunk in (text, BROKEN[case]))))
    *_, error, failed = check_stream(ask(gateway, "chat_completions", stream=True).content)
    assert WORDS in error["error"]["message"]
    assert all(isinstance(error["error"][name], str) for name in ("code", "type", "message"))
    assert WORDS in failed["response"]["error"]["message"]
    assert failed["response"]["error"]["code"] == error["error"]["code"]
    last = complete(gateway, stream=True).content.strip().split(b"\n\n")[-1]
    assert WORDS in orjson.loads(last.removeprefix(b"data: "))["error"]["message"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("place", ["response", "event"])
def test_a_failed_response_carries_its_words(
    gateway: Gateway, upstream: ScriptedUpstream, place: str, stream: bool
) -> None:
    error = {"code": "server_error", "message": f"{WORDS} {KEY}"}
    response: JSON = {"id": "r", "status": "failed", "output": [], "error": error, "metadata": {"a": "b c"}}
    event: JSON = {"type": "response.failed", "response": response}
    if place == "event":
        event = {**event, "response": {**response, "error": None}, "error": error}
    upstream.always(sse(b"data: %b\n\n" % body(event)) if stream else raw(200, body(response)))
    answer = ask(gateway, "responses", stream)
    assert WORDS in message_of(answer)
    assert KEY not in answer.text
