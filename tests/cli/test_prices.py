"""antiphon prices update, with the prices of the installed package."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.gateway import Gateway

ABORTED, CONFIGURATION = 1, 78
TABLE = """\
version: 1
channels:
  - name: openai
    format: responses
    base_url: https://api.openai.com/v1
    api_key: ${KEY_OF_OPENAI:-secret-canary}
    models: {gpt-5: , ours: gpt-5, unheard-of: }
  - name: local
    format: chat_completions
    base_url: http://127.0.0.1:8000/v1
    models: [gpt-4o]
# What they cost.
models:
  ours:
    context_window: 1000   # ours alone
    price: {input: 9, output: 9}   # agreed
"""


@pytest.fixture
def directory(tmp_path: Path) -> Gateway:
    gateway = Gateway(tmp_path, [])
    _table(gateway).write_text(TABLE)
    _table(gateway).chmod(0o600)
    return gateway


def _table(directory: Gateway) -> Path:
    return directory.directory / "channels.yaml"


def test_prices_are_shown_and_written_with_all_comments(directory: Gateway) -> None:
    done = directory.attempt("prices", "update", "--yes")
    assert done.returncode == 0, done.stderr
    assert "no known price: gpt-4o, unheard-of" in done.stderr
    text = _table(directory).read_text()
    today = datetime.now(UTC).date()
    match = re.search(r"    price: \[\{input: 9, output: 9\}, \{input: [^{}]*effective: (\S+)\}\]   # agreed\n", text)
    assert match is not None, text
    assert abs((today - datetime.fromisoformat(match[1]).date()).days) <= 1
    assert re.search(r"^  gpt-5: \{price: \{input: [0-9.]+, output: [0-9.]+.*\}\}$", text, re.MULTILINE)
    # All other lines are the old ones, and only lines that changed were shown.
    changed = {line for line in text.splitlines() if "gpt-5: {price" in line or "# agreed" in line}
    assert [line for line in text.splitlines() if line not in changed] == [
        line for line in TABLE.splitlines() if "# agreed" not in line
    ]
    assert {line[1:] for line in done.stdout.splitlines() if line.startswith("+")} == changed
    assert "secret-canary" not in done.stdout + done.stderr
    assert _table(directory).stat().st_mode & 0o777 == 0o600
    assert not list(directory.directory.glob(".prices-*"))
    directory.command("check")
    assert directory.command("prices", "update").endswith("no price changes\n")


def test_nothing_is_written_without_a_yes(directory: Gateway) -> None:
    assert "+" in directory.command("prices", "update", "--dry-run")
    directory.command("prices", "update", exit_code=ABORTED)
    assert _table(directory).read_text() == TABLE


def test_a_name_alone_finds_a_price_only_on_request(directory: Gateway) -> None:
    assert "gpt-4o: {price" in directory.command("prices", "update", "--dry-run", "--any-provider")
    assert "gpt-4o" not in directory.command("prices", "update", "--dry-run")


def test_a_table_without_lines_is_left_as_it_is(directory: Gateway) -> None:
    table = (
        "{version: 1, channels: [{name: openai, format: responses, base_url: 'https://api.openai.com/v1',"
        " api_key: '${K:-secret-canary}', models: [gpt-5]}]}\n"
    )
    _table(directory).write_text(table)
    done = directory.attempt("prices", "update", "--yes")
    assert (done.returncode, _table(directory).read_text()) == (CONFIGURATION, table)
    assert "gpt-5: {price: {input:" in done.stderr
    assert "secret-canary" not in done.stdout + done.stderr
