"""The event loop of one process on which the SDK runs, in a thread of its own, and what it remembers of each server.

Importing this module imports the SDK. The loop must be started after the fork: a child cannot use its parent's.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from threading import Lock
from typing import Any, TypeVar, TypeVarTuple

import anyio
from anyio.abc import TaskGroup, TaskStatus
from anyio.from_thread import start_blocking_portal

from app.contract.tools import ListedTool, ToolOutcome, ToolServer
from app.errors import ShuttingDown
from app.tools.failure import Failed, cancelled
from app.tools.known_server import KnownServer, key_of
from app.tools.listing import Listing
from app.tools.session import ServerSession

#: Its loggers quote messages, session ids and addresses. What goes wrong is in the outcomes of the calls.
_SILENT = ("mcp", "client", "httpx2", "httpcore2")
#: Most servers that are remembered, and most bytes of their listings.
_MOST_KNOWN = 256
_MOST_LISTED = 32 * 1024 * 1024
#: Seconds for the clients to close at the end of the process.
_FAREWELL = 2.0

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

for name in _SILENT:
    logging.getLogger(name).setLevel(logging.CRITICAL)


class Engine:
    """Its methods may be called by any thread but the loop's own."""

    def __init__(self) -> None:
        # It stops when it is collected.
        self._keep = start_blocking_portal("asyncio", name="tool servers")
        self._portal = self._keep.__enter__()
        self._ended, self._tasks = self._portal.start_task(_hold_tasks)
        self._lock = Lock()
        self._known: OrderedDict[bytes, KnownServer] = OrderedDict()
        self._fetches: dict[KnownServer, _Fetch] = {}
        """The listings that are being fetched; for the loop alone."""

    def start(self, work: Callable[[*Arguments], Awaitable[Result]], *arguments: *Arguments) -> Future[Result]:
        """Starts the work on the loop. Cancelling the future cancels it. Raises ShuttingDown at the process's end."""
        try:
            return self._portal.start_task_soon(work, *arguments)
        except RuntimeError as error:
            raise ShuttingDown from error

    def turn(self) -> TurnSessions:
        return TurnSessions(self.known, self._tasks)

    def known(self, server: ToolServer) -> KnownServer:
        """What is remembered of the server."""
        key = key_of(server)
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known
            known = self._known[key] = KnownServer(server)
            forgotten = self._too_many()
        # Not under the lock: the loop itself answers when something is started on it.
        for one in forgotten:
            self.start(_evict, one)
        return known

    def _too_many(self) -> list[KnownServer]:
        """Takes out those that were not used for longest, the one in use excepted."""
        taken = []
        listed = sum(one.listing.size for one in self._known.values() if one.listing is not None)
        while len(self._known) > 1 and (len(self._known) > _MOST_KNOWN or listed > _MOST_LISTED):
            _, oldest = self._known.popitem(last=False)
            listed -= oldest.listing.size if oldest.listing is not None else 0
            taken.append(oldest)
        return taken

    def list(self, server: ToolServer) -> Future[Listing]:
        """The listing that is being fetched, or one more. It fails with Failed."""
        return self.start(self._list, self.known(server), server)

    async def _list(self, known: KnownServer, server: ToolServer) -> Listing:
        fetch = self._fetches.get(known)
        if fetch is None:
            fetch = self._fetches[known] = _Fetch()
            # Not in this task, which ends when its turn does, although others wait as well.
            self._tasks.start_soon(self._fetch, known, server, fetch)
        await fetch.ended.wait()
        if fetch.listing is None:
            raise Failed(fetch.failure)
        return fetch.listing

    async def _fetch(self, known: KnownServer, server: ToolServer, fetch: _Fetch) -> None:
        session = ServerSession(known, self._tasks)
        try:
            fetch.listing = await session.list_tools()
            known.listed(fetch.listing)
        except Failed as failed:
            fetch.failure = failed.failure
            known.not_listed(server, failed.failure)
        finally:
            del self._fetches[known]
            fetch.ended.set()
        await session.close()

    def close(self) -> None:
        """Ends all sessions and the loop."""
        # A loop that has ended already has nothing to end.
        with suppress(RuntimeError):
            self._portal.call(self._end)
            self._portal.call(self._portal.stop, True)
        self._keep.__exit__(None, None, None)

    async def _end(self) -> None:
        self._tasks.cancel_scope.cancel()
        with anyio.move_on_after(_FAREWELL):
            while not self._ended.done():
                await anyio.sleep(0.005)
            for known in self._known.values():
                await known.close()


class _Fetch:
    """A listing that is being fetched, for all turns that wait for it."""

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.listing: Listing | None = None
        self.failure = cancelled()


async def _hold_tasks(*, task_status: TaskStatus[TaskGroup]) -> None:
    """The group in which all sessions live."""
    async with anyio.create_task_group() as tasks:
        task_status.started(tasks)
        await anyio.sleep_forever()


async def _evict(known: KnownServer) -> None:
    known.evicted = True
    if known.idle:
        await known.close()


class TurnSessions:
    """The sessions of one turn, on the event loop: one a server, opened when it is first needed."""

    def __init__(self, known: Callable[[ToolServer], KnownServer], tasks: TaskGroup) -> None:
        self._known = known
        self._tasks = tasks
        self._sessions: dict[KnownServer, ServerSession] = {}

    async def call(self, known: KnownServer, tool: ListedTool, arguments: dict[str, Any]) -> ToolOutcome:
        session = self._sessions.get(known)
        if session is None:
            session = self._sessions[known] = ServerSession(known, self._tasks)
        return await session.call(tool, arguments)

    async def close(self) -> None:
        for session in self._sessions.values():
            self._tasks.start_soon(session.close)
