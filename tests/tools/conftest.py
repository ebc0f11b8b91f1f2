"""One `ToolServers` for a file, and calls of its sessions that wait for their end."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from app.contract.tools import ListedTool, ToolOutcome, ToolServer
from app.request_watch import Drain, Watch
from app.tools.servers import RunningCall, ToolServers, ToolSessions
from tests.tool_servers import ToolServer as Server

PATIENCE = 60.0

#: What servers may speak and how they answer, as options of a server.
KINDS: dict[str, dict[str, Any]] = {
    "modern": {},
    "modern, event streams": {"answers": "sse"},
    "legacy": {"protocol": "legacy"},
    "legacy, event streams": {"protocol": "legacy", "answers": "sse"},
    "legacy, no sessions": {"protocol": "legacy", "sessions": False},
    "legacy, no sessions, event streams": {"protocol": "legacy", "sessions": False, "answers": "sse"},
}


@pytest.fixture(scope="module")
def tool_servers() -> Iterator[ToolServers]:
    servers = ToolServers()
    yield servers
    servers.close()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    return KINDS[request.param]


@pytest.fixture(params=["legacy", "modern"])
def era(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def row(server: Server | str, **options: Any) -> ToolServer:
    """The server as a row of the table has it."""
    return ToolServer("docs", server if isinstance(server, str) else server.url, **options)


def unwatched() -> Watch:
    return Watch(None, Drain())


class Turn:
    """A turn that calls tools of one server and waits for them."""

    def __init__(self, sessions: ToolSessions, server: ToolServer) -> None:
        self.sessions = sessions
        self._server = server

    def start(self, name: str, arguments: str = "{}", **hints: bool) -> RunningCall:
        return self.sessions.start(self._server, ListedTool(name, **hints), arguments)

    def call(self, name: str, arguments: str = "{}", **hints: bool) -> ToolOutcome:
        return self.wait(self.start(name, arguments, **hints))

    def wait(self, call: RunningCall) -> ToolOutcome:
        until = time.monotonic() + PATIENCE
        poll = select.poll()
        poll.register(self.sessions, select.POLLIN)
        while call.outcome is None:
            assert time.monotonic() < until, "the call has not ended in time"
            poll.poll(1000)
            self.sessions.clear()
        return call.outcome


@contextmanager
def turn(servers: ToolServers, server: ToolServer) -> Iterator[Turn]:
    with servers.sessions() as sessions:
        yield Turn(sessions, server)
