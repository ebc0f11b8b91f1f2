"""antiphon config show: every value in effect, where it comes from, and no secret."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from app import settings
from app.cli import antiphon
from app.settings import Settings, variable_of
from tests.channels.tables import DEMO

Run = Callable[..., Result]
JSON = dict[str, Any]

CANARY = "canary-7f3a91"
SECRET = f"{CANARY}-0123456789-0123456789"

TABLE = f"""\
version: 1
defaults:
  timeout: {{connect: 2s}}
  cooldown: {{after: 3}}
channels:
  - name: openai
    format: responses
    base_url: https://api.openai.com/v1
    api_key: ${{OPENAI_API_KEY}}
    models: [gpt-6-sol, "gpt-6-*"]
    headers: {{X-Team: {CANARY}, X-Key: "Bearer ${{OPENAI_API_KEY}}", X-Default: "${{NOT_SET:-{CANARY}}}"}}
    params: {{set: {{reasoning_effort: low, user: "${{OPENAI_API_KEY}}", extra: {{api_key: {CANARY}}}}}}}
    weight: ${{WEIGHT}}
    timeout: {{idle: 5m}}
  - name: literal
    format: chat_completions
    base_url: http://127.0.0.1:1/v1
    api_key: {CANARY}
    models: [m]
    timeout: 10m
  - name: filed
    format: chat_completions
    base_url: http://127.0.0.1:1/v1
    api_key_file: secret.key
    models: [m]
models:
  m: {{context_window: 1000}}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    for field in dataclasses.fields(Settings):
        for name in (variable_of(field.name), f"{variable_of(field.name)}_FILE"):
            monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text(f"ANTIPHON_SECRET_KEY={SECRET}\n")
    (tmp_path / "channels.yaml").write_text(DEMO)

    def run(*words: str, **environment: str) -> Result:
        return CliRunner().invoke(antiphon, ["config", "show", *words], env=environment, catch_exceptions=False)

    return run


def _by_name(shown: Result, part: str) -> Mapping[str, tuple[Any, str]]:
    assert shown.exit_code == 0, shown.output
    return {row["name"]: (row["value"], row["origin"]) for row in json.loads(shown.output)[part]}


# --- settings ---------------------------------------------------------------------------------------------------


def test_every_setting_is_shown_with_the_variable_that_is_read_for_it(run: Run) -> None:
    shown = _by_name(run("--json"), "settings")
    assert shown.keys() == {variable_of(field.name) for field in dataclasses.fields(Settings)}
    source = inspect.getsource(settings)
    assert [name for name in shown if f'"{name}"' not in source] == []


def test_an_option_comes_before_the_environment_before_env_before_the_default(run: Run, tmp_path: Path) -> None:
    def bind(*words: str, **environment: str) -> tuple[Any, str]:
        return _by_name(run("--json", *words, **environment), "settings")["ANTIPHON_BIND"]

    for port in ("1", "2", "3", "4", "5"):
        (tmp_path / f"bind-{port}").write_text(f"127.0.0.1:{port}\n")
    env = tmp_path / ".env"
    before = env.read_text()
    assert bind() == ("127.0.0.1:8080", "default")
    env.write_text(f"{before}ANTIPHON_BIND_FILE=bind-1\n")
    assert bind() == ("127.0.0.1:1", "bind-1 (ANTIPHON_BIND_FILE, .env)")
    env.write_text(f"{before}ANTIPHON_BIND=127.0.0.1:2\n")
    assert bind() == ("127.0.0.1:2", ".env")
    assert bind(ANTIPHON_BIND_FILE="bind-3") == ("127.0.0.1:3", "bind-3 (ANTIPHON_BIND_FILE, environment)")
    assert bind(ANTIPHON_BIND="127.0.0.1:4") == ("127.0.0.1:4", "environment")
    assert bind("--bind", "127.0.0.1:5", ANTIPHON_BIND="127.0.0.1:4") == ("127.0.0.1:5", "--bind")
    assert bind(ANTIPHON_BIND="") == ("127.0.0.1:8080", "default")


