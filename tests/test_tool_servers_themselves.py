"""The MCP servers that tests start: what their options change is on the wire."""

from __future__ import annotations

import pytest
import requests

from tests.conftest import MakeToolServer

DISCOVER = {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {}}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
ACCEPT = {"accept": "application/json, text/event-stream"}


def test_a_legacy_server_refuses_the_modern_protocol(make_tool_server: MakeToolServer) -> None:
    server = make_tool_server(protocol="legacy")
    answer = requests.post(server.url, json=DISCOVER, headers={**ACCEPT, "mcp-protocol-version": "2026-07-28"})
    assert answer.status_code == 400
    assert requests.post(server.url, json=INITIALIZE, headers=ACCEPT).status_code == 200
    assert [request.rpc for request in server.requests] == ["server/discover", "initialize"]


@pytest.mark.parametrize(("sessions", "given"), [(True, True), (False, False)])
def test_session_ids_are_a_choice(make_tool_server: MakeToolServer, sessions: bool, given: bool) -> None:
    server = make_tool_server(protocol="legacy", sessions=sessions)
    answer = requests.post(server.url, json=INITIALIZE, headers=ACCEPT)
    assert ("mcp-session-id" in answer.headers) is given


@pytest.mark.parametrize(("answers", "kind"), [("json", "application/json"), ("sse", "text/event-stream")])
def test_answers_are_json_or_event_streams(make_tool_server: MakeToolServer, answers: str, kind: str) -> None:
    server = make_tool_server(protocol="legacy", answers=answers)
    answer = requests.post(server.url, json=INITIALIZE, headers=ACCEPT)
    assert answer.headers["content-type"].startswith(kind)


def test_a_killed_server_refuses_connections_until_it_starts_again(make_tool_server: MakeToolServer) -> None:
    server = make_tool_server()
    server.kill()
    with pytest.raises(requests.ConnectionError):
        requests.post(server.url, json=INITIALIZE, headers=ACCEPT)
    server.restart()
    assert requests.post(server.url, json=INITIALIZE, headers=ACCEPT).status_code == 200


def test_an_expired_session_is_not_found(make_tool_server: MakeToolServer) -> None:
    server = make_tool_server(protocol="legacy")
    session = requests.post(server.url, json=INITIALIZE, headers=ACCEPT).headers["mcp-session-id"]
    server.expire_sessions()
    listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    assert requests.post(server.url, json=listing, headers={**ACCEPT, "mcp-session-id": session}).status_code == 404
