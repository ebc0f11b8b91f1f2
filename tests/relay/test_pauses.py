"""A channel that is taken out of service while two workers serve: by the command, noticed by both, with running streams
left alone and conversations that go on elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
import requests
from click import BadParameter

from app.cli.channels import PauseDuration
from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.upstream import ScriptedUpstream, refusal, stalled

JSON = dict[str, Any]
NOT_FOUND, CHANNEL_FAILING = 4, 3
#: New connections, so that both workers have answered some.
OFTEN = 8
#: Seconds for what several requests must show.
SLOWLY = 60.0
#: Events before the stream waits.
SOME = 4


@pytest.fixture(scope="module")
def module_upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, module_upstream: ScriptedUpstream) -> Iterator[Gateway]:
    """Two workers that serve, one for background responses, and models of one and of two channels."""
    rows = [
        *(
            module_upstream.channel(name, models=[name], chat=True)
            for name in ("alone", "drained", "shown", "streaming")
        ),
        module_upstream.channel("first", models=["pair"], priority=10),
        module_upstream.channel("second", models=["pair"]),
        module_upstream.channel("cooling", models=["cooling"], cooldown={"for": "300s"}),
    ]
    with Gateway(tmp_path_factory.mktemp("pauses"), rows, workers=2, worker_processes=1) as gateway:
        yield gateway


@pytest.fixture
def upstream(module_upstream: ScriptedUpstream) -> Iterator[ScriptedUpstream]:
    module_upstream.reset()
    yield module_upstream
    module_upstream.reset()


def statuses(running: Gateway, model: str, path: str = "/responses") -> set[int]:
    """Of requests that several workers answer: each has a connection of its own."""
    content: JSON = {"messages": [{"role": "user", "content": "hello"}]} if "chat" in path else {"input": "hello"}
    return {
        requests.post(
            running.base_url + path,
            json={"model": model, **content},
            headers={"Authorization": f"Bearer {running.token}"},
            timeout=60,
        ).status_code
        for _ in range(OFTEN)
    }


def channel_of(running: Gateway, response_id: str) -> str:
    return str(orjson.loads(running.command("show", response_id, "--json"))["channel"])


def listed(running: Gateway, name: str) -> JSON:
    channels = orjson.loads(running.command("channels", "list", "--json"))["channels"]
    return next(channel for channel in channels if channel["name"] == name)


def test_every_worker_notices_a_pause_and_its_end(running: Gateway, upstream: ScriptedUpstream) -> None:
    running.command("channels", "pause", "alone", "--for", "1h", "--reason", "a new disk")
    for path in ("/responses", "/chat/completions"):
        eventually(lambda path=path: statuses(running, "alone", path) == {503}, "both workers", SLOWLY)

    answers: list[requests.Response] = []

    def stream_refused() -> bool:
        # All requests above may have met one worker.
        answers.append(running.post("/responses", {"model": "alone", "input": "hello", "stream": True}))
        return answers[-1].status_code == 503

    eventually(stream_refused, "the other worker", SLOWLY)
    refused = answers[-1]
    error = refused.json()["error"]
    assert "alone: paused until" in error["message"]
    assert "new disk" not in error["message"]
    assert 0 < int(refused.headers["Retry-After"]) <= 3600
    running.command("channels", "resume", "alone")
    eventually(lambda: statuses(running, "alone") == {200}, "both workers", SLOWLY)


def test_commands_say_until_when_by_whom_and_why(running: Gateway) -> None:
    told = running.command("channels", "drain", "shown", "--reason", "a new disk")
    assert "draining since" in told
    assert "(command line): a new disk" in told
    assert listed(running, "shown")["pause"]["reason"] == "a new disk"
    assert "draining since" in running.command("route", "shown", exit_code=CHANNEL_FAILING)
    assert "shown: draining since" in running.attempt("doctor").stdout
    running.command("channels", "resume", "shown")
    assert "is not paused" in running.command("channels", "resume", "shown", exit_code=NOT_FOUND)


def test_conversations_go_on_elsewhere_and_background_responses_too(
    running: Gateway, upstream: ScriptedUpstream
) -> None:
    began = running.post("/responses", {"model": "pair", "input": "hello"}).json()
    assert channel_of(running, began["id"]) == "first"
    running.command("channels", "drain", "first")
    chained = {"model": "pair", "input": "more", "previous_response_id": began["id"]}

    def went_elsewhere(**keys: Any) -> Callable[[], bool]:
        def is_second() -> bool:
            made = running.post("/responses", {**chained, **keys}).json()
            eventually(lambda: running.get(f"/responses/{made['id']}").json()["status"] == "completed", "its end")
            return channel_of(running, made["id"]) == "second"

        return is_second

    for keys in ({}, {"background": True}):
        eventually(went_elsewhere(**keys), "all workers", SLOWLY)
    running.command("channels", "resume", "first")


def test_a_running_stream_goes_on_while_its_channel_is_drained(running: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(stalled(SOME))
    with running.stream({"model": "streaming", "input": "hello"}) as answer:
        lines = answer.iter_lines()
        assert b"response.created" in next(lines)
        running.command("channels", "drain", "streaming")
        eventually(lambda: statuses(running, "streaming") == {503}, "both workers", SLOWLY)
        eventually(lambda: listed(running, "streaming")["in_flight"] == 1, "the report of its worker", SLOWLY)
        upstream.release()
        rest = b"\n".join(lines)
    assert b"response.completed" in rest
    assert b"response.failed" not in rest
    running.command("channels", "resume", "streaming")


def test_a_restarted_gateway_knows_the_pause_at_its_first_request(running: Gateway, upstream: ScriptedUpstream) -> None:
    running.command("channels", "drain", "drained")
    running.restart()
    assert statuses(running, "drained") == {503}
    running.command("channels", "resume", "drained")


def test_every_worker_tries_a_channel_again(running: Gateway, upstream: ScriptedUpstream) -> None:
    for _ in range(2):
        upstream.enqueue(refusal(401, "no"))

    def both_refused() -> bool:
        statuses(running, "cooling")
        return len(upstream.requests) >= 2

    # No worker asks an upstream again that refuses its key.
    eventually(both_refused, "the cooldown of both workers", SLOWLY)
    assert statuses(running, "cooling") == {503}
    assert "tried again" in running.command("channels", "retry", "cooling")
    eventually(lambda: statuses(running, "cooling") == {200}, "both workers", SLOWLY)
    running.command("channels", "drain", "cooling")
    assert "resume it" in running.command("channels", "retry", "cooling", exit_code=NOT_FOUND)
    running.command("channels", "resume", "cooling")


def test_a_channel_that_is_not_in_the_table_is_no_channel(running: Gateway) -> None:
    failed = running.attempt("channels", "drain", "alon")
    assert failed.returncode == NOT_FOUND
    assert "did you mean alone?" in failed.stderr


@pytest.mark.parametrize("wrong", ["0s", "8d", "soon", "-5m", "", "1e3s", "600"])
def test_a_pause_that_is_no_duration_is_a_mistake(wrong: str) -> None:
    with pytest.raises(BadParameter, match="10m"):
        PauseDuration().convert(wrong, None, None)
