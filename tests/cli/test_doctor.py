"""antiphon doctor, on directories that lack something."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from tests.cli.test_init import left_running
from tests.conftest import MakeGateway
from tests.gateway import COMMAND, Gateway
from tests.ports import closed_port
from tests.relay.conftest import eventually
from tests.upstream import ScriptedUpstream

FAILED, CONFIGURATION = 1, 78
DEMO = {"name": "demo", "format": "demo", "models": ["demo"]}
KEYLESS = {
    "name": "keyless",
    "format": "responses",
    "base_url": "http://127.0.0.1:1/v1",
    "api_key": "${A_KEY_THAT_IS_NOT_SET}",
    "models": ["m"],
}


def _found(gateway: Gateway, exit_code: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = orjson.loads(gateway.command("doctor", "--json", exit_code=exit_code))
    return found


def _messages(found: list[dict[str, Any]], grade: str) -> str:
    return "\n".join(f"{line['subject']}: {line['text']} {line['fix']}" for line in found if line["grade"] == grade)


def test_a_gateway_that_runs_is_well(gateway: MakeGateway, database_url: str) -> None:
    running = gateway([DEMO], database_url=database_url)
    found = _found(running)
    assert _messages(found, "problem") == ""
    assert f"ready on 127.0.0.1:{running.port}" in _messages(found, "ok")
    assert "2 tokens" in _messages(found, "ok")
    assert all(line.startswith(("ok ", "warning ")) for line in running.command("doctor").splitlines())


def _console(gateway: Gateway, **settings: str) -> str:
    gateway.set(**settings)
    (line,) = [line for line in _found(gateway) if line["subject"] == "console"]
    return f"{line['grade']}: {line['text']} {line['fix'] or ''}".rstrip()


def test_the_console_is_on_for_whom_and_where(gateway: MakeGateway) -> None:
    running = gateway([DEMO])
    local = running.url
    assert _console(running) == f"ok: on, at {local}/console"
    assert _console(running, url=f"{local}/v1") == f"ok: on, and reached at {local}/console"
    plain = _console(running, url="http://antiphon.internal/v1")
    assert plain.startswith("warning: on, and http://antiphon.internal/console is not https")
    away = _console(running, url=f"https://127.0.0.1:{closed_port()}/v1")
    assert "cannot be reached from here (Connection refused)" in away
    assert _console(running, url=f"{local}/elsewhere/v1").startswith(
        f"warning: on, but {local}/elsewhere/console/sign-in"
    )
    running.command("tokens", "update", "admin", "--console", "none")
    assert "tokens create NAME --console operator" in _console(running, url=f"{local}/v1")
    assert _console(running, console="off") == "ok: off, by ANTIPHON_CONSOLE"


def test_a_database_without_its_schema_is_named_with_the_command(tmp_path: Path) -> None:
    directory = Gateway(tmp_path, [DEMO])
    assert "antiphon db upgrade" in _messages(_found(directory, CONFIGURATION), "problem")


def test_a_database_that_is_away_is_a_problem(tmp_path: Path) -> None:
    directory = Gateway(tmp_path, [DEMO], database_url="mysql://root:canary@127.0.0.1:1/none")
    problems = _messages(_found(directory, FAILED), "problem")
    assert problems.startswith("database: it does not answer")
    assert "canary" not in problems


def _until_known(running: Gateway) -> None:
    """A worker writes its status within a second of its start."""
    command = ("doctor", "--json")
    eventually(lambda: "on this database" in running.attempt(*command).stdout, "the worker to be known")


def test_a_server_that_was_started_with_another_address_is_found(gateway: MakeGateway) -> None:
    running = gateway([DEMO])
    address = f"127.0.0.1:{running.port}"
    port = closed_port()
    running.set(bind=f"127.0.0.1:{port}", channels=f"{running.directory}/other.yaml")
    (running.directory / "other.yaml").write_text(running.channels_file.read_text())
    _until_known(running)
    found = _found(running, FAILED)
    assert f"the server on {address} was started with another ANTIPHON_BIND" in _messages(found, "warning")
    assert f"the server on {address} reads {running.channels_file}, not {running.directory}/other.yaml" in _messages(
        found, "warning"
    )
    assert f"the server on {address} was started with another ANTIPHON_CHANNELS" in _messages(found, "problem")
    assert f"no server answers on 127.0.0.1:{port} (Connection refused)" in _messages(found, "ok")


def test_a_server_on_another_database_or_with_another_key_is_detected(gateway: MakeGateway) -> None:
    running = gateway([DEMO])
    _until_known(running)
    running.set(database_url=f"sqlite:///{running.directory}/another.db")
    running.command("db", "upgrade")
    found = _found(running, FAILED)
    assert "was started with another ANTIPHON_DATABASE_URL" in _messages(found, "problem")
    running.set(database_url=running.database_url, secret_key="another-secret-key-of-thirty-two-characters")
    problems = _messages(_found(running, FAILED), "problem")
    assert "with another ANTIPHON_SECRET_KEY: tokens made here do not work there" in problems
    assert "was started with another ANTIPHON_SECRET_KEY" in problems
    assert "another-secret" not in problems


def test_options_of_the_command_line_are_shown_by_the_server(gateway: MakeGateway, tmp_path: Path) -> None:
    running = gateway([DEMO])
    running.stop()
    address = f"unix:{tmp_path}/a.sock"
    with left_running([*COMMAND, "serve", "--bind", address], tmp_path, running.environment):
        command = ("doctor", "--json")
        eventually(lambda: f"ready on {address}" in running.attempt(*command).stdout, "the server to be found")
        assert f"the server on {address} was started with another ANTIPHON_BIND or --bind" in _messages(
            _found(running), "warning"
        )


def test_another_program_on_the_address_is_not_taken_for_the_gateway(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    directory = Gateway(tmp_path, [DEMO], bind=f"127.0.0.1:{urlsplit(upstream.base_url).port}")
    directory.command("init")
    assert "is not this version of Antiphon" in _messages(_found(directory, FAILED), "problem")


def test_a_missing_server_is_reported_with_its_remedy(tmp_path: Path) -> None:
    directory = Gateway(tmp_path, [DEMO])
    directory.command("init")
    warnings = _messages(_found(directory), "warning")
    assert f"no server answers on 127.0.0.1:{directory.port} (Connection refused) run antiphon serve" in warnings


@pytest.fixture
def prepared(tmp_path: Path) -> Gateway:
    directory = Gateway(tmp_path, [DEMO, KEYLESS], thredds=8, url="https://127.0.0.1:1/v1")
    directory.command("init")
    return directory


def test_a_state_that_only_waits_is_a_warning(prepared: Gateway) -> None:
    warnings = _messages(_found(prepared), "warning")
    assert "A_KEY_THAT_IS_NOT_SET" in warnings
    assert "ANTIPHON_THREDDS is set but has no effect did you mean ANTIPHON_THREADS?" in warnings
    assert warnings.count("has no effect") == 1


def test_tokens_and_the_backup_are_looked_at(prepared: Gateway, tmp_path: Path) -> None:
    prepared.command("tokens", "create", "short", "--expires", "3d")
    prepared.command("tokens", "create", "long", "--expires", "90d")
    warnings = _messages(_found(prepared), "warning")
    assert "short expires on" in warnings
    assert "long expires" not in warnings
    assert "The backup" not in warnings
    if prepared.database_url.startswith("sqlite"):
        prepared.command("db", "backup", str(tmp_path / "no-such-folder" / "copy.db"), exit_code=78)
        assert "The backup has failed on" in _messages(_found(prepared), "warning")
        prepared.command("db", "backup", str(tmp_path / "copy.db"))
        assert "The backup" not in _messages(_found(prepared), "warning")


def test_settings_that_all_users_can_read_are_a_problem(prepared: Gateway) -> None:
    (prepared.directory / ".env").chmod(0o644)
    assert "chmod o-r" in _messages(_found(prepared, FAILED), "problem")


def test_a_table_without_a_usable_channel_is_a_matter_of_configuration(prepared: Gateway) -> None:
    prepared.write_channels([KEYLESS])
    assert "0 in use" in _messages(_found(prepared, CONFIGURATION), "problem")
    prepared.write_channels([{"name": "broken", "format": "responses"}])
    assert _messages(_found(prepared, CONFIGURATION), "problem").count("channels.yaml:") == 2


def test_wrong_settings_are_the_only_finding(tmp_path: Path) -> None:
    directory = Gateway(tmp_path, [DEMO], workers="many")
    assert _messages(_found(directory, CONFIGURATION), "problem").startswith("settings: ANTIPHON_WORKERS")


def test_few_file_descriptors_are_a_warning(tmp_path: Path) -> None:
    directory = Gateway(tmp_path, [DEMO], threads=10_000_000)
    directory.command("init")
    assert "LimitNOFILE=20000128" in _messages(_found(directory), "warning")
