"""The processes that count: they die, are replaced and reload, and the sums stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import requests

from tests import ports
from tests.conftest import MakeGateway
from tests.gateway import ROOT, Gateway
from tests.metrics.conftest import Measured
from tests.metrics.scrapes import Scrape, await_value, listens, scrape
from tests.relay.conftest import eventually
from tests.response_contract import check_error

DEMO = {"name": "demo", "format": "demo", "models": ["demo"]}


def ask(gateway: Gateway, times: int) -> None:
    for _ in range(times):
        assert gateway.post("/responses", {"model": "demo", "input": "hello"}).status_code == 200


def directories(gateway: Gateway) -> list[Path]:
    return list(Path("/dev/shm").glob(f"antiphon-metrics-{gateway.pid}-*"))


def test_sums_survive_killed_workers_and_reloads(gateway: MakeGateway) -> None:
    with closing(ports.reserve()) as reserved:
        address = f"127.0.0.1:{ports.number(reserved)}"
        running = gateway([DEMO], workers=2, metrics_bind=address)
        eventually(lambda: listens(address), "the listener")
        (listener,) = running.metrics_processes
        ask(running, 5)
        await_value(running, address, 5, "antiphon_responses_total", model="demo")
        for worker in running.workers:
            os.kill(worker, signal.SIGKILL)
        await_value(running, address, 2, "antiphon_workers", kind="web")
        ask(running, 5)
        await_value(running, address, 10, "antiphon_responses_total", model="demo")
        assert running.metrics_processes == [listener]
        before = running.workers
        os.kill(running.pid, signal.SIGHUP)
        eventually(lambda: len(now := running.workers) == 2 and not set(now) & set(before), "new workers")
        ask(running, 5)
        found = await_value(running, address, 15, "antiphon_responses_total", model="demo")
        assert found.value("antiphon_response_seconds_count", model="demo") == 15
        # Each scrape reads the files of the living only, and one more for the dead.
        (directory,) = directories(running)
        alive = {0, running.pid, *running.workers}
        counters = directory.glob("counter_*.db")
        eventually(lambda: {int(file.stem.partition("_")[2]) for file in directory.glob("counter_*.db")} <= alive, "")
        assert list(counters)
        running.stop()
        assert not directory.exists()


def test_the_directory_of_a_killed_gateway_goes_with_the_next_start(gateway: MakeGateway) -> None:
    running = gateway([DEMO], metrics="on")
    (left,) = directories(running)
    running.kill()
    assert left.exists()
    running.start()
    eventually(lambda: not left.exists(), "the old directory to go")
    assert len(directories(running)) == 1


def test_a_taken_address_stops_nothing_and_is_used_once_it_is_free(gateway: MakeGateway) -> None:
    with closing(ports.reserve()) as taken:
        address = f"127.0.0.1:{ports.number(taken)}"
        taken.listen()
        running = gateway([DEMO], metrics_bind=address)
        running.wait_for_log(f"metrics cannot be served at {address}")
        ask(running, 1)
        taken.close()
        eventually(lambda: listens(address), "the listener")
        await_value(running, address, 1, "antiphon_responses_total", model="demo")


def test_a_worker_that_runs_by_itself_shows_its_own(gateway: MakeGateway) -> None:
    with closing(ports.reserve()) as reserved:
        address = f"127.0.0.1:{ports.number(reserved)}"
        running = gateway([DEMO])
        running.set(metrics_bind=address)
        with running.worker():
            eventually(lambda: listens(address), "the listener")
            body = {"model": "demo", "input": "hello", "background": True}
            assert running.post("/responses", body).status_code == 200
            await_value(running, address, 1, "antiphon_responses_total", model="demo", status="completed")
            await_value(running, address, 1, "antiphon_workers", kind="background")
        eventually(lambda: not listens(address), "the listener to end with it")


def test_the_listener_serves_nothing_else(measured: Measured) -> None:
    for path in ("/", "/v1/models", "/metrics/x", "/healthz"):
        assert requests.get(f"http://{measured.address}{path}", timeout=20).status_code == 404
    assert requests.post(f"http://{measured.address}/metrics", timeout=20).status_code == 501


def test_on_the_gateway_a_token_with_the_right_reads_them(measured: Measured) -> None:
    url = f"{measured.gateway.url}/metrics"
    missing = requests.get(url, timeout=20)
    assert missing.status_code == 401
    refused = requests.get(url, timeout=20, headers={"Authorization": f"Bearer {measured.gateway.token}"})
    assert check_error(refused, 403)["code"] == "permission_denied"
    answer = requests.get(url, timeout=20, headers={"Authorization": f"Bearer {measured.token}"})
    assert answer.status_code == 200
    assert Scrape.of(answer.text).families.keys() == scrape(measured.address).families.keys()


def test_the_right_can_be_given_and_taken(measured: Measured) -> None:
    gateway = measured.gateway
    token = gateway.new_token("later")
    headers = {"Authorization": f"Bearer {token}"}

    def status() -> int:
        return requests.get(f"{gateway.url}/metrics", timeout=20, headers=headers).status_code

    assert status() == 403
    gateway.command("tokens", "update", "later", "--metrics")
    eventually(lambda: status() == 200, "the right")
    gateway.command("tokens", "update", "later", "--no-metrics")
    eventually(lambda: status() == 403, "the refusal")


def test_without_metrics_nothing_is_counted_and_the_library_is_not_imported(gateway: MakeGateway) -> None:
    running = gateway([DEMO])
    token = running.new_token("reader", "--metrics")
    answer = requests.get(f"{running.url}/metrics", timeout=20, headers={"Authorization": f"Bearer {token}"})
    assert check_error(answer, 404)["message"].startswith("Metrics are off")
    assert not directories(running)
    script = (
        "import sys; from app import create_app; import app.server.gunicorn_conf; create_app();"
        "sys.exit('prometheus_client' in sys.modules or 'app.metrics.tally' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=running.environment, cwd=ROOT, timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("value", ["9464", "unix:/run/metrics.sock", "127.0.0.1:0", "here"])
def test_an_address_that_is_none_is_refused_at_the_start(gateway: MakeGateway, tmp_path: Path, value: str) -> None:
    running = Gateway(tmp_path, [DEMO], metrics_bind=value)
    done = running.attempt("serve")
    assert done.returncode == 78
    assert "ANTIPHON_METRICS_BIND" in done.stderr
    assert "9464" in done.stderr or "port" in done.stderr
