"""Tool servers that fail: what the call becomes, what is repeated, and what other calls of the turn notice of it."""

from __future__ import annotations

from typing import Any

import pytest
from mcp_types import CallToolResult

from app.errors import ToolListFailed
from app.tools.servers import ToolServers
from tests.conftest import MakeToolServer
from tests.tool_servers import (
    Answer,
    Edge,
    Seen,
    TestTool,
    ToolServer,
    bearer,
    broken_stream,
    html,
    only,
    redirect,
    status,
    too_long_event,
    too_long_json,
)
from tests.tool_servers.edges import late
from tests.tool_servers.tools import Arguments, text
from tests.tools.conftest import row, turn, unwatched

SECRET = "operators-own-token"


def http_error(outcome: Any) -> tuple[int, str]:
    assert outcome.output is None
    assert outcome.error["type"] == "http_error"
    assert set(outcome.error) == {"type", "code", "message"}
    return outcome.error["code"], outcome.error["message"]


def protocol_error(outcome: Any) -> int:
    assert outcome.output is None
    assert outcome.error["type"] == "mcp_protocol_error"
    assert set(outcome.error) == {"type", "code", "message"}
    code: int = outcome.error["code"]
    return code


# --- statuses of HTTP -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "phrase"),
    [
        (401, "Unauthorized"),
        (403, "Forbidden"),
        (429, "Too Many Requests"),
        (500, "Internal Server Error"),
        (503, "Service Unavailable"),
        (413, "Request Entity Too Large"),
    ],
)
def test_a_status_is_the_error_of_the_call(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, era: str, code: int, phrase: str
) -> None:
    server = make_tool_server(protocol=era, edge=only("tools/call", status(code)))
    with turn(tool_servers, row(server)) as one:
        outcome = one.call("echo")
        assert http_error(outcome) == (code, phrase)
        assert str(code) in outcome.text_for_model
        server.edge = None
        assert one.call("echo", '{"text": "better"}').output == "better"


@pytest.mark.parametrize("code", [401, 403, 404, 500, 503])
def test_a_server_that_does_not_open_is_the_error_of_the_call_and_of_the_list(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, code: int
) -> None:
    server = make_tool_server(edge=status(code))
    docs = row(server)
    with turn(tool_servers, docs) as one:
        assert http_error(one.call("echo"))[0] == code
    with pytest.raises(ToolListFailed) as failed:
        tool_servers.listed(docs, unwatched())
    error = failed.value
    assert error.message.startswith(f"Error retrieving tool list from MCP server: 'docs'. Http status code: {code} (")
    assert (error.status, error.error()["type"], error.error()["code"], error.error()["param"]) == (
        424,
        "external_connector_error",
        "http_error",
        "tools",
    )


def test_the_sentence_about_a_list_is_openais(tool_servers: ToolServers, make_tool_server: MakeToolServer) -> None:
    server = make_tool_server(edge=only("tools/list", status(401)))
    with pytest.raises(ToolListFailed) as failed:
        tool_servers.listed(row(server), unwatched())
    assert failed.value.body() == {
        "error": {
            "message": "Error retrieving tool list from MCP server: 'docs'. Http status code: 401 (Unauthorized)",
            "type": "external_connector_error",
            "param": "tools",
            "code": "http_error",
        }
    }


