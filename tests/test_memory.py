"""What large bodies take of a running gateway, and what is left of it afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest

from tests.footprint import MIB, memory_of
from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.upstream import ScriptedUpstream

#: Longer than the tick at which memory goes back to the system, on a busy machine.
SOON = 15.0


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
def api(tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedUpstream) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("memory"), [upstream.channel()], workers=2, threads=64) as gateway:
        # One that serves is enough to be ready.
        eventually(lambda: gateway.log.count("streams are moved by") == 2, "both workers", SOON)
        yield gateway


def words(size: int, **keys: object) -> bytes:
    """A body of about that size: many messages, as a long conversation has them."""
    request_body = {"role": "user", "content": "a" * 2900}
    return orjson.dumps({"model": "m", "input": [request_body] * (size // 2933), **keys})


def statuses(api: Gateway, body: bytes, times: int) -> list[int]:
    """What so many requests at once are answered."""

    def post(_: int) -> int:
        return api.request("POST", "/responses", data=body).status_code

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(post, range(times)))


@pytest.mark.parametrize("store", [False, True])
def test_memory_of_large_bodies_goes_back_to_the_system(api: Gateway, store: bool) -> None:
    statuses(api, words(64 * 1024, store=store), 16)
    idle = memory_of(api.workers)
    answered = statuses(api, words(20 * MIB, store=store), 8)
    assert set(answered) <= {200, 503}, answered
    assert 200 in answered
    allowed = idle + 40 * MIB
    eventually(lambda: memory_of(api.workers) < allowed, "memory to go back to the system", SOON)


def test_answers_and_histories_have_their_part_of_the_memory(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """Each turn fits by itself; a conversation of them and one more answer do not."""
    request_body: dict[str, object] = {"model": "m", "input": "a" * 900_000}
    with Gateway(tmp_path, [upstream.channel()], max_body=MIB, memory=8 * MIB) as api:
        answer = api.post("/responses", request_body)
        assert answer.status_code == 200
        for _ in range(8):
            if answer.status_code != 200:
                break
            answer = api.post("/responses", {**request_body, "previous_response_id": answer.json()["id"]})
        assert answer.status_code in (413, 503)
        assert api.post("/responses", request_body).status_code == 200
