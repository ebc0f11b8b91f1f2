"""A forked `antiphon` runs like one that a shell starts."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.forked_commands import ForkServer
from tests.gateway import COMMAND, ROOT, Gateway

DEMO = {"name": "demo", "format": "demo", "models": ["demo"]}
#: Imports each command where no other one has been imported.
EACH_ALONE = """
import os
from app.cli import COMMANDS, antiphon
for name in COMMANDS:
    if not os.fork():
        antiphon([name, "--help"])
    assert not os.wait()[1], name
"""


@pytest.mark.parametrize(
    "words", [["tokens", "list"], ["tokens", "make"], ["check", "--nothing"], ["show", "resp_1"], ["--version"]]
)
def test_it_prints_and_returns_the_same(tmp_path: Path, words: list[str]) -> None:
    gateway = Gateway(tmp_path, [DEMO])
    gateway.command("init")
    forked = gateway.attempt(*words)
    done = subprocess.run([*COMMAND, *words], cwd=tmp_path, env=gateway.environment, capture_output=True, text=True)
    assert (forked.returncode, forked.stdout, forked.stderr) == (done.returncode, done.stdout, done.stderr)


def test_commands_run_beside_each_other_with_their_own_directories(tmp_path: Path) -> None:
    gateways = [Gateway(tmp_path / str(number), []) for number in range(6) if not (tmp_path / str(number)).mkdir()]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda gateway: gateway.command("init"), gateways))
        tokens = list(pool.map(lambda gateway: gateway.new_token(gateway.directory.name), gateways))
    assert len(set(tokens)) == 6
    for gateway in gateways:
        assert gateway.directory.name in gateway.command("tokens", "list")


def test_a_command_that_does_not_end_is_killed(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, [DEMO])
    gateway.command("init")
    server = ForkServer(os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            server.run(["log", "--follow"], tmp_path, gateway.environment, timeout=0.1)
        assert server.run(["--version"], tmp_path, gateway.environment, timeout=60).returncode == 0
    finally:
        server.close()


def test_a_process_that_has_ended_gets_no_signal(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, [DEMO])
    gateway.command("init")
    process = gateway._start("check")
    assert process.wait(60) == 0
    process.terminate()
    assert process.wait(0) == 0


def test_no_command_needs_the_imports_of_another(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", EACH_ALONE], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_a_wait_that_ends_in_vain_shows_where_the_threads_of_the_gateway_are(tmp_path: Path) -> None:
    with Gateway(tmp_path, [DEMO]) as gateway:
        with pytest.raises(AssertionError, match="most recent call first"):
            gateway.wait_for_log("what it never says", timeout=0.1)
        assert gateway.get("/models").status_code == 200
