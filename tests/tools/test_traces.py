"""Which tool servers get the trace of a turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app import trace_context
from app.tools.servers import ToolServers
from tests.tool_servers import ToolServer
from tests.tools.conftest import row, turn

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def in_a_trace() -> Iterator[None]:
    trace_context.enter(trace_context.passed_on(PARENT, None))
    yield
    trace_context.enter(None)


@pytest.mark.parametrize("protocol", ["modern", "legacy"])
@pytest.mark.usefixtures("in_a_trace")
def test_only_a_server_of_the_operator_gets_the_trace(tool_servers: ToolServers, protocol: str) -> None:
    for from_client, expected in ((False, PARENT), (True, None)):
        with (
            ToolServer(protocol=protocol) as server,  # type: ignore[arg-type]
            turn(tool_servers, row(server, from_client=from_client, private=True)) as calling,
        ):
            assert calling.call("echo", '{"text": "hello"}').error is None
            calls = [seen for seen in server.requests if seen.rpc == "tools/call"]
            assert [seen.headers.get("traceparent") for seen in calls] == [expected]


def test_a_turn_without_a_trace_sends_none(tool_servers: ToolServers) -> None:
    with ToolServer() as server, turn(tool_servers, row(server, private=True)) as calling:
        assert calling.call("echo", '{"text": "hello"}').error is None
        assert not any("traceparent" in seen.headers for seen in server.requests)