def test_a_bearer_token_is_sent_and_never_shown(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, era: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    server = make_tool_server(protocol=era, edge=bearer("another"))
    docs = row(server, headers={"Authorization": f"Bearer {SECRET}"})
    with turn(tool_servers, docs) as one:
        refused = one.call("echo")
    assert http_error(refused) == (401, "Unauthorized")
    with pytest.raises(ToolListFailed) as failed:
        tool_servers.listed(docs, unwatched())
    server.edge = bearer(SECRET)
    with turn(tool_servers, docs) as one:
        assert one.call("echo", '{"text": "let in"}').output == "let in"
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {SECRET}"}
    shown = f"{refused} {failed.value.body()} {docs!r} {caplog.text}"
    assert SECRET not in shown
    assert server.url not in shown


@pytest.mark.parametrize("tool", ["echo", "fail"])
def test_a_tool_that_repeats_its_own_token_does_not_reveal_it(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, tool: str
) -> None:
    server = make_tool_server()
    docs = row(server, headers={"X-Api-Key": SECRET, "X-Mode": "reading"})
    with turn(tool_servers, docs) as one:
        outcome = one.call(tool, f'{{"text": "key {SECRET} for reading"}}')
    assert SECRET not in str(outcome)
    assert outcome.text_for_model == "key *** for reading"


# --- answers that are none --------------------------------------------------------------------------------------


def test_a_login_page_is_no_answer(tool_servers: ToolServers, make_tool_server: MakeToolServer, era: str) -> None:
    server = make_tool_server(protocol=era, edge=only("tools/call", html))
    with turn(tool_servers, row(server)) as one:
        outcome = one.call("echo")
        assert protocol_error(outcome) == -32600
        assert "text/html" in outcome.text_for_model
        server.edge = None
        assert one.call("echo", '{"text": "signed in"}').output == "signed in"


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'"text"', b'{"jsonrpc":"2.0","id":1}', b'{"jsonrpc":"2.0","id":1,"result":[1]}', b"\xff\xfe"],
    ids=["half", "list", "text", "no result", "a list as result", "no UTF-8"],
)
def test_what_is_no_json_rpc_is_no_answer(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, era: str, body: bytes
) -> None:
    server = make_tool_server(protocol=era, edge=only("tools/call", status(200, body, "application/json")))
    with turn(tool_servers, row(server)) as one:
        outcome = one.call("echo")
        assert protocol_error(outcome) == -32700
        assert outcome.text_for_model == "The tool server's answer is not JSON-RPC."
        server.edge = None
        assert one.call("echo", '{"text": "well"}').output == "well"


@pytest.mark.parametrize("result", [b'{"content": "text"}', b'{"content": [{"type": "unheard of"}]}', b"{}"])
def test_a_result_that_mcp_does_not_know_is_no_answer(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, result: bytes
) -> None:
    def answer(request: Seen) -> Answer:
        return Answer(200, b'{"jsonrpc":"2.0","id":%d,"result":%s}' % (request.message["id"], result))

    server = make_tool_server(protocol="legacy", edge=only("tools/call", answer))
    with turn(tool_servers, row(server)) as one:
        assert protocol_error(one.call("echo")) == -32603


def test_a_result_need_not_keep_to_the_tools_own_schema(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, era: str
) -> None:
    server = make_tool_server(protocol=era)
    docs = row(server)
    assert any(tool.name == "lie" for tool in tool_servers.listed(docs, unwatched()))
    with turn(tool_servers, docs) as one:
        assert one.call("lie").structured == {"answer": 42, "unit": "°C"}


def test_a_tool_that_asks_for_more_input_has_failed(
    tool_servers: ToolServers, make_tool_server: MakeToolServer
) -> None:
    with turn(tool_servers, row(make_tool_server())) as one:
        outcome = one.call("ask")
    assert protocol_error(outcome) == -32603
    assert "more input" in outcome.text_for_model


@pytest.mark.parametrize("edge", [too_long_json, too_long_event])
def test_an_answer_that_is_too_long_is_not_read_to_its_end(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, era: str, edge: Edge
) -> None:
    server = make_tool_server(protocol=era, edge=only("tools/call", edge))
    with turn(tool_servers, row(server, max_result=1024)) as one:
        outcome = one.call("echo", read_only=True)
        assert protocol_error(outcome) == -32603
        assert "too large" in outcome.text_for_model
        assert len(server.seen("tools/call")) == 1
        server.edge = None
        assert one.call("echo", '{"text": "short"}').output == "short"


def test_a_compressed_answer_is_not_read(tool_servers: ToolServers, make_tool_server: MakeToolServer) -> None:
    """A few bytes could become any number of them."""

    def compressed(request: Seen) -> Answer:
        return Answer(200, b"\x1f\x8b", headers={"content-encoding": "gzip"})

    server = make_tool_server(edge=only("tools/call", compressed))
    with turn(tool_servers, row(server)) as one:
        assert protocol_error(one.call("echo")) == -32603
    assert {request.headers["accept-encoding"] for request in server.requests} == {"identity"}


