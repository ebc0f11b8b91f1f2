"""What README and CHANGELOG say is so: links lead somewhere, commands parse, examples run, numbers and names are the
code's.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import orjson
import pytest

from app import __version__, formats
from app.channels.table import load
from app.cli import COMMANDS, antiphon
from app.schemas.channels import KEYS
from app.store import migrations
from tests.conftest import MakeGateway
from tests.gateway import ROOT, Gateway
from tests.ports import closed_port
from tests.relay.conftest import eventually

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "deploy" / "README.md"]
DEMO = {"name": "demo", "format": "demo", "models": ["demo"]}
CODE = "".join(path.read_text() for path in sorted((ROOT / "app").rglob("*.py")))


def blocks(text: str, language: str = r"\w*") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        if "://" in file:
            continue
        found = page.parent / file if file else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found.read_text()), target


def test_the_contents_name_every_chapter() -> None:
    chapters = re.findall(r"^## (.*)$", README, re.M)
    assert re.findall(r"^\[(.*)\]\(#", README, re.M) == chapters


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every `antiphon …`, in blocks and between backquotes; `$ `, comments and `…` left out."""
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    for line in [*spans, *(line for block in blocks(text) for line in block.splitlines())]:
        call = re.match(r"(?:\$ |sudo )?(?:\.venv/bin/)?antiphon (.*)$", line)
        if call is None or re.match(r"\d", call[1]):
            continue
        yield shlex.split(re.split(r"\s{2,}|\s#", call[1])[0])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_parses(page: Path) -> None:
    known = list(commands(page.read_text()))
    assert known or page.name == "CHANGELOG.md"
    for words in known:
        check(words)


def check(words: list[str]) -> None:
    """Down to the command, which then has to take the rest; what stands in brackets may be left out."""
    command: click.Command = antiphon
    rest = [word.strip("[]") for word in words]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command), rest.pop(0))
        assert found is not None, words
        command = found
    if isinstance(command, click.Group):
        return
    options = {name: option for option in command.params for name in option.opts}
    for word in rest:
        assert not word.startswith("--") or word in {*options, "--help"}, words
    arguments = [option for option in command.params if isinstance(option, click.Argument)]
    if not any(isinstance(argument.type, click.Choice) for argument in arguments) and "--help" not in rest:
        # A command that is only spoken of may lack its argument.
        command.make_context("antiphon", list(rest), resilient_parsing=True)


def test_every_command_there_is_stands_in_the_readme() -> None:
    named = {words[0] for words in commands(README)}
    assert set(COMMANDS) - named == set()


def test_every_code_in_the_table_of_symptoms_is_one_of_ours() -> None:
    chapter = README.split("\n## When something is wrong\n")[1].split("\n## ")[0]
    codes = re.findall(r"^\| [^|]*?`([a-z_]+)`", chapter, re.M)
    assert len(codes) > 8
    assert [code for code in codes if f'"{code}"' not in CODE] == []


def test_every_key_of_the_table_that_the_readme_names_exists(tmp_path: Path) -> None:
    for block in blocks(README, "yaml"):
        (tmp_path / "channels.yaml").write_text(block)
        assert load(tmp_path / "channels.yaml", {"OPENAI_API_KEY": "k", "BACKUP_KEY": "k"}, formats.names()).channels
    rows = set(re.findall(r"`([a-z_]+): (?:true|false|keep|merge|refuse|drop|native|trigger)`", README))
    of_requests = {"store", "stream", "background", "generate", "strict"}
    assert rows - of_requests <= KEYS


def test_the_formats_of_the_readme_are_those_there_are() -> None:
    table = README.split("### Formats")[1]
    assert set(re.findall(r"^\| `([a-z_]+)` \|", table.split("\n\n")[1], re.M)) == set(formats.names())


def test_the_readme_shows_the_output_of_init_and_serve() -> None:
    assert f"made  database       schema {len(migrations.STEPS)}" in README
    assert f"antiphon {__version__}   http://127.0.0.1:8080/v1" in README


def test_every_file_on_the_map_exists() -> None:
    (layout,) = [block for block in blocks(README) if block.startswith("app/\n")]
    for line in layout.splitlines():
        inside, names = line.startswith("  "), re.match(r"\s*((?:[\w./]+\s{1,2})*[\w./]+)(?:\s{2,}|$)", line)
        if not names:
            continue
        for name in names[1].split():
            assert (ROOT / ("app" if inside else "") / name).exists(), name


def test_the_example_in_python_prints_what_stands_beside_it(gateway: MakeGateway) -> None:
    (example,) = blocks(README, "python")
    printed = re.findall(r"# (Your .*)$", example, re.M)
    assert printed
    running = gateway([DEMO])
    environment = {
        "PATH": os.environ["PATH"],
        "OPENAI_BASE_URL": running.base_url,
        "OPENAI_API_KEY": running.token,
        "NO_PROXY": "*",
    }
    done = subprocess.run([sys.executable, "-c", example], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == printed


def test_the_list_of_commands_cuts_nothing_off() -> None:
    groups = [antiphon, *(found for name in COMMANDS if isinstance(found := part(name), click.Group))]
    for group in groups:
        context = click.Context(group, info_name="antiphon", terminal_width=80, max_content_width=80)
        assert "...\n" not in group.get_help(context).partition("Commands:")[2]


def part(name: str) -> click.Command | None:
    return antiphon.get_command(click.Context(antiphon), name)


@pytest.fixture
def demo_tools(tmp_path: Path) -> Iterator[int]:
    """The port of `antiphon tools serve-demo`."""
    port = closed_port()
    command = [*Gateway.program, "tools", "serve-demo", "--bind", f"127.0.0.1:{port}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().endswith(f"http://127.0.0.1:{port}/mcp\n")
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_the_first_try_of_tools_answers_without_a_network(gateway: MakeGateway, demo_tools: int) -> None:
    """The rows of the shipped table without their `#`, and the request of the README."""
    shipped = (ROOT / "channels.yaml").read_text()
    rows = re.search(r"^#tools:\n#  servers:\n#    - label: demo.*\n(?:#      \w+: .*\n){2}", shipped, re.M)
    assert rows is not None
    shown = re.sub("^#", "", rows[0], flags=re.M).replace(":8090", f":{demo_tools}")
    running = gateway([DEMO])
    running.channels_file.write_text(shipped.replace(rows[0], shown))
    running.command("reload")
    token = running.new_token("a-user", "--tools", "demo")
    (example,) = re.findall(r"""-d '(\s*\{[^']*"mcp"[^']*)'""", README)

    def asked() -> str:
        return running.post("/responses", orjson.loads(example), token=token).text

    eventually(lambda: "The tool answered: (17 + 4) * 2 = 42" in asked(), "the reloaded table")
    output = orjson.loads(asked())["output"]
    assert [item["type"] for item in output] == ["mcp_list_tools", "mcp_call", "message"]