def test_a_switch_is_shown_as_it_is_written_and_says_what_has_switched_it(run: Run) -> None:
    def metrics(**environment: str) -> tuple[Any, str]:
        return _by_name(run("--json", **environment), "settings")["ANTIPHON_METRICS"]

    assert metrics() == ("off", "default")
    assert metrics(ANTIPHON_METRICS="on") == ("on", "environment")
    assert metrics(ANTIPHON_METRICS_BIND="127.0.0.1:9464") == ("on", "ANTIPHON_METRICS_BIND is set")


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("ANTIPHON_DATABASE_URL", f"mysql://ada:{CANARY}@db:3306/antiphon", "mysql://ada:***@db:3306/antiphon"),
        ("ANTIPHON_DATABASE_URL", "mysql://db/antiphon", "mysql://db/antiphon"),
        ("ANTIPHON_QUEUE_URL", f"redis://:{CANARY}@queue:6379/0", "redis://:***@queue:6379/0"),
        ("ANTIPHON_QUEUE_URL", f"unix:///run/redis.sock?password={CANARY}", "unix:///run/redis.sock?***"),
        ("ANTIPHON_OLD_SECRET_KEYS", f"{SECRET},{SECRET}x", "***"),
    ],
)
def test_a_secret_setting_is_masked(run: Run, name: str, given: str, value: str) -> None:
    shown = run("--json", **{name: given})
    assert _by_name(shown, "settings")[name] == (value, "environment")
    for words in (("--json",), ("--origin",), ()):
        assert CANARY not in run(*words, **{name: given}).output


# --- the channel table ------------------------------------------------------------------------------------------


@pytest.fixture
def table(run: Run, tmp_path: Path) -> Run:
    (tmp_path / "channels.yaml").write_text(TABLE)
    (tmp_path / "secret.key").write_text(CANARY)
    return lambda *words: run(*words, OPENAI_API_KEY=CANARY, WEIGHT="7")


def test_each_value_of_the_table_has_its_line(table: Run) -> None:
    rows = _by_name(table("--json"), "table")
    assert rows["channels.openai.base_url"] == ("https://api.openai.com/v1", "channels.yaml:8")
    assert rows["channels.openai.models"] == (["gpt-6-sol", "gpt-6-*"], "channels.yaml:10")
    assert rows["channels.openai.weight"] == (7, "channels.yaml:13")
    assert rows["channels.openai.timeout.idle"] == ("5m", "channels.yaml:14")
    assert rows["models.m.context_window"] == (1000, "channels.yaml:27")


def test_defaults_say_where_they_come_from(table: Run) -> None:
    rows = _by_name(table("--json"), "table")
    assert rows["channels.openai.priority"] == (0, "default")
    assert rows["channels.openai.timeout.connect"] == (2.0, "channels.yaml:3")
    assert rows["channels.openai.timeout.total"] == (900.0, "default")
    assert rows["channels.openai.cooldown.after"] == (3, "channels.yaml:4")
    assert rows["channels.openai.cooldown.for"] == (30.0, "default")
    # One duration limits all parts of an exchange.
    assert rows["channels.literal.timeout.idle"] == (600.0, "channels.yaml:20")
    assert rows["compaction.strategy"] == ("auto", "default")


def test_secrets_of_the_table_are_masked_and_their_variables_named(table: Run) -> None:
    rows = _by_name(table("--json"), "table")
    secrets = {name: value for name, (value, _) in rows.items() if "key" in name or ".headers." in name}
    assert secrets == {
        "channels.openai.api_key": "${OPENAI_API_KEY}",
        "channels.openai.headers.X-Team": "***",
        "channels.openai.headers.X-Key": "***",
        "channels.openai.headers.X-Default": "${NOT_SET}",
        "channels.openai.params.set.extra.api_key": "***",
        "channels.literal.api_key": "***",
        "channels.filed.api_key_file": "***",
        **{name: value for name, value in secrets.items() if name.endswith(".cache_key")},
    }
    assert rows["channels.openai.params.set.user"][0] == "${OPENAI_API_KEY}"
    assert rows["channels.openai.params.set.reasoning_effort"][0] == "low"
    for words in (("--json",), ("--origin",), ()):
        assert CANARY not in table(*words).output


def test_people_read_the_same_with_and_without_origins(table: Run) -> None:
    plain, with_origin = table().output, table("--origin").output
    assert ["channels.openai.models", "[gpt-6-sol,", "gpt-6-*]"] in [line.split() for line in plain.splitlines()]
    assert "channels.yaml:10" in with_origin
    assert "channels.yaml:10" not in plain


def test_a_wrong_table_is_its_errors(run: Run, tmp_path: Path) -> None:
    (tmp_path / "channels.yaml").write_text(TABLE.replace("weight:", "wieght:"))
    shown = CliRunner().invoke(antiphon, ["config", "show"])
    assert shown.exit_code != 0
    assert CANARY not in shown.output + str(shown.exception)
    assert "wieght" in str(shown.exception)
