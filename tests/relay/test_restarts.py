"""A worker that ends while requests wait for an upstream: each is answered, each upstream closed, each end stored."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.response_contract import check_error
from tests.store import rows
from tests.upstream import HOLD, ScriptedUpstream, silent, wire

BODY = {"model": "m", "input": "hello"}
CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
LONG = [{"role": "user", "content": "word " * 40}, {"role": "assistant", "content": "I see"}]

#: By name: path and body. Each is without an answer when the worker ends.
WAITING = {
    "an answer": ("/responses", BODY),
    "an unstored answer": ("/responses", {**BODY, "store": False}),
    "the header of a stream": ("/responses", {**BODY, "stream": True}),
    "half an answer": ("/responses", {**BODY, "model": "half"}),
    "a compaction": ("/responses/compact", {"model": "m", "input": LONG}),
    "a compaction before the answer": (
        "/responses",
        {
            "model": "m",
            "input": [*LONG, {"role": "user", "content": "And?"}],
            "context_management": [{"type": "compaction", "compact_threshold": 1}],
        },
    ),
    "a count": ("/responses/input_tokens", {**BODY, "model": "counting"}),
    "a chat completion": ("/chat/completions", CHAT),
    "the first chunk of a chat completion": ("/chat/completions", {**CHAT, "stream": True}),
}
#: Nothing is written of a count.
ROWS = len(WAITING) - 1


@pytest.fixture
def waiting(tmp_path: Path, upstream: ScriptedUpstream) -> Iterator[Gateway]:
    channels = [
        upstream.channel(models=["m"]),
        upstream.channel("counting", models=["counting"], count_tokens=True),
        upstream.channel("half", models=["half"]),
        upstream.channel("chat", models=["chat"], format="chat_completions"),
    ]
    with Gateway(tmp_path, channels, drain=1, workers=2) as gateway:
        yield gateway


def test_requests_that_the_end_of_a_worker_cuts_off_get_an_error(waiting: Gateway, upstream: ScriptedUpstream) -> None:
    half = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{"id": "resp_1",'
    upstream.always(
        lambda exchange, answer: (wire(half, HOLD) if exchange.request.body["model"] == "half" else silent())(
            exchange, answer
        )
    )
    with ThreadPoolExecutor(len(WAITING)) as threads:
        pending = {name: threads.submit(ask, waiting, *request) for name, request in WAITING.items()}
        eventually(lambda: len(upstream.bodies) >= len(WAITING), "the upstream to have them all")
        assert waiting.stop() == 0
        answers = {name: answer.result(20) for name, answer in pending.items()}
    for name, answer in answers.items():
        assert answer.status_code == 503, name
        assert check_error(answer.json())["code"] == "server_shutting_down", name
        assert answer.headers["Retry-After"] == "1", name
        assert f"request_id={answer.headers['X-Request-Id']}" in waiting.log, name
    upstream.wait_connections(0)
    ended = rows.execute(waiting.database_url, "SELECT status, error FROM response")
    assert len(ended) == ROWS
    assert {status for status, _ in ended} == {"failed"}
    assert all("server_shutting_down" in error for _, error in ended)


def ask(gateway: Gateway, path: str, body: dict[str, object]) -> requests.Response:
    return requests.post(
        gateway.base_url + path, json=body, headers={"Authorization": f"Bearer {gateway.token}"}, timeout=60
    )


def test_requests_that_end_within_the_grace_are_answered(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.always(silent())
    with (
        Gateway(tmp_path, [upstream.channel()], drain=15) as gateway,
        ThreadPoolExecutor(1) as threads,
    ):
        pending = threads.submit(ask, gateway, "/responses", BODY)
        upstream.wait_for_request()
        os.kill(gateway.pid, signal.SIGTERM)
        gateway.wait_for_log("Handling signal: term")
        upstream.release()
        assert pending.result(30).json()["status"] == "completed"
