"""A channel's `max_concurrency` over all workers of a machine, and the queue in front of a full channel."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import requests

from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.upstream import Answer, Exchange, Pause, Piece, ScriptedUpstream, silent

JSON = dict[str, Any]
LIMIT = 2
MORE = 12


class Peak:
    """A script that notes how many answers are at work at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.highest = self.total = 0

    def __call__(self, exchange: Exchange, answer: Answer) -> Answer:
        return replace(answer, pieces=self._counted(tuple(answer.pieces)))

    def _counted(self, pieces: tuple[Piece, ...]) -> Iterator[Piece]:
        self._add(1)
        yield Pause(0.02)
        yield from pieces[:-1]
        # The gateway frees the slot once it has the last piece.
        self._add(-1)
        yield pieces[-1]

    def _add(self, change: int) -> None:
        with self._lock:
            self._now += change
            self.total += change > 0
            self.highest = max(self.highest, self._now)


@pytest.fixture(scope="module")
def module_upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, module_upstream: ScriptedUpstream) -> Iterator[Gateway]:
    """Two workers that serve, one for background responses, and a limited channel for each test."""
    limits: dict[str, JSON] = {
        "shared": {"max_concurrency": LIMIT},
        "background": {"max_concurrency": LIMIT},
        "killed": {"max_concurrency": LIMIT},
        "queued": {"max_concurrency": LIMIT, "queue": "8s"},
        "left": {"max_concurrency": LIMIT, "queue": "8s"},
        "impatient": {"max_concurrency": 1, "queue": "100ms"},
    }
    rows = [module_upstream.channel(name, models=[name], **limit) for name, limit in limits.items()]
    with Gateway(tmp_path_factory.mktemp("slots"), rows, workers=2, worker_processes=1) as gateway:
        yield gateway


@pytest.fixture
def upstream(module_upstream: ScriptedUpstream) -> Iterator[ScriptedUpstream]:
    module_upstream.reset()
    yield module_upstream
    module_upstream.reset()


def test_the_limit_holds_over_all_workers(running: Gateway, upstream: ScriptedUpstream) -> None:
    body = {"model": "shared", "input": "hello"}
    upstream.always(silent())
    with ExitStack() as stack:
        for number in range(1, LIMIT + 1):
            stack.enter_context(running.dial({**body, "stream": True}))
            upstream.wait_for_request(number)
        statuses = {running.post("/responses", body).status_code for _ in range(MORE)}
        assert statuses == {503}
        assert len(upstream.requests) == LIMIT
    upstream.wait_hangup(LIMIT)
    upstream.always()
    eventually(lambda: running.post("/responses", body).status_code == 200, "a free slot")


def test_background_responses_count_too(running: Gateway, upstream: ScriptedUpstream) -> None:
    body = {"model": "background", "input": "hello"}
    upstream.enqueue(silent(), times=LIMIT)
    created = [running.post("/responses", {**body, "background": True}).json()["id"] for _ in range(LIMIT)]
    upstream.wait_for_request(LIMIT)
    assert running.post("/responses", body).status_code == 503
    for response_id in created:
        assert running.post(f"/responses/{response_id}/cancel", {}).status_code == 200
    eventually(lambda: running.post("/responses", body).status_code == 200, "a free slot")


def test_killed_workers_leave_their_slots(running: Gateway, upstream: ScriptedUpstream) -> None:
    body = {"model": "killed", "input": "hello"}
    upstream.enqueue(silent(), times=LIMIT)
    with ExitStack() as stack:
        for number in range(1, LIMIT + 1):
            stack.enter_context(running.dial({**body, "stream": True}))
            upstream.wait_for_request(number)
        for pid in running.workers:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: is_answered(running, body), "a slot of a killed worker")


def is_answered(running: Gateway, body: JSON) -> bool:
    """Whether a request is answered now. The worker that has it may be killed just then."""
    try:
        return running.post("/responses", body).status_code == 200
    except requests.ConnectionError:
        return False


def test_requests_wait_for_a_slot_and_none_exceeds_the_limit(running: Gateway, upstream: ScriptedUpstream) -> None:
    body = {"model": "queued", "input": "hello"}
    peak = Peak()
    upstream.always(peak)
    with ThreadPoolExecutor(MORE) as pool:
        statuses = list(pool.map(lambda _: streamed(running, body), range(MORE)))
    assert statuses == [200] * MORE
    assert (peak.total, peak.highest) == (MORE, LIMIT)


def streamed(running: Gateway, body: JSON) -> int:
    """The status of a streamed request, on a connection of its own."""
    return requests.post(
        f"{running.base_url}/responses",
        json={**body, "stream": True},
        headers={"Authorization": f"Bearer {running.token}"},
        timeout=30,
    ).status_code


def test_a_client_that_leaves_the_queue_is_not_answered(running: Gateway, upstream: ScriptedUpstream) -> None:
    body = {"model": "left", "input": "hello"}
    upstream.enqueue(silent(), times=LIMIT)
    with ExitStack() as stack:
        for number in range(1, LIMIT + 1):
            stack.enter_context(running.dial({**body, "stream": True}))
            upstream.wait_for_request(number)
        with running.dial({**body, "stream": True}):
            pass
    # A worker may read the last request only now, and must not send it during the next test.
    eventually(lambda: running.log.count(" model=left ") == LIMIT + 1, "all three to end")
    # The channel is free again, and the one that left does not hold a slot.
    upstream.wait_hangup(LIMIT)
    statuses = [running.post("/responses", body).status_code for _ in range(3)]
    assert statuses == [200] * 3


def test_a_queue_that_is_too_long_ends_with_a_status(running: Gateway, upstream: ScriptedUpstream) -> None:
    body = {"model": "impatient", "input": "hello"}
    upstream.enqueue(silent())
    with running.dial({**body, "stream": True}):
        upstream.wait_for_request()
        for stream in (False, True):
            answer = running.post("/responses", {**body, "stream": stream})
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_is_overloaded")
            assert int(answer.headers["Retry-After"]) >= 1
        assert len(upstream.requests) == 1
