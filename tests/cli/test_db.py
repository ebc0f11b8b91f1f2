"""antiphon db, beside a gateway that runs or none at all."""

from __future__ import annotations

import os
import pty
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from app.store.store import Store
from tests.conftest import MakeGateway
from tests.databases import Server
from tests.gateway import COMMAND, Gateway
from tests.store import rows
from tests.store.turns import line
from tests.upstream import ScriptedUpstream

USAGE, TRY_AGAIN, CONFIGURATION = 2, 75, 78
DEMO = {"name": "demo", "format": "demo", "models": ["demo"]}


@pytest.fixture
def directory(tmp_path: Path) -> Gateway:
    """A gateway that is not started: its commands and its database, with three turns of a month ago."""
    gateway = Gateway(tmp_path, [DEMO])
    gateway.command("db", "upgrade")
    _old_turns(gateway, 3)
    return gateway


@pytest.fixture
def open_store(directory: Gateway) -> Iterator[Store]:
    store = Store(directory.database_url, peppers=[b"p"])
    yield store
    store.close()


def _old_turns(gateway: Gateway, count: int) -> None:
    store = Store(gateway.database_url, peppers=[b"p"])
    rows.age(gateway.database_url, line(store, count), 40)
    store.close()


# prune


def test_a_dry_run_counts_and_removes_nothing(directory: Gateway, open_store: Store) -> None:
    counts = orjson.loads(directory.command("db", "prune", "--dry-run", "--json"))
    assert (counts["responses"], counts["records"], counts["dry_run"]) == (3, 0, True)
    assert "would remove 3 responses" in directory.command("db", "prune", "--dry-run")
    assert open_store.maintenance.stats()["rows"]["response"] == 3


def test_prune_removes_what_is_past_the_retention(directory: Gateway, open_store: Store) -> None:
    assert directory.command("db", "prune", "--older-than", "6w").startswith("removed 0 responses")
    assert orjson.loads(directory.command("db", "prune", "--json"))["responses"] == 3
    assert open_store.maintenance.stats()["rows"]["response"] == 0


def test_the_retention_is_a_setting(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, [DEMO], retention="60d")
    gateway.command("db", "upgrade")
    _old_turns(gateway, 3)
    assert orjson.loads(gateway.command("db", "prune", "--json"))["responses"] == 0
    assert orjson.loads(gateway.command("db", "prune", "--older-than", "5w", "--json"))["responses"] == 3


@pytest.mark.parametrize(
    ("age", "exit_code"), [("soon", USAGE), ("30", USAGE), ("-3d", USAGE), ("٣d", USAGE), ("1h", CONFIGURATION)]
)
def test_an_age_that_is_none_or_too_short_is_refused(directory: Gateway, age: str, exit_code: int) -> None:
    directory.command("db", "prune", "--older-than", age, exit_code=exit_code)


def test_progress_is_shown_on_a_terminal_only(directory: Gateway) -> None:
    assert b"100%" in _on_terminal(directory, "db", "prune")
    done = subprocess.run(
        [*COMMAND, "db", "prune"], cwd=directory.directory, env=directory.environment, capture_output=True, check=True
    )
    assert done.stderr == b""


def _on_terminal(gateway: Gateway, *arguments: str) -> bytes:
    """What a command says on a terminal that is its stderr."""
    ours, theirs = pty.openpty()
    environment = {**gateway.environment, "TERM": "xterm"}
    subprocess.run([*COMMAND, *arguments], cwd=gateway.directory, env=environment, stderr=theirs, check=True)
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        return terminal.read(65536)


def test_prune_and_stats_work_while_the_gateway_serves(
    gateway: MakeGateway, upstream: ScriptedUpstream, database_url: str
) -> None:
    running = gateway([upstream.channel()], database_url=database_url)
    parent, alone = (running.post("/responses", {"model": "m", "input": "hello"}).json()["id"] for _ in range(2))
    rows.age(database_url, [parent, alone], 40)
    child = running.post("/responses", {"model": "m", "input": "more", "previous_response_id": parent})
    assert orjson.loads(running.command("db", "prune", "--json"))["responses"] == 1
    assert running.get(f"/responses/{alone}").status_code == 404
    again = running.post("/responses", {"model": "m", "input": "more", "previous_response_id": child.json()["id"]})
    assert again.status_code == 200
    assert orjson.loads(running.command("db", "stats", "--json"))["rows"]["response"] == 3


