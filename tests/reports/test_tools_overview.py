"""Tool servers with their calls of the day."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.contract.records import Token, ToolCall
from app.contract.tools import Approval, HostedTool, ToolServer, ToolTable
from app.reports.tools_overview import approval_words, tools_of, tools_overview
from app.reports.usage import Percentiles
from app.store.store import Store
from tests.relay.conftest import eventually

DOCS = ToolServer("docs", "https://user:secret@mcp.internal:8443/mcp?key=secret")
TABLE = ToolTable(
    servers={"docs": DOCS, "other": ToolServer("other", "https://other.example/mcp")},
    hosted={"web_search": HostedTool("web_search", "docs", "search")},
    left_out={"waiting": "the variable X is not set"},
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/a.db", peppers=[b"p"])
    store.schema.upgrade()
    yield store
    store.close()


def test_calls_and_failures_stand_beside_the_rows_of_the_table(store: Store) -> None:
    now = int(time.time()) * 1000
    store.tool_calls.end("ada", "resp_1", [ToolCall("mcp_1", "docs", "search", now, milliseconds=10, size=5)])
    failed = ToolCall("mcp_2", "docs", "search", now, milliseconds=30, error="http_error 502")
    store.tool_calls.end("ada", "resp_1", [failed, ToolCall("mcp_3", "gone", "x", now, milliseconds=1)])
    eventually(lambda: len(store.usage.tools("2000-01-01")) == 2, "the writer")
    docs, other, waiting, gone = tools_overview(TABLE, store)
    assert [one.label for one in (docs, other, waiting, gone)] == ["docs", "other", "waiting", "gone"]
    assert (docs.calls, docs.failed, docs.times) == (2, 1, Percentiles(25, 48))
    assert (docs.host, docs.fulfils) == ("mcp.internal:8443", ["web_search by search"])
    assert [(error.code, error.message) for error in docs.errors] == [("http_error 502", "search")]
    assert (other.calls, other.times, other.tokens) == (0, Percentiles(), [])
    assert (waiting.server, waiting.left_out) == (None, "the variable X is not set")
    assert (gone.server, gone.calls) == (None, 1)


def test_a_page_reads_the_database_three_times(store: Store) -> None:
    calls: list[str] = []
    store.database.on_call = lambda kind, seconds: calls.append(kind)
    tools_overview(TABLE, store)
    assert calls == ["read"] * 3


@pytest.mark.parametrize(("granted", "labels"), [((), []), (("docs",), ["docs"]), (("*",), ["docs", "other"])])
def test_an_owner_sees_what_their_token_may_use(granted: tuple[str, ...], labels: list[str]) -> None:
    found = tools_of(TABLE, Token(1, "t", "ada", "ap_", tools=granted))
    assert [one.label for one in found] == labels
    assert not any(one.calls or one.errors or one.tokens for one in found)


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ("always", "always"),
        ("never", "never"),
        ({"never": ["b", "a"]}, "never for a, b, else always"),
        ({"always": ["a"], "never": {"read_only": True}}, "always for a; never for those that only read, else always"),
        ({"always": ["a"]}, "always"),
    ],
)
def test_an_approval_in_words(stated: Any, words: str) -> None:
    assert approval_words(Approval.of(stated)) == words
