"""A request that is sent twice under one Idempotency-Key is answered once."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.gateway import Gateway
from tests.relay.conftest import SOME_TEXT, events_of, eventually
from tests.response_contract import check_stream
from tests.upstream import ScriptedUpstream, raw, silent, stalled, stepped

JSON = dict[str, Any]
BODY = {"model": "m", "input": "Say something"}


@pytest.fixture(scope="module")
def _twice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, ScriptedUpstream]]:
    with ScriptedUpstream() as upstream:
        rows = [upstream.channel(models=["m"], cooldown={"after": 1000})]
        with Gateway(tmp_path_factory.mktemp("once"), rows, workers=2) as gateway:
            yield gateway, upstream


@pytest.fixture
def gateway(_twice: tuple[Gateway, ScriptedUpstream]) -> Gateway:
    _twice[1].reset()
    return _twice[0]


@pytest.fixture
def upstream(_twice: tuple[Gateway, ScriptedUpstream]) -> ScriptedUpstream:
    return _twice[1]


@pytest.fixture
def key() -> str:
    return secrets.token_hex(8)


def ask(gateway: Gateway, key: str, path: str = "/responses", token: str | None = None, **fields: Any) -> Any:
    body = {**BODY, **fields}
    return gateway.post(path, body, headers={"Idempotency-Key": key}, token=token)


def error_of(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_repeat_gets_the_same_answer_and_the_upstream_one_request(
    gateway: Gateway, upstream: ScriptedUpstream, key: str
) -> None:
    first, second = ask(gateway, key), ask(gateway, key)
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    assert second.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert len(upstream.bodies) == 1


def test_a_repeated_stream_ends_in_the_same_response(gateway: Gateway, upstream: ScriptedUpstream, key: str) -> None:
    first, second = (ask(gateway, key, stream=True) for _ in range(2))
    check_stream(second.content)
    assert events_of(first.content)[-1]["response"] == events_of(second.content)[-1]["response"]
    assert len(upstream.bodies) == 1


def test_a_repeated_compaction_is_the_same(gateway: Gateway, upstream: ScriptedUpstream, key: str) -> None:
    items = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    first, second = (ask(gateway, key, "/responses/compact", input=items) for _ in range(2))
    assert first.json() == second.json()
    assert first.json()["object"] == "response.compaction"


def test_another_request_under_the_same_key_is_refused(gateway: Gateway, key: str) -> None:
    ask(gateway, key)
    assert error_of(ask(gateway, key, input="Something else")) == (400, "idempotency_key_reused")


def test_another_token_has_keys_of_its_own(gateway: Gateway, upstream: ScriptedUpstream, key: str) -> None:
    stranger = gateway.new_token(f"stranger-{key}")
    assert ask(gateway, key).json()["id"] != ask(gateway, key, token=stranger).json()["id"]


def test_of_many_at_once_one_runs(gateway: Gateway, upstream: ScriptedUpstream, key: str) -> None:
    upstream.enqueue(stepped())
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(ask, gateway, key) for _ in range(8)]
        eventually(lambda: sum(answer.done() for answer in running) == 7, "seven refusals")
        upstream.release(1000)
        answers = [answer.result() for answer in running]
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] + [409] * 7
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert error_of(refused) == (409, "idempotency_key_in_use")
    assert refused.headers["Retry-After"]
    assert len(upstream.bodies) == 1


def test_a_failed_request_is_tried_again(gateway: Gateway, upstream: ScriptedUpstream, key: str) -> None:
    upstream.enqueue(raw(500, b"{}"))
    assert ask(gateway, key).status_code == 502
    assert ask(gateway, key).status_code == 200


def test_a_cancelled_request_is_made_again(gateway: Gateway, upstream: ScriptedUpstream, key: str) -> None:
    first = ask(gateway, key, background=True).json()
    assert ask(gateway, key, background=True).json()["id"] == first["id"]
    assert gateway.post(f"/responses/{first['id']}/cancel", {}).json()["status"] == "cancelled"
    second = ask(gateway, key, background=True)
    assert (second.status_code, second.json()["status"]) == (200, "queued")
    assert second.json()["id"] != first["id"]
    assert ask(gateway, key, background=True).json()["id"] == second.json()["id"]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_request_whose_client_left_is_made_again(
    gateway: Gateway, upstream: ScriptedUpstream, key: str, streamed: bool
) -> None:
    upstream.enqueue(stalled(SOME_TEXT) if streamed else silent())
    with gateway.dial({**BODY, "stream": streamed}, headers={"Idempotency-Key": key}):
        eventually(lambda: upstream.bodies, "a request to the upstream")
        assert error_of(ask(gateway, key, stream=streamed)) == (409, "idempotency_key_in_use")
    upstream.wait_hangup(1)
    again = eventually(lambda: answered(gateway, key, streamed), "the key to be free")
    assert "Idempotent-Replayed" not in again.headers
    assert len(upstream.bodies) == 2


def answered(gateway: Gateway, key: str, streamed: bool) -> requests.Response | None:
    answer: requests.Response = ask(gateway, key, stream=streamed)
    return None if answer.status_code == 409 else answer


def test_an_unstored_answer_cannot_be_given_again(gateway: Gateway, key: str) -> None:
    assert ask(gateway, key, store=False).status_code == 200

    def refused() -> str | None:
        code = error_of(ask(gateway, key, store=False))[1]
        return code if code != "idempotency_key_in_use" else None

    assert eventually(refused, "the row that is written behind the answer") == "idempotency_key_used"


@pytest.mark.parametrize("bad", ["x" * 256, "caf\u00e9"])
def test_another_value_than_a_key_is_refused(gateway: Gateway, bad: str) -> None:
    answer = ask(gateway, bad.encode().decode("latin-1"))
    assert error_of(answer) == (400, "invalid_value")
    assert answer.json()["error"]["param"] == "Idempotency-Key"