# --- redirects --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_no_redirect_leaves_the_origin(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, era: str, code: int
) -> None:
    elsewhere = make_tool_server()
    server = make_tool_server(protocol=era, edge=redirect(elsewhere.url, code))
    docs = row(server, headers={"Authorization": f"Bearer {SECRET}"})
    with turn(tool_servers, docs) as one:
        outcome = one.call("echo")
    assert http_error(outcome)[0] == code
    assert elsewhere.url not in str(outcome)
    with pytest.raises(ToolListFailed, match=f"Http status code: {code}"):
        tool_servers.listed(docs, unwatched())
    assert elsewhere.requests == []


def test_a_redirect_within_the_origin_is_followed(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, era: str
) -> None:
    server = make_tool_server(protocol=era)
    moved = f"{server.origin}/old"
    server.edge = lambda request: Answer(308, headers={"location": "/mcp"}) if request.path == "/old" else None
    with turn(tool_servers, row(moved)) as one:
        assert one.call("echo", '{"text": "here"}').output == "here"


# --- connections that cannot be made, or are lost ---------------------------------------------------------------


def test_a_server_that_does_not_run_cannot_be_reached(
    tool_servers: ToolServers, make_tool_server: MakeToolServer
) -> None:
    server = make_tool_server()
    server.kill()
    docs = row(server)
    with turn(tool_servers, docs) as one:
        code, words = http_error(one.call("echo"))
    assert code == 502
    assert words == "The tool server cannot be reached: it refuses connections."
    with pytest.raises(ToolListFailed) as failed:
        tool_servers.listed(docs, unwatched())
    assert failed.value.message == (
        "Error retrieving tool list from MCP server: 'docs'. Http status code: 424 (Failed Dependency). "
        "The tool server cannot be reached: it refuses connections."
    )


def test_a_name_that_nobody_has_cannot_be_reached(tool_servers: ToolServers) -> None:
    with turn(tool_servers, row("http://tools.invalid/mcp")) as one:
        code, words = http_error(one.call("echo"))
    assert (code, words) == (502, "The tool server cannot be reached: its name cannot be resolved.")


def test_a_server_that_dies_in_a_call_fails_the_calls_that_run(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, kind: dict[str, Any]
) -> None:
    server: ToolServer = make_tool_server(**kind)
    with turn(tool_servers, row(server)) as one:
        held = [one.start("hold") for _ in range(3)]
        server.wait_for_call("hold", 3)
        server.kill()
        for call in held:
            code, words = http_error(one.wait(call))
            assert code == 502
            assert "may have run" in words
        assert http_error(one.call("echo"))[0] == 502
        server.restart()
        assert one.call("echo", '{"text": "back"}').output == "back"
    assert len([call for call in server.calls if call.name == "hold"]) == 3


def test_another_turn_does_not_notice(tool_servers: ToolServers, make_tool_server: MakeToolServer, era: str) -> None:
    """One refused request kills a session of the SDK, with all calls on it."""
    server = make_tool_server(protocol=era)
    docs = row(server)
    with turn(tool_servers, docs) as one, turn(tool_servers, docs) as other:
        held = one.start("hold")
        server.wait_for_call("hold")
        server.edge = only("tools/call", broken_stream)
        assert other.call("echo").error is not None
        server.edge = None
        server.release()
        assert one.wait(held).output == "released"


def dies_once() -> TestTool:
    began = []

    async def run(arguments: Arguments, server: ToolServer) -> CallToolResult:
        began.append(arguments)
        if len(began) == 1:
            server.cut()
            await server.permission()
        return text("the second time")

    return TestTool("once", run)


