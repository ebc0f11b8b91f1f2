"""antiphon tokens, as a person types it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from app.cli import antiphon

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ANTIPHON_HOME", raising=False)
    for name in ("ANTIPHON_SECRET_KEY", "ANTIPHON_DATABASE_URL", "ANTIPHON_CHANNELS"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> Result:
        return CliRunner().invoke(antiphon, words)

    assert run("init").exit_code == 0
    return run


def test_init_prints_a_token_once_and_keeps_what_is_there(run: Run, tmp_path: Path) -> None:
    again = run("init")
    assert again.exit_code == 0
    assert "ap_" not in again.output
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "antiphon.db").stat().st_mode & 0o777 == 0o600


def test_a_created_token_is_printed_once_and_listed_without_its_secret(run: Run) -> None:
    made = json.loads(run("tokens", "create", "ada-mac", "--owner", "ada", "--models", "gpt-*, demo", "--json").output)
    assert {"id", "name", "token"} <= made.keys()
    assert made["models"] == ["gpt-*", "demo"]
    listed = run("tokens", "list", "--json").output
    assert made["token"] not in listed
    assert [token["name"] for token in json.loads(listed)] == ["admin", "ada-mac"]


def test_a_list_says_when_a_token_expires(run: Run) -> None:
    run("tokens", "create", "ada-mac", "--expires", "2031-02-03")
    head, *rows = run("tokens", "list").output.splitlines()
    assert "expires" in head
    assert ["2031-02-03" in row for row in rows] == [False, True]


def test_a_token_that_is_not_there_cannot_be_revoked(run: Run) -> None:
    refused = run("tokens", "revoke", "nobody")
    assert refused.exit_code == 4
    assert "tokens list" in refused.output


def test_a_token_has_no_tools_but_those_that_it_names_and_the_first_has_all(run: Run) -> None:
    assert json.loads(run("tokens", "create", "plain", "--json").output)["tools"] == []
    run("tokens", "create", "docs", "--tools", "docs, search-*")
    listed = {token["name"]: token["tools"] for token in json.loads(run("tokens", "list", "--json").output)}
    assert listed == {"admin": ["*"], "plain": [], "docs": ["docs", "search-*"]}
    head, admin, plain, docs = run("tokens", "list").output.splitlines()
    assert head.endswith("tools")
    assert [line.split()[-1] for line in (admin, plain)] == ["*", "-"]
    assert docs.endswith("docs, search-*")


@pytest.mark.parametrize("option", ["--models", "--tools"])
@pytest.mark.parametrize("names", ["", " ", ",", "gpt-*, ,", "gpt-*,", ",gpt-*"])
def test_an_empty_name_in_a_list_is_a_usage_error_and_makes_no_token(run: Run, option: str, names: str) -> None:
    refused = run("tokens", "create", "ada-mac", option, names)
    assert refused.exit_code == 2
    assert option in refused.output
    assert [token["name"] for token in json.loads(run("tokens", "list", "--json").output)] == ["admin"]


@pytest.mark.parametrize(
    "words",
    [
        ("tokens", "create", "x", "--owner", ""),
        ("tokens", "create", "x", "--expires", ""),
        ("tokens", "create", "x", "--expires", "2020-01-01"),
        ("tokens", "create", "x", "--expires", "0s"),
        ("channels", "test", "--model", ""),
        ("connect", "python", "--model", ""),
        ("connect", "python", "--url", " "),
        ("connect", "python", "--token", ""),
        ("usage", "--since", ""),
        ("db", "prune", "--older-than", ""),
    ],
)
def test_an_empty_option_is_a_usage_error_and_not_its_default(run: Run, words: tuple[str, ...]) -> None:
    refused = run(*words)
    assert refused.exit_code == 2
    assert words[-2] in refused.output


def test_every_option_that_takes_text_refuses_an_empty_one() -> None:
    """So that a new option cannot be forgotten: a plain string would take an empty one."""
    plain = [
        (path, option.name)
        for path, command in _commands(antiphon, ())
        for option in command.params
        if isinstance(option, click.Option) and option.type is click.STRING
    ]
    assert plain == []


def _commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _commands(below, (*path, name))


def test_the_console_says_why_a_token_gets_no_link(run: Run) -> None:
    assert run("tokens", "create", "plain").exit_code == 0
    for name, sentence in (("nope", "There is no token 'nope'."), ("plain", "'plain' has no right to the console.")):
        assert sentence in str(run("console", "--token", name).exception)
    assert run("console", "--token", "admin").exit_code == 0


def test_no_name_forges_a_line(run: Run) -> None:
    for name in ("two\nlines", "esc\x1b[31m", "tab\tbed", "line\u2028separator"):
        for words in ((name,), ("x", "--owner", name)):
            refused = run("tokens", "create", *words)
            assert refused.exit_code == 1
            assert name not in refused.output
    assert [row["name"] for row in json.loads(run("tokens", "list", "--json").output)] == ["admin"]


def test_the_name_of_a_revoked_token_is_free_for_another(run: Run) -> None:
    first = json.loads(run("tokens", "create", "ada-mac", "--json").output)
    assert run("tokens", "create", "ada-mac").exit_code == 1
    assert run("tokens", "revoke", "ada-mac").exit_code == 0
    second = run("tokens", "create", "ada-mac", "--json")
    assert second.exit_code == 0
    listed = {token["id"]: token["name"] for token in json.loads(run("tokens", "list", "--json").output)}
    assert listed[json.loads(second.output)["id"]] == "ada-mac"
    assert listed[first["id"]].startswith("ada-mac (revoked")


def test_an_expiry_is_a_duration_or_a_date(run: Run) -> None:
    soon = json.loads(run("tokens", "create", "a", "--expires", "12h", "--json").output)
    assert abs(soon["expires_at"] - time.time() - 12 * 3600) < 60
    dated = json.loads(run("tokens", "create", "b", "--expires", "2100-01-01", "--json").output)
    assert dated["expires_at"] == 4102444800
    assert run("tokens", "create", "c", "--expires", "soon").exit_code == 2


def test_revoking_says_what_it_did(run: Run) -> None:
    run("tokens", "create", "a")
    assert run("tokens", "revoke", "a").exit_code == 0
    assert run("tokens", "revoke", "nobody").exit_code == 4
    assert "revoked" in run("tokens", "list").output


def limits_of(run: Run, name: str) -> object:
    listed = json.loads(run("tokens", "list", "--json").output)
    return next(token["limits"] for token in listed if token["name"] == name)


def test_limits_are_stated_changed_lifted_and_returned_to_the_default(run: Run) -> None:
    words = ("--rpm", "60", "--tpm", "none", "--budget", "2Mtok/day, 50usd/month")
    made = json.loads(run("tokens", "create", "ada", *words, "--json").output)
    assert made["limits"] == limits_of(run, "ada") == {"rpm": 60, "tpm": 0, "budget": ["2Mtok/day", "50usd/month"]}
    assert "60 rpm, no tpm, 2Mtok/day, 50usd/month" in run("tokens", "list").output
    run("tokens", "update", "ada", "--tpm", "default", "--concurrency", "4", "--budget", "none")
    assert limits_of(run, "ada") == {"rpm": 60, "concurrency": 4, "budget": []}
    run("tokens", "update", "ada", "--budget", "default")
    assert limits_of(run, "ada") == {"rpm": 60, "concurrency": 4}


def test_an_update_changes_what_its_options_name(run: Run) -> None:
    run("tokens", "create", "ada", "--models", "small", "--tools", "docs", "--expires", "2031-02-03")
    words = ("--models", "*", "--tools", "none", "--expires", "never", "--no-store", "--json")
    changed = json.loads(run("tokens", "update", "ada", *words).output)
    assert [changed[name] for name in ("models", "tools", "expires_at", "store")] == [[], [], None, False]
    again = json.loads(run("tokens", "update", "ada", "--store", "--models", "a, b*", "--json").output)
    assert [again[name] for name in ("models", "tools", "expires_at", "store")] == [["a", "b*"], [], None, True]
    missing = run("tokens", "update", "bob", "--rpm", "1")
    assert (missing.exit_code, "tokens list" in missing.output) == (4, True)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--rpm", "0"),
        ("--rpm", "-1"),
        ("--tpm", "many"),
        ("--concurrency", ""),
        ("--budget", "50"),
        ("--budget", ""),
        ("--budget", "1usd/day,2usd/day"),
        ("--rpm", "1.5"),
        ("--rpm", "٣"),
    ],
)
def test_a_limit_that_is_none_is_a_usage_error(run: Run, wrong: tuple[str, str]) -> None:
    assert run("tokens", "create", "ada", *wrong).exit_code == 2


def test_a_rotated_token_keeps_its_name_and_rights(run: Run) -> None:
    made = json.loads(run("tokens", "create", "ada-mac", "--models", "demo", "--json").output)
    rotated = json.loads(run("tokens", "rotate", "ada-mac", "--json").output)
    assert rotated["token"] != made["token"]
    assert (rotated["id"], rotated["name"], rotated["models"]) == (made["id"], "ada-mac", ["demo"])
    assert abs(rotated["old_secret_until"] - time.time() - 86_400) < 60
    listed = run("tokens", "list", "--json").output
    assert rotated["token"] not in listed
    assert json.loads(listed)[1]["old_secret_until"] == rotated["old_secret_until"]
    assert "active, old secret until" in run("tokens", "list").output
    ended = run("tokens", "rotate", "ada-mac", "--overlap", "0s")
    assert ended.output.startswith("ap_")
    assert "ends within two seconds" in ended.output
    assert "old secret" not in run("tokens", "list").output


def test_a_token_that_is_not_there_cannot_be_rotated(run: Run) -> None:
    assert run("tokens", "rotate", "nobody").exit_code == 4
    for overlap in ("", "soon", "1", "-1h", "91d"):
        assert run("tokens", "rotate", "admin", "--overlap", overlap).exit_code == 2


def test_a_retention_is_stated_changed_and_given_up(run: Run) -> None:
    made = json.loads(run("tokens", "create", "ada", "--retention", "7d", "--json").output)
    assert made["retention"] == 7 * 86_400
    assert json.loads(run("tokens", "update", "ada", "--retention", "2w", "--json").output)["retention"] == 14 * 86_400
    assert json.loads(run("tokens", "update", "ada", "--expires", "9d", "--json").output)["retention"] == 14 * 86_400
    assert json.loads(run("tokens", "update", "ada", "--retention", "default", "--json").output)["retention"] is None
    for wrong in ("", "1h", "soon", "7", "-7d", "99999999w"):
        assert run("tokens", "update", "ada", "--retention", wrong).exit_code == 2
