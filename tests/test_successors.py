"""What follows a process that serves: it starts with what was good last, whatever has become of files and database."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from app.store import migrations
from tests.gateway import COMMAND, ROOT, START_WITHIN, Gateway
from tests.outages import outage
from tests.relay.conftest import eventually
from tests.store import rows
from tests.upstream import ScriptedUpstream

DEMO = {"name": "demo", "format": "demo", "models": ["demo"]}
BODY = {"model": "m", "input": "hello"}
KEY = "sk-canary-of-the-successor"
CONFIGURATION = 78


@pytest.fixture
def three_workers(tmp_path: Path, upstream: ScriptedUpstream) -> Iterator[Gateway]:
    """Two workers and one for background responses; the channel's key stands in `.env`."""
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / ".env").write_text(f"A_KEY={KEY}\n")
    channels = [upstream.channel(api_key="${A_KEY}"), DEMO]
    with Gateway(tmp_path / "workers", channels, workers=2, worker_processes=1, drain=1) as running:
        yield running


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("initialised")
    Gateway(directory, [DEMO]).command("init")
    return directory


@pytest.fixture
def unstarted(initialised: Path, tmp_path: Path) -> Gateway:
    """A directory of its own, in which no gateway has been started yet."""
    directory = tmp_path / "unstarted"
    shutil.copytree(initialised, directory)
    return Gateway(directory, [DEMO])


def processes(gateway: Gateway) -> set[int]:
    """Of all workers, those for background responses as well."""
    return {*gateway.workers, *gateway.background_workers}


def kill_all(gateway: Gateway) -> None:
    """Every process but the master; returns when each has a successor."""
    before: set[int] = eventually(lambda: found if len(found := processes(gateway)) == 3 else None, "three")
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(found := processes(gateway)) == 3 and not found & before, "their successors")