@pytest.mark.parametrize(
    ("hints", "repeated"),
    [({}, False), ({"read_only": True}, True), ({"idempotent": True}, True)],
    ids=["no hint", "read only", "idempotent"],
)
def test_only_what_may_run_twice_is_repeated_after_a_lost_connection(
    tool_servers: ToolServers,
    make_tool_server: MakeToolServer,
    kind: dict[str, Any],
    hints: dict[str, bool],
    repeated: bool,
) -> None:
    server = make_tool_server(tools=[dies_once()], **kind)
    with turn(tool_servers, row(server)) as one:
        outcome = one.call("once", **hints)
    if repeated:
        assert outcome.output == "the second time"
    else:
        assert http_error(outcome)[0] == 502
    assert len(server.calls) == (2 if repeated else 1)


def test_nothing_is_sent_a_third_time(tool_servers: ToolServers, make_tool_server: MakeToolServer, era: str) -> None:
    server = make_tool_server(protocol=era)
    with turn(tool_servers, row(server)) as one:
        assert http_error(one.call("die_again", idempotent=True))[0] == 502
    assert len(server.calls) == 2


@pytest.mark.parametrize(("before", "opened"), [(1, True), (2, False)], ids=["once", "twice"])
def test_a_session_is_opened_once_more_after_a_lost_connection(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, before: int, opened: bool
) -> None:
    server: ToolServer = make_tool_server(protocol="legacy")

    def cut(request: Seen) -> Answer | None:
        if len(server.seen("initialize")) > before:
            return None
        server.cut()
        return late(request)

    server.edge = only("initialize", cut)
    with turn(tool_servers, row(server)) as one:
        outcome = one.call("echo", '{"text": "open"}')
    if opened:
        assert outcome.output == "open"
    else:
        assert http_error(outcome)[0] == 502
    assert len(server.seen("initialize")) == 2


@pytest.mark.parametrize(("hints", "sent"), [({}, 1), ({"read_only": True}, 2)])
def test_an_event_stream_that_is_cut_off_may_have_run(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, era: str, hints: dict[str, bool], sent: int
) -> None:
    server = make_tool_server(protocol=era, edge=only("tools/call", broken_stream))
    with turn(tool_servers, row(server)) as one:
        assert http_error(one.call("echo", **hints))[0] == 502
    assert len(server.seen("tools/call")) == sent


def test_a_restart_between_two_calls_is_not_noticed(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, kind: dict[str, Any]
) -> None:
    """The server knows no session id any more, and idle connections have ended."""
    server = make_tool_server(**kind)
    with turn(tool_servers, row(server)) as one:
        assert one.call("echo", '{"text": "before"}').output == "before"
        server.restart()
        assert one.call("echo", '{"text": "after"}').output == "after"


@pytest.mark.parametrize("answers", ["json", "sse"])
def test_an_expired_session_is_replaced_and_no_call_runs_twice(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, answers: str
) -> None:
    server = make_tool_server(protocol="legacy", answers=answers)
    with turn(tool_servers, row(server)) as one:
        assert one.call("echo", '{"text": "1"}').output == "1"
        server.expire_sessions()
        calls = [one.start("echo", f'{{"text": "{number}"}}') for number in (2, 3, 4)]
        assert [one.wait(call).output for call in calls] == ["2", "3", "4"]
    assert sorted(call.arguments["text"] for call in server.calls) == ["1", "2", "3", "4"]


def test_a_session_that_is_never_known_is_an_error(tool_servers: ToolServers, make_tool_server: MakeToolServer) -> None:
    server = make_tool_server(protocol="legacy", edge=only("tools/call", status(404)))
    with turn(tool_servers, row(server)) as one:
        assert http_error(one.call("echo"))[0] == 404
    assert len(server.seen("tools/call")) == 2


# --- a remembered protocol --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [("modern", "legacy"), ("legacy", "modern")])
def test_a_server_may_change_its_protocol(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, before: str, after: str
) -> None:
    server = make_tool_server(protocol=before)
    docs = row(server)
    with turn(tool_servers, docs) as one:
        assert one.call("echo", '{"text": "before"}').output == "before"
    server.protocol = after
    if after == "modern":
        server.edge = only("initialize", status(400))
    with turn(tool_servers, docs) as one:
        assert one.call("echo", '{"text": "after"}').output == "after"
    assert [call.arguments["text"] for call in server.calls] == ["before", "after"]
