"""Lists of tools: what is fetched, how often, and what a strange list becomes."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from app.errors import ToolListFailed
from app.tools import list_failures
from app.tools.servers import ToolServers
from tests.conftest import MakeToolServer
from tests.tool_servers import Edge, TestTool, named, only, plain, status
from tests.tool_servers.edges import late
from tests.tools.conftest import PATIENCE, row, turn, unwatched


def names(tools: Any) -> list[str]:
    return [tool.name for tool in tools]


def test_a_list_is_fetched_once_for_all_turns(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, era: str
) -> None:
    server = make_tool_server(protocol=era, tools=named("echo", "add"))
    docs = row(server)
    assert [names(tool_servers.listed(docs, unwatched())) for _ in range(3)] == [["echo", "add"]] * 3
    assert len(server.seen("tools/list")) == 1


def test_turns_at_the_same_time_share_one_fetch(tool_servers: ToolServers, make_tool_server: MakeToolServer) -> None:
    server = make_tool_server(tools=named("echo"))
    server.gate = threading.Event()
    docs = row(server)
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: found.append(names(tool_servers.listed(docs, unwatched())))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    server.wait_for(lambda: server.seen("tools/list"))
    server.gate.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == [["echo"]] * 4
    assert len(server.seen("tools/list")) == 1


def test_other_headers_have_a_list_of_their_own(tool_servers: ToolServers, make_tool_server: MakeToolServer) -> None:
    """What a server lists may depend on who asks."""
    server = make_tool_server(tools=named("echo"))
    for key in ("first-key", "second-key", "first-key"):
        tool_servers.listed(row(server, headers={"Authorization": f"Bearer {key}"}), unwatched())
    assert [request.headers["authorization"] for request in server.seen("tools/list")] == [
        "Bearer first-key",
        "Bearer second-key",
    ]


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_refused_list_is_fetched_again(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, code: int
) -> None:
    server = make_tool_server(tools=named("echo"), edge=only("tools/list", status(code)))
    docs = row(server)
    with pytest.raises(ToolListFailed):
        tool_servers.listed(docs, unwatched())
    server.edge = None
    assert names(tool_servers.listed(docs, unwatched())) == ["echo"]


@pytest.mark.parametrize(
    ("fault", "patience"), [(status(503), 10.0), (status(429), 10.0), (late, 0.5)], ids=["503", "429", "late"]
)
def test_the_next_turns_do_not_ask_a_server_that_has_failed(
    tool_servers: ToolServers,
    make_tool_server: MakeToolServer,
    fault: Edge,
    patience: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The machine may be slow.
    monkeypatch.setattr(list_failures, "FIRST_PAUSE", 3600.0)
    server = make_tool_server(tools=named("echo"), edge=only("tools/list", fault))
    docs = row(server, open_timeout=patience)
    messages = []
    for asked in (True, False, False):
        with pytest.raises(ToolListFailed) as failed:
            tool_servers.listed(docs, unwatched())
        assert failed.value.was_asked is asked
        messages.append(failed.value.message)
        server.edge = None
    assert len({*messages}) == 1


def test_a_table_that_is_loaded_again_asks_again(tool_servers: ToolServers, make_tool_server: MakeToolServer) -> None:
    server = make_tool_server(tools=named("echo"))
    server.kill()
    docs = row(server)
    for _ in range(2):
        with pytest.raises(ToolListFailed, match="refuses connections"):
            tool_servers.listed(docs, unwatched())
    server.restart()
    assert names(tool_servers.listed(replace(docs), unwatched())) == ["echo"]


def test_a_tool_that_is_gone_makes_the_list_suspect(
    tool_servers: ToolServers, make_tool_server: MakeToolServer
) -> None:
    server = make_tool_server(tools=named("echo"))
    docs = row(server)
    tool_servers.listed(docs, unwatched())
    server.tools = named("add")
    with turn(tool_servers, docs) as one:
        assert one.call("echo").error == {
            "type": "mcp_protocol_error",
            "code": -32602,
            "message": "Unknown tool: echo",
        }
    # The old list is used once more, while the next one is fetched.
    tool_servers.listed(docs, unwatched())
    server.wait_for(lambda: len(server.seen("tools/list")) == 2)
    server.wait_for(lambda: names(tool_servers.listed(docs, unwatched())) == ["add"])


def test_all_pages_are_read(tool_servers: ToolServers, make_tool_server: MakeToolServer, era: str) -> None:
    tools = [plain(f"tool-{number}") for number in range(7)]
    server = make_tool_server(protocol=era, tools=tools, page_size=3)
    assert names(tool_servers.listed(row(server), unwatched())) == [tool.name for tool in tools]
    assert len(server.seen("tools/list")) == 3


@pytest.mark.parametrize(("tools", "page_size", "pages", "taken"), [(600, None, 1, 500), (30, 1, 20, 20)])
def test_a_list_without_an_end_is_cut(
    tool_servers: ToolServers,
    make_tool_server: MakeToolServer,
    tools: int,
    page_size: int | None,
    pages: int,
    taken: int,
) -> None:
    server = make_tool_server(tools=[plain(f"t{number}") for number in range(tools)], page_size=page_size)
    assert names(tool_servers.listed(row(server), unwatched())) == [f"t{number}" for number in range(taken)]
    assert len(server.seen("tools/list")) == pages


def test_large_schemas_are_bounded(tool_servers: ToolServers, make_tool_server: MakeToolServer) -> None:
    large = {"type": "object", "description": "x" * 1_500_000}
    tools = [TestTool(f"t{number}", plain("t").run, schema=large) for number in range(4)]
    server = make_tool_server(tools=tools)
    assert names(tool_servers.listed(row(server), unwatched())) == ["t0", "t1"]


def test_schemas_are_the_servers_own(tool_servers: ToolServers, make_tool_server: MakeToolServer, era: str) -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"page": {"type": "integer", "minimum": 1}},
        "properties": {"page": {"$ref": "#/$defs/page"}},
        "required": ["page"],
    }
    tools = [TestTool("paged", plain("paged").run, schema=schema), TestTool("bare", plain("bare").run)]
    server = make_tool_server(protocol=era, tools=tools)
    paged, bare = tool_servers.listed(row(server), unwatched())
    assert paged.input_schema == schema
    assert (bare.description, bare.read_only, bare.idempotent) == ("", False, False)


def test_a_number_that_json_writers_refuse_becomes_a_floating_one(
    tool_servers: ToolServers, make_tool_server: MakeToolServer
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 2**64}}}
    server = make_tool_server(tools=[TestTool("wide", plain("wide").run, schema=schema)])
    (wide,) = tool_servers.listed(row(server), unwatched())
    assert wide.input_schema["properties"]["a"]["maximum"] == float(2**64)


def test_a_name_that_stands_twice_is_taken_once(tool_servers: ToolServers, make_tool_server: MakeToolServer) -> None:
    server = make_tool_server(tools=[plain("same", description="first"), plain("same", description="second")])
    (same,) = tool_servers.listed(row(server), unwatched())
    assert same.description == "first"


def test_arguments_go_into_headers_where_the_schema_says_so(
    tool_servers: ToolServers, make_tool_server: MakeToolServer
) -> None:
    """A session knows the schema only after it has listed the tools, and refuses the call before."""
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    server = make_tool_server(tools=[TestTool("routed", plain("routed", "there").run, schema=schema)])
    docs = row(server)
    tool_servers.listed(docs, unwatched())
    with turn(tool_servers, docs) as one:
        assert one.call("routed", '{"region": "north"}').output == "there"
    assert server.seen("tools/call")[-1].headers["mcp-param-region"] == "north"
