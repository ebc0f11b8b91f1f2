"""Workers as gunicorn starts them: which cores they keep to, what they hear before they listen, what replaces them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MakeGateway
from tests.gateway import ROOT, Gateway
from tests.relay.conftest import eventually

DEMO = {"name": "demo", "format": "demo", "models": ["demo"]}
CORES = os.sched_getaffinity(0)

several_cores = pytest.mark.skipif(len(CORES) < 2, reason="a worker can only keep to a core where there are several")

EARLY_SIGTERM = """
import os, signal
from app.server.gunicorn_conf import *
from app.server import gunicorn_conf as serving

def post_fork(server, worker):
    serving.post_fork(server, worker)
    os.kill(os.getpid(), signal.SIGTERM)
"""


def cores(gateway: Gateway) -> list[set[int]]:
    """For each worker, where its threads may run."""
    tasks = [[int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()] for pid in gateway.workers]
    return [set().union(*map(os.sched_getaffinity, threads)) for threads in tasks]


def each_on_its_own(gateway: Gateway) -> bool:
    found = cores(gateway)
    return len(found) == 2 and [len(one) for one in found] == [1, 1] and found[0] != found[1]


@several_cores
def test_each_worker_keeps_to_a_core_of_its_own_and_so_does_its_successor(gateway: MakeGateway) -> None:
    running = gateway([DEMO], workers=2)
    eventually(lambda: each_on_its_own(running), "both workers to be on one core each")
    victim = running.workers[0]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: victim not in running.workers and each_on_its_own(running), "the successor to follow")
    assert running.post("/responses", {"model": "demo", "input": "hello"}).status_code == 200
    assert each_on_its_own(running)


@several_cores
@pytest.mark.parametrize("settings", [{"pin": "off"}, {"workers": len(CORES) + 1}])
def test_workers_run_anywhere_by_setting_or_when_they_outnumber_the_cores(
    gateway: MakeGateway, settings: dict[str, object]
) -> None:
    running = gateway([DEMO], **settings)
    assert running.post("/responses", {"model": "demo", "input": "hello"}).status_code == 200
    assert all(found == CORES for found in cores(running))


def test_a_new_master_takes_over_and_loads_everything_again(gateway: MakeGateway) -> None:
    running = gateway([DEMO], worker_processes=1)
    os.kill(running.pid, signal.SIGUSR2)
    pattern = re.compile(r"Listening at: \S+ \((\d+)\)")
    old, new = eventually(lambda: found if len(found := pattern.findall(running.log)) == 2 else None, "another")
    assert running.pid == int(old)
    os.kill(int(old), signal.SIGTERM)
    eventually(lambda: "Shutting down: Master\n" in running.log and not running.workers, "the old one to end")
    assert running.post("/responses", {"model": "demo", "input": "hello"}).status_code == 200
    assert b"-m\0gunicorn" in Path(f"/proc/{new}/cmdline").read_bytes()
    running.kill()


def test_a_worker_that_gets_sigterm_before_it_listens_ends(gateway: MakeGateway, tmp_path: Path) -> None:
    running = gateway([DEMO])
    running.stop()
    (tmp_path / "early.py").write_text(EARLY_SIGTERM)
    command = [sys.executable, "-P", "-m", "gunicorn", "--config", str(tmp_path / "early.py"), "--threads", "4"]
    command += ["--bind", f"127.0.0.1:{running.port}", "app:create_app()"]
    with subprocess.Popen(command, cwd=ROOT, env=running.environment, stderr=subprocess.PIPE, text=True) as early:
        assert early.stderr is not None
        try:
            assert next(line for line in early.stderr if "Worker exiting" in line)
        finally:
            early.kill()


def test_no_thread_of_a_worker_pushes_another_one_aside(gateway: MakeGateway) -> None:
    running = gateway([DEMO])
    assert running.post("/responses", {"model": "demo", "input": "hello"}).status_code == 200
    tasks = Path(f"/proc/{running.workers[0]}/task").iterdir()
    assert {os.sched_getscheduler(int(task.name)) for task in tasks} == {os.SCHED_BATCH}