# backup


def test_a_backup_is_a_copy_that_serves(gateway: MakeGateway, upstream: ScriptedUpstream) -> None:
    running = gateway([upstream.channel()])
    response_id = running.post("/responses", {"model": "m", "input": "hello"}).json()["id"]
    file = running.directory / "copy.db"
    assert str(file) in running.command("db", "backup", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    copy = Store(f"sqlite:///{file}", peppers=[b"p"])
    assert copy.responses.read("tests", response_id) is not None
    copy.close()
    assert not list(running.directory.glob("*.part"))
    assert not list(running.directory.glob(".*.part"))


def test_a_file_that_is_there_is_replaced_only_by_force(directory: Gateway) -> None:
    file = directory.directory / "copy.db"
    file.write_text("mine")
    directory.command("db", "backup", "copy.db", exit_code=CONFIGURATION)
    assert file.read_text() == "mine"
    directory.command("db", "backup", "copy.db", "--force")
    assert file.read_bytes().startswith(b"SQLite format 3")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_backup_into_nowhere_is_refused(directory: Gateway) -> None:
    directory.command("db", "backup", "none/copy.db", exit_code=CONFIGURATION)
    directory.command("db", "backup", ".", exit_code=USAGE)


def test_a_backup_of_mysql_names_the_program_that_makes_it(tmp_path: Path, mariadb: Server) -> None:
    gateway = Gateway(tmp_path, [DEMO], database_url=mariadb.url("chat"))
    done = subprocess.run(
        [*COMMAND, "db", "backup", "copy.db"],
        cwd=tmp_path,
        env=gateway.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == CONFIGURATION
    assert "mariadb-dump --single-transaction" in done.stderr
    assert not (tmp_path / "copy.db").exists()


# copy


def test_a_copy_is_the_database_of_the_next_start(directory: Gateway, open_store: Store, mariadb: Server) -> None:
    target = mariadb.new_database()
    open_store.leases.renew()
    directory.command("db", "copy", target, exit_code=CONFIGURATION)
    open_store.leases.end()
    copied = orjson.loads(directory.command("db", "copy", target, "--json"))
    assert (copied["rows"] > 3, copied["differences"]) == (True, [])
    directory.command("db", "copy", target, exit_code=CONFIGURATION)
    directory.set(database_url=target)
    moved = orjson.loads(directory.command("db", "stats", "--json"))
    assert (moved["database"], moved["rows"]["response"]) == ("mysql", 3)
    assert b"100%" in _on_terminal(directory, "db", "copy", "sqlite:///back.db")


def test_a_url_that_names_no_other_database_is_refused_and_not_shown(directory: Gateway) -> None:
    directory.command("db", "copy", directory.database_url, exit_code=CONFIGURATION)
    for url in ("", "redis://secret@host/1", "mysql://root:secret@/", "sqlite:///"):
        refused = directory.attempt("db", "copy", url)
        assert refused.returncode == USAGE
        assert "secret" not in refused.stdout + refused.stderr


# stats


def test_stats_are_a_table_for_people_and_json_for_programs(directory: Gateway) -> None:
    table = {line.split()[0]: line.split()[1:] for line in directory.command("db", "stats").splitlines()}
    assert table["response"] == ["3", "completed", "3"]
    assert table["sqlite"][1] in ("KiB", "MiB")
    found = orjson.loads(directory.command("db", "stats", "--json"))
    assert (found["database"], found["rows"]["response"], found["statuses"]) == ("sqlite", 3, {"completed": 3})


@pytest.mark.parametrize("command", [["prune"], ["stats"], ["backup", "copy.db"]])
def test_without_a_database_the_command_that_makes_it_is_named(tmp_path: Path, command: list[str]) -> None:
    Gateway(tmp_path, [DEMO]).command("db", *command, exit_code=CONFIGURATION)


def test_a_server_that_is_away_is_tried_again_later(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, [DEMO], database_url="mysql://root@127.0.0.1:1/none")
    gateway.command("db", "prune", exit_code=TRY_AGAIN)
