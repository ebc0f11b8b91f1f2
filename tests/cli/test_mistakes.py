"""What a start says of a setting that cannot be right: two lines, the cause and the fix, and exit code 78 at once."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from tests.gateway import Gateway

CONFIGURATION = 78
DEMO = {"name": "demo", "format": "demo", "models": ["demo"]}


def output_lines(directory: Gateway, *words: str) -> list[str]:
    """The lines on standard error of a command that ends with 78."""
    done = directory.attempt(*words)
    assert done.returncode == CONFIGURATION, done.stdout + done.stderr
    return done.stderr.splitlines()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "text.db").write_text("no database, some words only")
    return tmp_path


@pytest.mark.parametrize(
    ("setting", "value", "cause"),
    [
        ("bind", "127.0.0.1:99999", "ANTIPHON_BIND is '127.0.0.1:99999'"),
        ("bind", "8462", "ANTIPHON_BIND is '8462'"),
        ("bind", "127.0.0.1", "ANTIPHON_BIND is '127.0.0.1'"),
        ("bind", "no-such-host.invalid:8080", "cannot listen on no-such-host.invalid:8080"),
        ("bind", "192.0.2.1:8080", "cannot listen on 192.0.2.1:8080: Cannot assign requested address"),
        ("channels", "none.yaml", "none.yaml:1:1: cannot be read: No such file or directory"),
        ("channels", ".", "is not a file"),
        ("channels", "loop", "ANTIPHON_CHANNELS is a link that leads back to itself"),
        ("database_url", "sqlite:///loop", "ANTIPHON_DATABASE_URL is a link that leads back to itself"),
        ("home", "loop", "ANTIPHON_HOME is a link that leads back to itself"),
        ("database_url", "foo", "ANTIPHON_DATABASE_URL begins with neither"),
        ("database_url", "mysql://u:canary@no-such-host.invalid/x", "the host 'no-such-host.invalid'"),
        ("database_url", "mysql://u:canary@127.0.0.1", "ANTIPHON_DATABASE_URL names no database"),
        ("queue_url", "redis://no-such-host.invalid", "the host 'no-such-host.invalid'"),
        ("home", "none", "ANTIPHON_HOME is"),
    ],
)
def test_a_start_refuses_it(here: Path, setting: str, value: str, cause: str) -> None:
    directory = Gateway(here, [DEMO])
    directory.command("init")
    directory.set(**{setting: value})
    *_, first, fix = output_lines(directory, "serve")
    assert first.startswith("antiphon: ")
    assert cause in first
    assert fix.startswith("  ")
    assert "canary" not in first + fix


def test_a_port_in_use_is_named(here: Path) -> None:
    directory = Gateway(here, [DEMO])
    directory.command("init")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        directory.set(bind=f"127.0.0.1:{port}")
        assert output_lines(directory, "serve")[0] == f"antiphon: port {port} is in use"


@pytest.mark.parametrize("words", [("serve",), ("tokens", "list"), ("db", "upgrade"), ("worker",), ("init",)])
@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("none/x.db", "there is no directory"),
        ("folder.db", "which is not a file"),
        ("text.db", "which is not a SQLite database"),
    ],
)
def test_every_command_names_the_file_of_a_database_that_cannot_be(
    here: Path, words: tuple[str, ...], name: str, cause: str
) -> None:
    first, fix = output_lines(Gateway(here, [DEMO], database_url=f"sqlite:///{here}/{name}"), *words)[-2:]
    assert f"ANTIPHON_DATABASE_URL names {here}/{name}" in first
    assert cause in first
    assert fix
    assert not (here / "none").exists()


@pytest.mark.parametrize("words", [("tokens", "list"), ("tokens", "create", "x"), ("tokens", "revoke", "x")])
def test_a_database_without_a_schema_is_an_error_that_names_the_command(here: Path, words: tuple[str, ...]) -> None:
    lines = output_lines(Gateway(here, [DEMO]), *words)
    assert "schema version 0" in lines[0]
    assert "db upgrade" in lines[1]


def test_a_bind_on_the_command_line_is_a_matter_of_usage(here: Path) -> None:
    directory = Gateway(here, [DEMO])
    directory.command("init")
    for bind in ("127.0.0.1:99999", "8462", ""):
        done = directory.attempt("serve", "--bind", bind)
        assert done.returncode == 2
        assert "--bind" in done.stderr


@pytest.mark.parametrize(
    ("words", "meant"),
    [(("token", "list"), "tokens"), (("tokens", "crate", "x"), "create"), (("db", "upgarde"), "upgrade")],
)
def test_a_mistyped_command_gets_the_nearest_one(here: Path, words: tuple[str, ...], meant: str) -> None:
    done = Gateway(here, [DEMO]).attempt(*words)
    assert done.returncode == 2
    assert f"Did you mean '{meant}'?" in done.stderr


def test_a_model_without_a_channel_gets_the_nearest_one(here: Path) -> None:
    directory = Gateway(here, [DEMO])
    for model, hint in (("demmo", "did you mean 'demo'?"), ("gpt-6-sol", "antiphon models")):
        done = directory.attempt("route", model)
        assert done.returncode == 4
        assert hint in done.stderr


def test_the_counts_of_a_database_stand_under_each_other(here: Path) -> None:
    directory = Gateway(here, [DEMO])
    directory.command("init")
    first, *lines = directory.command("db", "stats").splitlines()
    ends = {match.end() for line in lines if (match := re.match(r"\w+ +[\d,]+", line))}
    assert ends == {len(first)}
