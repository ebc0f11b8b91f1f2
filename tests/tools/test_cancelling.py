"""Calls that take too long, are cancelled, or still run when their turn or their process ends."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from app.errors import ClientGone, ShuttingDown, ToolListFailed
from app.tools.servers import ToolServers
from tests.conftest import MakeToolServer
from tests.tool_servers import ToolServer, only
from tests.tool_servers.edges import late
from tests.tools.conftest import PATIENCE, row, turn, unwatched

ATTEMPTS = 20


def code(outcome: Any) -> int:
    assert outcome.output is None
    assert outcome.error["type"] == "http_error"
    found: int = outcome.error["code"]
    return found


def heard_of_it(server: ToolServer, name: str) -> bool:
    """Whether the tool was cancelled on the server."""
    return any(call.cancelled for call in server.calls if call.name == name)


def cannot_hear(kind: dict[str, Any]) -> bool:
    """A server that answers with JSON does not look at its connection meanwhile, and one without sessions knows no
    other way."""
    return kind == {} or kind.get("sessions") is False


def test_a_slow_call_fails_and_its_session_lives_on(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, kind: dict[str, Any]
) -> None:
    """On a busy machine each call may be too slow, so that some are made again."""
    server = make_tool_server(**kind)
    with turn(tool_servers, row(server, call_timeout=0.5)) as one:
        for _ in range(ATTEMPTS):
            outcome = one.call("hold")
            assert code(outcome) == 504
            assert outcome.text_for_model == "The tool did not answer within 0.5 s."
            if server.calls:
                break
        assert any(one.call("echo", '{"text": "alive"}').output == "alive" for _ in range(ATTEMPTS))
        server.wait_for(lambda: heard_of_it(server, "hold") or cannot_hear(kind))
    assert len(server.seen("initialize")) <= 1


def test_a_slow_call_is_not_repeated_even_if_it_may_be(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, era: str
) -> None:
    """It had its time."""
    server = make_tool_server(protocol=era)
    with turn(tool_servers, row(server, call_timeout=0.3)) as one:
        assert code(one.call("hold_again", idempotent=True)) == 504
    assert len(server.seen("tools/call")) <= 1


def test_a_cancelled_call_ends_at_once_and_the_server_is_told(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, kind: dict[str, Any]
) -> None:
    server = make_tool_server(**kind)
    with turn(tool_servers, row(server)) as one:
        cancelled, sibling = one.start("hold"), one.start("hold_reading")
        server.wait_for_call("hold")
        server.wait_for_call("hold_reading")
        cancelled.cancel()
        assert one.wait(cancelled).text_for_model == "The call was cancelled."
        server.wait_for(lambda: heard_of_it(server, "hold") or cannot_hear(kind))
        server.release(2)
        assert one.wait(sibling).output == "released"


def test_the_end_of_a_turn_cancels_what_runs(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, era: str
) -> None:
    server = make_tool_server(protocol=era, answers="sse")
    with turn(tool_servers, row(server)) as one:
        held = one.start("hold")
        server.wait_for_call("hold")
    assert held.outcome is not None
    server.wait_for(lambda: heard_of_it(server, "hold"))
    if era == "legacy":
        server.wait_for(lambda: server.seen("DELETE"))


def test_a_call_that_has_ended_keeps_its_outcome(tool_servers: ToolServers, make_tool_server: MakeToolServer) -> None:
    with turn(tool_servers, row(make_tool_server())) as one:
        call = one.start("echo", '{"text": "done"}')
        one.wait(call)
        call.cancel()
        assert call.outcome is not None
        assert call.outcome.output == "done"


def test_a_server_that_never_answers_is_given_up(tool_servers: ToolServers, make_tool_server: MakeToolServer) -> None:
    server = make_tool_server(edge=late)
    docs = row(server, open_timeout=0.3)
    with turn(tool_servers, docs) as one:
        outcome = one.call("echo")
    assert code(outcome) == 504
    assert outcome.text_for_model == "The tool server did not open a session within 0.3 s."
    with pytest.raises(ToolListFailed, match=r"424 \(Failed Dependency\)\. The tool server did not open a session"):
        tool_servers.listed(docs, unwatched())


def test_a_server_that_does_not_list_in_time_is_given_up(
    tool_servers: ToolServers, make_tool_server: MakeToolServer
) -> None:
    server = make_tool_server(edge=only("tools/list", late))
    with pytest.raises(ToolListFailed, match=r"did not (list its tools|open a session) within 0\.3 s"):
        tool_servers.listed(row(server, open_timeout=0.3), unwatched())


class _Gone:
    """A watch whose client leaves while the thread waits."""

    client_fd = None

    def __init__(self, holds: Any) -> None:
        self._left = holds

    def pause(self) -> float:
        return 0.01

    def tick(self) -> None:
        if self._left():
            raise ClientGone


def test_a_client_that_leaves_does_not_wait_for_the_list_and_others_still_get_it(
    tool_servers: ToolServers, make_tool_server: MakeToolServer
) -> None:
    gate = threading.Event()
    server = make_tool_server()
    server.gate = gate
    docs = row(server)
    found: list[Any] = []
    other = threading.Thread(target=lambda: found.append(tool_servers.listed(docs, unwatched())))
    other.start()
    server.wait_for(lambda: server.seen("tools/list"))
    with pytest.raises(ClientGone):
        tool_servers.listed(docs, _Gone(lambda: True))  # type: ignore[arg-type]
    gate.set()
    other.join(PATIENCE)
    assert "echo" in {tool.name for tool in found[0]}
    assert len(server.seen("tools/list")) == 1


def test_the_end_of_a_process_ends_its_calls(make_tool_server: MakeToolServer, era: str) -> None:
    servers, server = ToolServers(), make_tool_server(protocol=era)
    docs = row(server)
    with turn(servers, docs) as one:
        held = one.start("hold")
        server.wait_for_call("hold")
        servers.close()
        assert one.wait(held).error is not None
        with pytest.raises(ShuttingDown):
            one.start("echo")
    with pytest.raises(ShuttingDown):
        servers.listed(docs, unwatched())
    servers.close()


def test_servers_that_were_never_used_need_no_end() -> None:
    servers = ToolServers()
    with servers.sessions():
        pass
    servers.close()
