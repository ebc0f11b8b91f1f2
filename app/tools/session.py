"""The sessions of one turn with one tool server, on the event loop.

A session of the SDK dies of one network error, with all calls on it, and stays dead. So it belongs to one turn, each
failure is read for the one call that it concerns, and what comes next opens another.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from math import inf
from time import monotonic
from typing import Any, TypeVar

import anyio
import httpx2
from anyio.abc import TaskGroup
from mcp.client.client import Client
from mcp.client.session import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    CallToolRequest,
    CallToolRequestParams,
    Implementation,
)
from pydantic import BaseModel

from app.contract.tools import ListedTool, ToolOutcome
from app.tools import failure as failures
from app.tools import wire
from app.tools.diagnosis import diagnose
from app.tools.failure import Failed, Failure, Repeat
from app.tools.known_server import KnownServer
from app.tools.listing import Listing, list_tools
from app.tools.results import outcome_of

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

#: MCP demands a version. Servers of strangers need not know ours.
_CLIENT = Implementation(name="antiphon", version="1")
#: What sessions raise for a server's failures, alone or in groups.
_FAILURES = (MCPError, httpx2.HTTPError, httpx2.StreamError, OSError, ValueError, RuntimeError, ExceptionGroup)
#: Calls of a turn that run at once; further ones wait.
_AT_ONCE = 16
#: Seconds for cancelled calls to tell the server.
_UNWIND = 1.0
#: Seconds for the server to end its side of a session.
_FAREWELL = 2.0


class _Result(BaseModel, extra="allow"):
    """A result as it came. The SDK has checked it against the protocol; its own model would only rename members."""


class _Opened:
    """One session of the SDK, from its opening to its end. One task enters and leaves it."""

    def __init__(self) -> None:
        self.ready = anyio.Event()
        """It is open, or has failed."""
        self.session: ClientSession | None = None
        self.failure: Failure | None = None
        self.over = anyio.Event()
        """The turn needs it no more."""
        self.closed = anyio.Event()


class ServerSession:
    """A turn's sessions with one server, one after the other. All methods run on the event loop."""

    def __init__(self, known: KnownServer, tasks: TaskGroup) -> None:
        self._known = known
        self._server = known.server
        self._tasks = tasks
        self._all: list[_Opened] = []
        self._current: _Opened | None = None
        self._running = 0
        self._unwound = anyio.Event()
        self._closing = False
        self._limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def list_tools(self) -> Listing:
        """Raises Failed."""
        seconds = self._server.open_timeout
        late = failures.not_listed_in_time(seconds)
        listing, _ = await self._ask(lambda session: list_tools(session, self._server.label), seconds, late, _ANY)
        return listing

    async def call(self, tool: ListedTool, arguments: dict[str, Any]) -> ToolOutcome:
        """Calls the tool. What the server does wrong is in the outcome."""
        began = monotonic()
        self._running += 1
        try:
            async with self._limiter:
                outcome = await self._outcome(tool, arguments)
        finally:
            self._running -= 1
            if self._closing and not self._running:
                self._unwound.set()
        return replace(outcome, milliseconds=round(1000 * (monotonic() - began)))

    async def _outcome(self, tool: ListedTool, arguments: dict[str, Any]) -> ToolOutcome:
        seconds = self._server.call_timeout
        late = failures.timed_out(seconds)
        try:
            result, size = await self._ask(lambda session: self._send(session, tool, arguments), seconds, late, tool)
        except Failed as failed:
            if failed.failure.error.get("code") in (INVALID_PARAMS, METHOD_NOT_FOUND):
                self._known.doubt_listing()
            return failed.failure.outcome()
        if result.get("resultType", "complete") != "complete":
            return failures.input_required().outcome()
        return replace(outcome_of(result, self._server.max_result, self._known.redact), size=size)

    async def _send(self, session: ClientSession, tool: ListedTool, arguments: dict[str, Any]) -> dict[str, Any]:
        """`session.call_tool` would list the tools again, and lose results that its output schema does not allow."""
        request = CallToolRequest(params=CallToolRequestParams(name=tool.name, arguments=arguments))
        try:
            return await _sent(session, request)
        except MCPError as error:
            if error.code != HEADER_MISMATCH:
                raise
        # The server wants some arguments as headers too. A session knows which after it has listed the tools.
        await list_tools(session, self._server.label)
        return await _sent(session, request)

    async def close(self) -> None:
        """Waits a moment for cancelled calls: closed at once, a session would not tell the server of them."""
        self._closing = True
        if self._running:
            with anyio.move_on_after(_UNWIND):
                await self._unwound.wait()
        for opened in self._all:
            opened.over.set()
        for opened in self._all:
            await opened.closed.wait()

    # One request on a session

    async def _ask(
        self, work: Callable[[ClientSession], Awaitable[Answer]], seconds: float, late: Failure, tool: ListedTool
    ) -> tuple[Answer, int]:
        """Does the work on an open session and returns its answer, with the bytes that have arrived for it. A failed
        one is tried once more, on a new session, if the tool may be called again. Raises Failed.
        """
        deadline = inf
        for last in (False, True):
            noted = wire.note()
            opened, session = await self._open()
            deadline = min(deadline, anyio.current_time() + seconds)
            failure = late
            try:
                with anyio.CancelScope(deadline=deadline):
                    return await work(session), noted.received
            except _FAILURES as error:
                failure = diagnose(error, noted, self._known.redact)
            if last or not self._may_repeat(failure, tool):
                break
            self._leave(opened)
        raise Failed(failure)

    def _may_repeat(self, failure: Failure, tool: ListedTool) -> bool:
        return failure.repeat.allows(tool) or (failure.other_protocol and self._known.forget())

    # Its sessions

    async def _open(self) -> tuple[_Opened, ClientSession]:
        """The current session, or a new one. Raises Failed."""
        for last in (False, True):
            opened = self._current
            if opened is None or opened.closed.is_set():
                opened = self._current = _Opened()
                self._all.append(opened)
                self._tasks.start_soon(self._live, opened)
            await opened.ready.wait()
            if opened.session is not None:
                return opened, opened.session
            failure = opened.failure or failures.cancelled()
            self._leave(opened)
            # An idle connection may have ended unnoticed. To open a session once more does no harm.
            harmless = failure.repeat is Repeat.IF_HARMLESS
            if last or not (harmless or (failure.other_protocol and self._known.forget())):
                break
        raise Failed(failure)

    def _leave(self, opened: _Opened) -> None:
        """What comes next needs another session. Other calls may still run on this one."""
        if self._current is opened:
            self._current = None

    async def _live(self, opened: _Opened) -> None:
        """Enters a session, waits until the turn is over, and leaves it. Must not raise: it shares a group of tasks
        with all other turns.
        """
        noted = wire.note()
        http = self._known.acquire()
        try:
            await self._enter(opened, http)
        except TimeoutError:
            opened.failure = failures.not_opened_in_time(self._server.open_timeout)
        except _FAILURES as error:
            # A session that has died raises here once more, although its calls have already reported it.
            opened.failure = diagnose(error, noted, self._known.redact)
        finally:
            opened.closed.set()
            opened.ready.set()
            with anyio.CancelScope(shield=True, deadline=anyio.current_time() + _FAREWELL):
                await self._known.release()

    async def _enter(self, opened: _Opened, http: httpx2.AsyncClient) -> None:
        known, server = self._known, self._server
        limit = wire.most_of_answer(server)
        transport = streamable_http_client(str(server.url), http_client=http, max_sse_event_size=limit)
        client = Client(transport, mode=known.mode, prior_discover=known.found, cache=None, client_info=_CLIENT)
        with anyio.fail_after(server.open_timeout) as opening:
            async with client:
                opening.deadline = inf
                known.remember(client.session)
                opened.session = client.session
                opened.ready.set()
                await opened.over.wait()
                opening.deadline = anyio.current_time() + _FAREWELL


#: A listing may be repeated like a call of a tool that changes nothing.
_ANY = ListedTool(name="", read_only=True)


async def _sent(session: ClientSession, request: CallToolRequest) -> dict[str, Any]:
    result = await session.send_request(request, _Result)
    return result.model_extra or {}
