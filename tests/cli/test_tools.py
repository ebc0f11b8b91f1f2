"""antiphon tools, and what check and doctor say of tool servers."""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from app.cli import antiphon
from tests.conftest import MakeToolServer
from tests.gateway import Gateway
from tests.ports import closed_port
from tests.tool_servers import TestTool, ToolServer, bearer, plain

Run = Callable[..., str]
Reports = Callable[..., dict[str, Any]]

FAILED, USAGE, FAILING, NOT_FOUND, CONFIGURATION = 1, 2, 3, 4, 78
DEMO = {"name": "demo", "format": "demo", "models": ["demo"]}
CANARY = "canary-of-the-row"
DEAD = {"label": "dead", "url": f"http://127.0.0.1:{closed_port()}/{CANARY}"}
WAITING = {"label": "waiting", "url": "http://127.0.0.1:9/", "headers": {"X-Key": "${A_KEY_THAT_IS_NOT_SET}"}}


@pytest.fixture(scope="module")
def server() -> Iterator[ToolServer]:
    with ToolServer(edge=bearer(CANARY)) as server:
        yield server


def row(server: ToolServer, **keys: Any) -> dict[str, Any]:
    return {"label": "docs", "url": server.url, "headers": {"Authorization": "Bearer ${TOKEN_OF_DOCS}"}, **keys}