def check_serves(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """With the key that is to be had nowhere but in memory, and in the background too."""
    eventually(lambda: answers(gateway), "an answer")
    assert upstream.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    waiting = gateway.post("/responses", {**BODY, "background": True}).json()
    eventually(lambda: gateway.get(f"/responses/{waiting['id']}").json()["status"] == "completed", "a run")
    assert upstream.requests[-1].headers["authorization"] == f"Bearer {KEY}"


def answers(gateway: Gateway) -> bool:
    try:
        return gateway.post("/responses", BODY).status_code == 200
    except requests.ConnectionError:
        return False


# --- files that have become bad ---------------------------------------------------------------------------------


def half_a_table(gateway: Gateway) -> None:
    gateway.channels_file.write_text("version: 1\nchannels: [{")


def no_table(gateway: Gateway) -> None:
    gateway.channels_file.unlink()


def a_table_that_cannot_be_read(gateway: Gateway) -> None:
    gateway.channels_file.unlink()
    gateway.channels_file.mkdir()


def a_link_to_itself(gateway: Gateway) -> None:
    gateway.channels_file.unlink()
    gateway.channels_file.symlink_to(gateway.channels_file)


def a_bad_setting(gateway: Gateway) -> None:
    (gateway.directory / ".env").write_text("ANTIPHON_STALL=never\n")


def an_env_that_is_no_text(gateway: Gateway) -> None:
    (gateway.directory / ".env").write_bytes(b"A_KEY=\xff\xfe\n")


def everything(gateway: Gateway) -> None:
    no_table(gateway)
    an_env_that_is_no_text(gateway)


DAMAGES = (
    half_a_table,
    no_table,
    a_table_that_cannot_be_read,
    a_link_to_itself,
    a_bad_setting,
    an_env_that_is_no_text,
    everything,
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_successors_serve_with_what_was_good_last(
    three_workers: Gateway, upstream: ScriptedUpstream, damage: Callable[[Gateway], None]
) -> None:
    damage(three_workers)
    kill_all(three_workers)
    check_serves(three_workers, upstream)
    before = processes(three_workers)
    os.kill(three_workers.pid, signal.SIGHUP)
    three_workers.wait_for_log("the configuration is not reloaded")
    assert processes(three_workers) == before
    check_serves(three_workers, upstream)
    assert not [path for path in files(three_workers) if KEY.encode() in path.read_bytes()]


def files(gateway: Gateway) -> list[Path]:
    return [path for path in gateway.directory.iterdir() if path.is_file() and path.name != ".env"]


def test_a_table_that_was_accepted_since_the_start_is_the_last_good_one(
    three_workers: Gateway, upstream: ScriptedUpstream
) -> None:
    three_workers.write_channels([upstream.channel(api_key="${A_KEY}", models=["newer"])])
    eventually(lambda: "newer" in three_workers.get("/models").text, "the new table")
    # The master looks once a second, and says nothing of it.
    eventually(lambda: kill_and_ask(three_workers), "a successor that knows it")
    half_a_table(three_workers)
    kill_all(three_workers)
    eventually(lambda: "newer" in models(three_workers), "the models of the last good table")
    assert '"demo"' not in models(three_workers)


def kill_and_ask(gateway: Gateway) -> bool:
    kill_all(gateway)
    return "newer" in models(gateway)


def models(gateway: Gateway) -> str:
    try:
        return gateway.get("/models").text
    except requests.ConnectionError:
        return ""


def test_a_successor_follows_the_file_once_it_is_mended(three_workers: Gateway, upstream: ScriptedUpstream) -> None:
    half_a_table(three_workers)
    kill_all(three_workers)
    three_workers.write_channels([upstream.channel(api_key="${A_KEY}", models=["mended"])])
    eventually(lambda: "mended" in models(three_workers), "the mended table")


def test_a_reload_brings_new_settings_to_all_workers(three_workers: Gateway, upstream: ScriptedUpstream) -> None:
    before = processes(three_workers)
    with (three_workers.directory / ".env").open("a") as env:
        env.write("ANTIPHON_MAX_BODY=2048\n")
    os.kill(three_workers.pid, signal.SIGHUP)
    eventually(lambda: len(found := processes(three_workers)) == 3 and not found & before, "others")
    check_serves(three_workers, upstream)
    assert three_workers.post("/responses", {**BODY, "input": "x" * 3000}).status_code == 413


# --- a database that is away ------------------------------------------------------------------------------------


def test_successors_do_not_wait_for_a_write_lock(three_workers: Gateway, upstream: ScriptedUpstream) -> None:
    with outage(three_workers.database_url):
        kill_all(three_workers)
        eventually(lambda: status(three_workers, "/healthz") == 200, "a worker")
    check_serves(three_workers, upstream)


@pytest.mark.sqlite
def test_successors_wait_for_a_database_that_is_away(three_workers: Gateway, upstream: ScriptedUpstream) -> None:
    file, elsewhere = three_workers.directory / "antiphon.db", three_workers.directory / "elsewhere.db"
    file.rename(elsewhere)
    kill_all(three_workers)
    eventually(lambda: status(three_workers, "/healthz") == 200, "a worker")
    assert "database" in readiness(three_workers)["reasons"]
    before = processes(three_workers)
    os.kill(three_workers.pid, signal.SIGHUP)
    three_workers.wait_for_log("the configuration is not reloaded")
    assert processes(three_workers) == before
    assert not file.exists()
    elsewhere.rename(file)
    eventually(lambda: status(three_workers, "/readyz") == 200, "the database")
    check_serves(three_workers, upstream)


def status(gateway: Gateway, path: str) -> int:
    try:
        return requests.get(gateway.url + path, timeout=20).status_code
    except requests.ConnectionError:
        return 0


def readiness(gateway: Gateway) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = requests.get(gateway.url + "/readyz", timeout=20).json()
    return found


# --- a database of a later version ------------------------------------------------------------------------------

NEXT = len(migrations.STEPS) + 1


def upgrade(gateway: Gateway, *, additive: int) -> None:
    """As a later version would have done it."""
    sql = "INSERT INTO schema_version (version, applied_at, additive) VALUES (?, 0, ?)"
    rows.execute(gateway.database_url, sql, (NEXT, additive))


def test_a_schema_with_additions_counts_as_its_own_while_the_gateway_runs(
    three_workers: Gateway, upstream: ScriptedUpstream
) -> None:
    upgrade(three_workers, additive=1)
    assert readiness(three_workers)["status"] == "ok"
    kill_all(three_workers)
    check_serves(three_workers, upstream)
    assert readiness(three_workers)["status"] == "ok"


def test_a_schema_with_other_changes_stops_no_successor_and_is_logged(
    three_workers: Gateway, upstream: ScriptedUpstream
) -> None:
    upgrade(three_workers, additive=0)
    kill_all(three_workers)
    check_serves(three_workers, upstream)
    assert str(NEXT) in readiness(three_workers)["reasons"]["schema"]


@pytest.mark.sqlite
@pytest.mark.parametrize("additive", [0, 1])
@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_first_start_refuses_a_later_schema(unstarted: Gateway, command: str, additive: int) -> None:
    upgrade(unstarted, additive=additive)
    done = subprocess.run(
        [*COMMAND, command],
        cwd=unstarted.directory,
        env=unstarted.environment,
        capture_output=True,
        text=True,
        timeout=START_WITHIN,
        check=False,
    )
    assert done.returncode == CONFIGURATION
    assert f"schema version {NEXT}" in done.stderr
    assert len(done.stderr.splitlines()) == 2


# --- first starts -----------------------------------------------------------------------------------------------


def by_itself(gateway: Gateway, *options: str) -> list[str]:
    return [sys.executable, "-P", "-m", "gunicorn", *options, "--threads", "4", "--bind", f"127.0.0.1:{gateway.port}"]


@pytest.mark.parametrize("damage", [half_a_table, no_table, a_bad_setting, an_env_that_is_no_text])
@pytest.mark.parametrize("config", ["python:app.server.gunicorn_conf", "deploy/gunicorn.conf.py"])
def test_a_first_start_of_gunicorn_itself_is_refused_with_two_lines(
    unstarted: Gateway, damage: Callable[[Gateway], None], config: str
) -> None:
    damage(unstarted)
    done = subprocess.run(
        [*by_itself(unstarted, "--config", config), "wsgi:application"],
        cwd=ROOT,
        env={**unstarted.environment, "ANTIPHON_HOME": str(unstarted.directory)},
        capture_output=True,
        text=True,
        timeout=START_WITHIN,
        check=False,
    )
    assert done.returncode == CONFIGURATION
    assert "Traceback" not in done.stderr
    assert "antiphon: " in done.stderr


def test_a_new_master_that_is_refused_leaves_the_old_one_alone(
    three_workers: Gateway, upstream: ScriptedUpstream
) -> None:
    good, before = three_workers.channels_file.read_text(), processes(three_workers)
    half_a_table(three_workers)
    os.kill(three_workers.pid, signal.SIGUSR2)
    three_workers.wait_for_log("correct the file, then run: antiphon check")
    assert before <= processes(three_workers)
    check_serves(three_workers, upstream)
    three_workers.channels_file.write_text(good)
    eventually(lambda: another_master(three_workers), "a new master")
    os.kill(three_workers.pid, signal.SIGTERM)
    eventually(lambda: "Master has been promoted" in three_workers.log, "the new one to take over")
    check_serves(three_workers, upstream)
    three_workers.kill()


def another_master(gateway: Gateway) -> bool:
    """The signal is ignored until the refused one has been taken note of."""
    os.kill(gateway.pid, signal.SIGUSR2)
    return len(re.findall(r"Listening at:", gateway.log)) == 2


# --- successors that cannot start -------------------------------------------------------------------------------

BREAKABLE = """
from pathlib import Path
if Path(__file__).with_name("broken").exists():
    raise RuntimeError("it is broken")
from app import create_app
application = create_app()
"""


def test_a_successor_that_cannot_start_is_tried_again_while_the_others_serve(
    unstarted: Gateway, tmp_path: Path
) -> None:
    (tmp_path / "breakable.py").write_text(BREAKABLE)
    command = by_itself(
        unstarted, "--config", "python:app.server.gunicorn_conf", "--workers", "2", "--pythonpath", str(tmp_path)
    )
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [*command, "breakable:application"],
            cwd=ROOT,
            env={**unstarted.environment, "ANTIPHON_HOME": str(unstarted.directory)},
            stderr=log,
            start_new_session=True,
        ) as master,
    ):
        try:
            eventually(lambda: status(unstarted, "/readyz") == 200, "the first workers")
            eventually(lambda: len(booted(tmp_path)) == 2, "both")
            (tmp_path / "broken").touch()
            os.kill(booted(tmp_path)[0], signal.SIGKILL)
            eventually(lambda: "a worker could not be started" in (tmp_path / "log").read_text(), "a failure")
            assert master.poll() is None
            assert status(unstarted, "/healthz") == 200
            (tmp_path / "broken").unlink()
            tried = len(booted(tmp_path))
            eventually(lambda: len(booted(tmp_path)) > tried, "another try")
            os.kill(booted(tmp_path)[1], signal.SIGKILL)
            eventually(lambda: status(unstarted, "/healthz") == 200, "the successor to serve")
        finally:
            os.killpg(master.pid, signal.SIGKILL)


def booted(directory: Path) -> list[int]:
    return [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", (directory / "log").read_text())]
