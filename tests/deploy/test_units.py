"""The units and the README: right for systemd, closed enough, and naming nothing that does not exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from app.channels import table
from app.channels.watched_table import stamp_of
from app.cli import antiphon, context
from app.errors import ConfigurationError
from app.server import gunicorn_conf
from app.settings import DAY, Settings
from tests.deploy.conftest import DEPLOY, UNITS
from tests.gateway import COMMAND, ROOT

INSTALLED = "/opt/antiphon/current/bin/antiphon"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
#: Folders of files that are no text.
NO_TEXT = {"__pycache__", "screenshots"}
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and NO_TEXT.isdisjoint(path.parts))
README = (DEPLOY / "README.md").read_text()
DEFAULTS = Settings(channels=Path("/etc/antiphon/channels.yaml"), database_url="", secret_key="")
#: systemd's unit of exposure is a tenth: 2.0.
EXPOSURE = 20


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units with the command where it is on this machine."""
    directory = tmp_path_factory.mktemp("units")
    command = directory / "antiphon"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    for unit in UNITS.iterdir():
        (directory / unit.name).write_text(unit.read_text().replace(INSTALLED, str(command)))
    return directory


def test_systemd_finds_nothing_to_complain_of_in_the_units(units: Path) -> None:
    files = [str(unit) for unit in units.iterdir() if unit.name != "antiphon"]
    output = systemd_analyze("verify", "--man=no", *files, SYSTEMD_UNIT_PATH=f"{units}:")
    assert output == ""


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_hardly_exposed(units: Path, service: str) -> None:
    systemd_analyze("security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(units / service))


def test_all_services_share_one_sandbox() -> None:
    texts = [(UNITS / service).read_text() for service in SERVICES]
    assert len({re.findall(r"^NoNewPrivileges=.*?^UMask=\d+$", text, re.M | re.S)[0] for text in texts}) == 1


@pytest.mark.parametrize("timer", sorted(path.stem for path in UNITS.glob("*.timer")))
def test_a_timer_has_its_service(timer: str) -> None:
    assert f"{timer}.service" in SERVICES


def test_streams_get_their_time_before_systemd_kills() -> None:
    stop = int(_setting("antiphon.service", "TimeoutStopSec"))
    assert gunicorn_conf.DRAIN_RESERVE < gunicorn_conf.graceful_timeout < stop


def test_systemd_waits_until_the_background_workers_have_ended() -> None:
    """The master waits for them as long as that, and what it leaves behind systemd kills."""
    assert gunicorn_conf.graceful_timeout + gunicorn_conf.DRAIN_RESERVE < int(
        _setting("antiphon.service", "TimeoutStopSec")
    )
    assert DEFAULTS.drain + gunicorn_conf.DRAIN_RESERVE < int(_setting("antiphon-worker.service", "TimeoutStopSec"))
    assert _setting("antiphon.service", "KillMode") == "mixed"


@pytest.mark.parametrize("service", ["antiphon.service", "antiphon-worker.service"])
def test_systemd_starts_again_after_every_exit_but_that_of_a_wrong_configuration(service: str) -> None:
    assert _setting(service, "Restart") == "always"
    assert _setting(service, "RestartPreventExitStatus") == str(ConfigurationError.exit_code)
    assert ConfigurationError.exit_code == context.CONFIGURATION


def test_a_start_goes_on_when_the_database_is_away() -> None:
    (upgrade,) = re.findall(r"^ExecStartPre=.*db upgrade.*$", _read("systemd/antiphon.service"), re.M)
    assert f"test $$? -eq {context.TRY_AGAIN}'" in upgrade


def test_nginx_waits_longer_than_any_channel_may_take_by_default() -> None:
    silence = int(_directive("proxy_read_timeout").removesuffix("s"))
    assert silence > table.Timeouts().total
    assert f"nginx tolerates is {silence} seconds" in README
    assert DEFAULTS.heartbeat < silence


def test_nginx_takes_what_the_gateway_takes_and_holds_nothing_back() -> None:
    assert _directive("client_max_body_size") == f"{DEFAULTS.max_body >> 20}m"
    assert f"The largest body is {DEFAULTS.max_body >> 20} MiB" in README
    for name in ("proxy_buffering", "proxy_cache", "gzip"):
        assert _directive(name) == "off"
    assert _directive("proxy_request_buffering") == "on"
    assert "non_idempotent" not in _directive("proxy_next_upstream")


def test_the_readme_promises_what_the_units_and_settings_say() -> None:
    grace = gunicorn_conf.graceful_timeout - gunicorn_conf.DRAIN_RESERVE
    assert grace == DEFAULTS.drain
    promises = [
        f"may finish within {grace} seconds",
        f"they wait up to {gunicorn_conf.graceful_timeout} seconds",
        f"run {2 * DEFAULTS.max_in_flight} requests at the same time",
        f"up to {DEFAULTS.max_sockets} WebSockets",
        f"removes responses older than {DEFAULTS.retention // DAY} days",
        f"may take {_setting('antiphon.service', 'MemoryMax')} of the machine's memory",
        f"| {context.CONFIGURATION} | antiphon | an error in the configuration",
        f"| {context.TRY_AGAIN} | antiphon | the database does not answer",
        f"Pruning** runs at {_time('antiphon-prune.timer')}",
        f"Backups** run at {_time('antiphon-backup.timer')}",
        f"are kept for {_days_of_backups()} days",
    ]
    flat = " ".join(README.split())
    assert [promise for promise in promises if promise not in flat] == []
    service = "antiphon.service"
    assert (_setting(service, "StartLimitBurst"), _setting(service, "StartLimitIntervalSec")) == ("5", "120")
    assert "systemd gives up after five attempts within two minutes" in flat


def test_the_files_have_the_owners_and_modes_of_the_readme() -> None:
    socket, service = "antiphon.socket", "antiphon.service"
    owner = f"{_setting(socket, 'SocketUser')}:{_setting(socket, 'SocketGroup')} {_setting(socket, 'SocketMode')}"
    assert re.search(rf"`{_setting(socket, 'ListenStream')}` \|.*\| {owner} \|", README)
    state = f"{_setting(service, 'User')} {_setting(service, 'StateDirectoryMode')}"
    assert re.search(rf"`/var/lib/{_setting(service, 'StateDirectory')}` \|.*\| {state} \|", README)


def test_the_limits_of_the_service_are_above_what_its_settings_need() -> None:
    threads = DEFAULTS.workers * DEFAULTS.threads + DEFAULTS.worker_threads
    assert threads < int(_setting("antiphon.service", "TasksMax"))
    assert 4 * DEFAULTS.threads < int(_setting("antiphon.service", "LimitNOFILE"))


def test_the_example_of_the_settings_shows_the_defaults() -> None:
    shown = dict(re.findall(r"^#?ANTIPHON_(WORKERS|THREADS|WORKER_THREADS)=(\d+)$", _read("env.example"), re.M))
    assert shown == {name: str(getattr(DEFAULTS, name.lower())) for name in shown}
    assert len(shown) == 3


def test_nginx_lets_go_of_a_connection_before_gunicorn_does() -> None:
    idle = re.search(r"upstream antiphon \{.*?keepalive_timeout (\d+)s;", _read("nginx/antiphon.conf"), re.S)
    assert idle is not None
    assert int(idle[1]) < gunicorn_conf.keepalive


def test_nginx_and_systemd_mean_the_same_socket() -> None:
    assert f"server unix:{_setting('antiphon.socket', 'ListenStream')} " in _read("nginx/antiphon.conf")


def test_the_service_may_write_the_stamp_that_a_reload_touches() -> None:
    stamp = stamp_of(Path("/etc/antiphon/channels.yaml"))
    assert _setting("antiphon.service", "ReadWritePaths") == f"-{stamp}"
    assert f" /dev/null {stamp}\n" in README


def test_gunicorn_takes_the_shipped_file(tmp_path: Path) -> None:
    environment = {**os.environ, "ANTIPHON_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([*COMMAND, "init"], cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=60)
    with (tmp_path / ".env").open("a") as file:
        file.write("ANTIPHON_BIND=127.0.0.1:18999\nANTIPHON_WORKERS=3\nANTIPHON_THREADS=40\n")
    command = [sys.executable, "-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "--print-config", "wsgi:application"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    values = dict(re.findall(r"^(\w+) += (.*)$", done.stdout, re.M))
    assert values["bind"] == "['127.0.0.1:18999']"
    assert (values["workers"], values["threads"], values["worker_connections"]) == ("3", "40", "296")
    assert (values["worker_class"], values["max_requests"]) == ("app.server.gunicorn_worker.PatientWorker", "0")
    assert values["control_socket_disable"] == "True"
    assert "post_worker_init" in values["post_worker_init"]


# --- nothing is named that does not exist -----------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_variable_named_in_deploy_exists(file: Path) -> None:
    known = set(re.findall(r"ANTIPHON_[A-Z_]+", "".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))))
    named = {name.removesuffix("_FILE") for name in re.findall(r"ANTIPHON_[A-Z_]+", file.read_text())}
    assert named <= known


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_command_named_in_deploy_exists(file: Path) -> None:
    for words in _commands(file):
        _check_command(words)


def test_the_units_run_what_they_are_there_for() -> None:
    started = [" ".join(words[:2]) for service in SERVICES for words in _commands(UNITS / service)]
    assert {"check", "db upgrade", "serve", "reload", "db prune", "db backup"} <= set(map(_without_options, started))


def test_the_readme_names_only_files_and_units_that_exist() -> None:
    paths = {path.rstrip("*.") for path in re.findall(r"\bdeploy/[\w./*-]+", README)}
    assert [path for path in sorted(paths) if not list(ROOT.glob(f"{path}*"))] == []
    units = set(re.findall(r"\bantiphon[\w-]*\.(?:service|socket|timer)\b", README))
    assert units <= {unit.name for unit in UNITS.iterdir()}


def test_the_commands_of_the_readme_are_shell(tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S)
    assert blocks
    done = subprocess.run(["sh", "-n"], input="\n".join(blocks), capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")


def systemd_analyze(*arguments: str, **variables: str) -> str:
    """What it says; a machine without it cannot test the units, which is a failure."""
    command = shutil.which("systemd-analyze")
    assert command, "systemd-analyze is missing: .ci/packages installs it"
    done = subprocess.run(
        [command, *arguments], env={**os.environ, **variables}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _read(name: str) -> str:
    return (DEPLOY / name).read_text()


def _setting(unit: str, name: str) -> str:
    found = re.findall(rf"^{name}=(.*)$", (UNITS / unit).read_text(), re.M)
    assert len(found) == 1
    return str(found[0])


def _directive(name: str) -> str:
    """Of the nginx site, where it stands once."""
    found = re.findall(rf"^ *{name} +([^;]+);", _read("nginx/antiphon.conf"), re.M)
    assert len(found) == 1
    return str(found[0])


def _time(timer: str) -> str:
    return _setting(timer, "OnCalendar").split()[-1]


def _days_of_backups() -> str:
    (days,) = re.findall(r"-mtime \+(\d+) -delete", _read("systemd/antiphon-backup.service"))
    return str(days)


def _commands(file: Path) -> Iterator[list[str]]:
    """The arguments of each `antiphon …` that the file runs or, in backquotes, speaks of."""
    text = file.read_text()
    if file.suffix == ".md":
        text = "\n".join([*re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S), *re.findall(r"`([^`\n]+)`", text)])
    for call in re.findall(r"(?:^|sudo |bin/|`)antiphon ((?:--?)?[a-z][^\n`'|#;]*)", text, re.M):
        yield shlex.split(call.replace('"', ""))


def _check_command(words: list[str]) -> None:
    command: click.Command = antiphon
    for word in words:
        if word.startswith("--"):
            assert word in {name for option in command.params for name in option.opts}, words
        elif isinstance(command, click.Group):
            found = command.get_command(click.Context(command), word)
            assert found is not None, words
            command = found


def _without_options(call: str) -> str:
    return call.partition(" --")[0]
