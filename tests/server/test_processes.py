"""The processes beside a gateway: replaced when they crash, gone when it is gone."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import MakeGateway
from tests.gateway import Gateway
from tests.queues import running_redis
from tests.relay.background.conftest import await_post
from tests.relay.conftest import eventually
from tests.upstream import ScriptedUpstream, silent


@pytest.fixture
def gateway_with_workers(gateway: MakeGateway, upstream: ScriptedUpstream) -> Gateway:
    return gateway([upstream.channel()], worker_processes=2, drain=1)


def workers(gateway: Gateway) -> list[int]:
    found: list[int] = eventually(
        lambda: found if len(found := gateway.background_workers) == 2 else None, "two workers", 20
    )
    return found


def is_there(pid: int) -> bool:
    """Whether it runs. A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_worker_that_dies_is_replaced(gateway_with_workers: Gateway) -> None:
    first, second = workers(gateway_with_workers)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not is_there(first), "its end")
    assert second in workers(gateway_with_workers)
    waiting = gateway_with_workers.post("/responses", {"model": "m", "input": "hello", "background": True}).json()
    eventually(
        lambda: gateway_with_workers.get(f"/responses/{waiting['id']}").json()["status"] == "completed", "an answer", 20
    )


def test_a_reload_replaces_the_workers_and_loses_no_response(
    gateway_with_workers: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.enqueue(silent())
    before = workers(gateway_with_workers)
    running = gateway_with_workers.post("/responses", {"model": "m", "input": "hello", "background": True}).json()
    await_post(upstream)
    os.kill(gateway_with_workers.pid, signal.SIGHUP)
    eventually(lambda: not any(map(is_there, before)), "their ends")
    assert not set(workers(gateway_with_workers)) & set(before)
    queued = gateway_with_workers.post("/responses", {"model": "m", "input": "hello", "background": True}).json()
    for waiting in (running, queued):
        eventually(lambda of=waiting["id"]: is_completed(gateway_with_workers, of), "an answer")


def is_completed(gateway: Gateway, response_id: str) -> bool:
    return bool(gateway.get(f"/responses/{response_id}").json()["status"] == "completed")


def test_workers_end_with_the_gateway(gateway_with_workers: Gateway) -> None:
    pids = workers(gateway_with_workers)
    gateway_with_workers.wait_for_log("this process runs background responses")
    assert gateway_with_workers.stop() == 0
    assert not any(is_there(pid) for pid in pids)


def test_workers_end_when_the_gateway_was_killed(gateway_with_workers: Gateway) -> None:
    pids = workers(gateway_with_workers)
    os.kill(gateway_with_workers.pid, signal.SIGKILL)
    eventually(lambda: not any(is_there(pid) for pid in pids), "them to end")


def test_nothing_listens_any_more_where_only_they_are_left(gateway_with_workers: Gateway) -> None:
    first, second = workers(gateway_with_workers)
    gateway_with_workers.wait_for_log("this process runs background responses")
    os.kill(first, signal.SIGSTOP)
    for pid in [gateway_with_workers.pid, second, *gateway_with_workers.workers]:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not listens(gateway_with_workers), "the port to be free")
    assert is_there(first)
    os.kill(first, signal.SIGCONT)


def listens(gateway: Gateway) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", gateway.port)) == 0


def test_without_workers_a_response_waits(gateway: MakeGateway, upstream: ScriptedUpstream) -> None:
    alone = gateway([upstream.channel()], worker_processes=0)
    assert alone.background_workers == []
    waiting = alone.post("/responses", {"model": "m", "input": "hello", "background": True}).json()
    assert alone.get(f"/responses/{waiting['id']}").json()["status"] == "queued"


def test_responses_that_wait_without_a_worker_are_logged(gateway: MakeGateway, upstream: ScriptedUpstream) -> None:
    alone = gateway([upstream.channel()], worker_processes=0, lease=4)
    assert readiness(alone) == {"status": "ok", "reasons": {}, "warnings": {}}
    alone.post("/responses", {"model": "m", "input": "hello", "background": True})
    warned = eventually(lambda: readiness(alone)["warnings"], "a warning")
    assert warned == {"background": "1 background response waits, and no worker for them runs"}
    assert "problem  background   1 response waiting" in alone.command("doctor", exit_code=1)
    with alone.worker():
        eventually(lambda: not readiness(alone)["warnings"], "the warning to go")
    assert "background" not in alone.command("doctor")


def test_an_unreachable_redis_is_logged(gateway: MakeGateway, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    with running_redis(tmp_path) as url:
        queued = gateway([upstream.channel()], worker_processes=1, queue_url=url)
        assert readiness(queued)["warnings"] == {}
        assert "Redis answers" in queued.command("doctor")
    assert "Redis does not answer" in readiness(queued)["warnings"]["queue"]
    assert "problem  queue        Redis does not answer" in queued.command("doctor", exit_code=1)


def test_a_silent_redis_is_logged_as_well(gateway: MakeGateway, upstream: ScriptedUpstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        queued = gateway([upstream.channel()], queue_url=url)
        assert "Redis does not answer" in readiness(queued)["warnings"]["queue"]


def readiness(gateway: Gateway) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{gateway.url}/readyz", timeout=20).json()
    return found