@pytest.fixture
def directory(tmp_path: Path, server: ToolServer, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """A directory whose gateway does not run: a server that answers, one that is down, and one without its variable."""
    monkeypatch.setenv("TOKEN_OF_DOCS", CANARY)
    docs = row(
        server,
        allowed_tools=["echo", "add", "fail", "search", "structured"],
        require_approval={"never": {"read_only": True}},
    )
    tools = {
        "servers": [docs, DEAD, WAITING],
        "hosted": {"web_search": {"server": "docs", "tool": "search"}},
        "client_urls": ["https://mcp.example.com"],
    }
    return Gateway(tmp_path, [DEMO], {"tools": tools})


@pytest.fixture
def run(directory: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """`run("list", exit_code=3)` → what `antiphon tools list` prints, errors too. In this process: others are slow."""
    monkeypatch.chdir(directory.directory)
    for name in ("ANTIPHON_HOME", "ANTIPHON_SECRET_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in directory.environment.items():
        monkeypatch.setenv(name, value)
    log = logging.getLogger("app.tools")
    level = log.level

    def run(*words: str, exit_code: int = 0) -> str:
        result = CliRunner().invoke(antiphon, ["tools", *words])
        assert result.exit_code == exit_code, result.output
        return result.output

    yield run
    log.setLevel(level)


@pytest.fixture
def listed(run: Run) -> Reports:
    def listed(*words: str, exit_code: int = 0) -> dict[str, Any]:
        return {report["label"]: report for report in orjson.loads(run("list", *words, "--json", exit_code=exit_code))}

    return listed


@pytest.fixture
def called(run: Run) -> Reports:
    def called(*words: str, exit_code: int = 0) -> dict[str, Any]:
        printed = run("call", *words, "--json", exit_code=exit_code)
        report: dict[str, Any] = orjson.loads(printed[: printed.rindex("}") + 1])
        return report

    return called


# --- list -------------------------------------------------------------------------------------------------------


def test_the_list_shows_the_tools_that_each_row_allows(run: Run, listed: Reports) -> None:
    docs = listed("docs")["docs"]
    tools = {tool["name"]: tool for tool in docs["tools"]}
    assert list(tools) == ["echo", "add", "fail", "structured", "search"]
    assert (docs["state"], docs["failure"], docs["fulfils"]) == ("ok", None, ["web_search"])
    assert docs["server_url"] == "https://tools.antiphon.invalid/docs"
    assert [tools[name]["read_only"] for name in ("echo", "add")] == [True, False]
    assert [tools[name]["needs_approval"] for name in ("echo", "add")] == [False, True]
    assert tools["add"]["input_schema"]["properties"].keys() == {"a", "b"}
    shown = run("list", "docs")
    assert "https://tools.antiphon.invalid/docs" in shown
    assert re.search(r"^  add .*\(needs approval\)$", shown, re.M)
    assert re.search(r"^  echo .*\(reads only\)$", shown, re.M)


def test_a_server_that_is_down_and_one_that_is_left_out_do_not_hide_the_others(run: Run, listed: Reports) -> None:
    reports = listed(exit_code=FAILING)
    assert {label: report["state"] for label, report in reports.items()} == {
        "docs": "ok",
        "dead": "failed",
        "waiting": "left out",
    }
    assert "A_KEY_THAT_IS_NOT_SET" in reports["waiting"]["failure"]
    assert "'dead'" in reports["dead"]["failure"]
    shown = run("list", exit_code=FAILING)
    assert CANARY not in shown + str(reports)


def test_a_server_that_the_key_does_not_open_is_a_failure(monkeypatch: pytest.MonkeyPatch, listed: Reports) -> None:
    monkeypatch.setenv("TOKEN_OF_DOCS", "another")
    assert "401" in listed("docs", exit_code=FAILING)["docs"]["failure"]


def test_a_hosted_tool_that_its_server_does_not_list_is_a_failure(
    directory: Gateway, server: ToolServer, listed: Reports
) -> None:
    tools = {"servers": [row(server)], "hosted": {"file_search": {"server": "docs", "tool": "serch"}}}
    directory.write_channels([DEMO], {"tools": tools})
    docs = listed(exit_code=FAILING)["docs"]
    assert docs["failure"] == "file_search is mapped to 'serch', which it does not list"
    assert docs["tools"]


def test_without_tool_servers_the_list_is_empty(directory: Gateway, run: Run, listed: Reports) -> None:
    directory.write_channels([DEMO])
    assert listed() == {}
    assert "no tool server" in run("list")


@pytest.mark.parametrize("words", [["list", "dosc"], ["call", "dosc", "echo"], ["call", "docs", "ecko"]])
def test_what_is_not_there_is_named_with_what_is_nearest(words: list[str], run: Run) -> None:
    assert "did you mean '" in run(*words, exit_code=NOT_FOUND)


# --- call -------------------------------------------------------------------------------------------------------


def test_a_call_prints_its_result(run: Run, called: Reports) -> None:
    assert run("call", "docs", "echo", '{"text": "hé"}') == "hé\n"
    report = called("docs", "echo", '{"text": "hé"}')
    assert (report["server"], report["tool"], report["output"], report["error"]) == ("docs", "echo", "hé", None)
    assert report["ms"] >= 0
    assert report["bytes"] > 0


def test_a_call_that_fails_says_why(run: Run, called: Reports) -> None:
    words = run("call", "docs", "fail", '{"text": "broken"}', exit_code=FAILED)
    assert "fail has failed: " in words
    report = called("docs", "fail", exit_code=FAILED)
    assert report["output"] is None
    assert report["error"]["type"] == "mcp_tool_execution_error"


def test_a_tool_that_the_row_does_not_allow_is_not_called(server: ToolServer, run: Run) -> None:
    before = len(server.calls)
    run("call", "docs", "refuse", exit_code=NOT_FOUND)
    assert len(server.calls) == before


def test_a_call_of_a_server_that_is_down_is_no_traceback(directory: Gateway, called: Reports) -> None:
    report = called("dead", "echo", exit_code=FAILING)
    assert report["error"]["type"] == "external_connector_error"
    assert CANARY not in str(report)
    left_out = directory.attempt("tools", "call", "waiting", "echo")
    assert (left_out.returncode, "is left out" in left_out.stderr) == (CONFIGURATION, True)


@pytest.mark.parametrize("arguments", ["[1]", "1", "{", "", "'a'"])
def test_arguments_are_a_json_object(arguments: str, run: Run) -> None:
    assert "is no JSON object" in run("call", "docs", "echo", arguments, exit_code=USAGE)


def test_words_of_a_server_do_not_reach_the_terminal_as_commands(
    directory: Gateway, run: Run, make_tool_server: MakeToolServer
) -> None:
    evil: list[TestTool] = [plain("wipe", description="\x1b[2J" + "long " * 60)]
    servers = [{"label": "evil", "url": make_tool_server(tools=evil).url}]
    directory.write_channels([DEMO], {"tools": {"servers": servers}})
    shown = run("list")
    assert "\x1b" not in shown
    assert all(len(line) < 140 for line in shown.splitlines())


# --- check, doctor ----------------------------------------------------------------------------------------------


def test_check_counts_the_tool_servers(directory: Gateway) -> None:
    assert "1 model, 2 tool servers, 1 warning" in directory.command("check")
    assert orjson.loads(directory.command("check", "--json"))["tool_servers"] == ["docs", "dead"]


def test_doctor_names_what_keeps_tools_from_being_used(tmp_path: Path) -> None:
    tools = {
        "servers": [
            {"label": "docs", "url": "http://mcp.test/mcp", "headers": {"X-Key": "${A_KEY:-k}"}},
            {"label": "near", "url": "http://127.0.0.1:9/mcp", "headers": {"X-Team": "blue"}},
            {"label": "off", "url": "http://127.0.0.1:9/mcp", "enabled": False},
        ],
        "hosted": {"web_search": {"server": "off", "tool": "search"}},
    }
    directory = Gateway(tmp_path, [DEMO], {"tools": tools})

    def warnings() -> str:
        found = orjson.loads(directory.command("doctor", "--json"))
        assert next(line["text"][:14] for line in found if line["subject"] == "tools") == "2 tool servers"
        return "\n".join(line["text"] for line in found if line["subject"] == "tools" and line["grade"] == "warning")

    directory.command("init")
    said = warnings()
    assert "docs: its headers leave this machine without TLS" in said
    assert "near" not in said
    assert "web_search is dropped: its server 'off'" in said
    directory.command("tokens", "revoke", "admin")
    directory.command("tokens", "create", "ada", "--tools", "do*")
    assert "near: no token may use it" in warnings()
    assert "docs: no token" not in warnings()


# --- serve-demo -------------------------------------------------------------------------------------------------


@contextmanager
def demo_server(directory: Gateway) -> Iterator[str]:
    """The URL that the command prints."""
    process = subprocess.Popen(
        [*directory.program, "tools", "serve-demo", "--bind", f"127.0.0.1:{closed_port()}"],
        cwd=directory.directory,
        env=directory.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.terminate()
        process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()


def test_the_demo_server_has_a_clock_a_calculator_and_a_search(
    directory: Gateway, listed: Reports, called: Reports
) -> None:
    with demo_server(directory) as url:
        directory.write_channels([DEMO], {"tools": {"servers": [{"label": "demo", "url": url}]}})
        (tools,) = [report["tools"] for report in listed().values()]
        assert [tool["name"] for tool in tools] == ["clock", "calculator", "search"]
        assert all(tool["read_only"] for tool in tools)
        result = called("demo", "calculator", '{"expression": "(17 + 4) * 2"}')
        assert (result["output"], result["structured"]) == ("(17 + 4) * 2 = 42", {"result": 42})
        assert called("demo", "clock", '{"timezone": "Asia/Tokyo"}')["output"].endswith("+09:00")
        results = called("demo", "search", '{"query": "conversations"}')["structured"]["results"]
        assert results[0]["title"] == "Conversations"
        assert results[0]["url"] == "antiphon://readme#conversations"
        wrong = called("demo", "calculator", '{"expression": "1 / 0"}', exit_code=FAILED)
        assert "divides by zero" in str(wrong["error"])
        assert "'query'" in str(called("demo", "search", exit_code=FAILED)["error"])


def test_the_demo_server_says_that_its_port_is_taken(directory: Gateway, server: ToolServer) -> None:
    taken = server.origin.removeprefix("http://")
    refused = directory.attempt("tools", "serve-demo", "--bind", taken)
    assert (refused.returncode, f"cannot listen on {taken}" in refused.stderr) == (CONFIGURATION, True)
