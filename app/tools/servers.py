"""Tool servers as the relay uses them: their tools, and calls that run while the turn's thread does other things.

Nothing here imports the SDK before a server is used: it takes half a second and 55 MiB, which no gateway without tool
servers should pay.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from importlib import import_module
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Self

from app.contract.tools import ListedTool, ToolOutcome, ToolServer, ToolTable
from app.errors import ShuttingDown, ToolListFailed
from app.request_watch import Bell, Late, Watch, wait_ready
from app.tools import failure
from app.tools.arguments import parsed
from app.tools.failure import Failed, Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.tools.engine import Engine, TurnSessions
    from app.tools.listing import Listing

log = logging.getLogger(__name__)

_ENGINE = "app.tools.engine"
#: Seconds that the loop may need beyond its own limits, which are the ones that count.
_SLACK = 10.0
#: Sessions may be opened twice and tools listed twice.
_OPENINGS = 4


def preload(table: ToolTable) -> None:
    """Imports the SDK when the table names a server. Call it before processes are forked, which then share it."""
    if table:
        import_module(_ENGINE)


class ToolServers:
    """There is one a process. Its thread starts when a server is first used."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._lock = Lock()
        self._closed = False

    def listed(self, server: ToolServer, watch: Watch) -> Sequence[ListedTool]:
        """All tools of the server. Raises ToolListFailed, and what the watch raises. For some seconds after a server
        has failed, it is not asked."""
        engine = self._started()
        known = engine.known(server)
        listing, failed = known.listing, known.failure_for(server)
        if listing is None and failed is not None:
            raise _list_failed(server, failed, was_asked=False)
        if listing is None:
            listing = _fetched(engine, server, watch)
        elif known.is_stale and failed is None:
            engine.list(server)
        return listing.tools

    def sessions(self) -> ToolSessions:
        """The sessions of one turn. Close them at its end."""
        return ToolSessions(self._started)

    def close(self) -> None:
        """Ends all calls. Nothing can be started afterwards."""
        with self._lock:
            self._closed = True
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _started(self) -> Engine:
        engine = self._engine
        if engine is not None:
            return engine
        module = import_module(_ENGINE)
        with self._lock:
            if self._closed:
                raise ShuttingDown
            if self._engine is None:
                self._engine = module.Engine()
            return self._engine


def _fetched(engine: Engine, server: ToolServer, watch: Watch) -> Listing:
    future, bell = engine.list(server), Bell()
    try:
        future.add_done_callback(bell.ring)
        wait_ready(bell.fileno(), watch, _OPENINGS * server.open_timeout + _SLACK)
        return future.result()
    except Failed as failed:
        raise _asked_in_vain(server, failed.failure) from failed
    except Late as late:
        raise _asked_in_vain(server, failure.not_listed_in_time(server.open_timeout)) from late
    finally:
        future.cancel()
        bell.close()


def _asked_in_vain(server: ToolServer, failed: Failure) -> ToolListFailed:
    log.warning("cannot list the tools of server %.64r: %s", server.label, failed.words)
    return _list_failed(server, failed, was_asked=True)


def _list_failed(server: ToolServer, failed: Failure, was_asked: bool) -> ToolListFailed:
    if failed.status is not None:
        return ToolListFailed(server.label, failed.status, failure.phrase(failed.status), was_asked=was_asked)
    return ToolListFailed(server.label, cause=failed.words, was_asked=was_asked)


class ToolSessions:
    """One turn's sessions with tool servers. Its methods return at once. For one thread."""

    def __init__(self, started: Callable[[], Engine]) -> None:
        self._started = started
        self._bell = Bell()
        self._turn: TurnSessions | None = None
        self._running: list[RunningCall] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, server: ToolServer, tool: ListedTool, arguments: str) -> RunningCall:
        """Starts a call. `arguments`: the model's text; when it is no JSON object, the call has failed at once."""
        given = parsed(arguments)
        if given is None:
            self._bell.ring()
            return RunningCall(outcome=failure.invalid_arguments().outcome())
        engine = self._started()
        if self._turn is None:
            self._turn = engine.turn()
        future = engine.start(self._turn.call, engine.known(server), tool, given)
        future.add_done_callback(self._bell.ring)
        call = RunningCall(future)
        self._running.append(call)
        return call

    def fileno(self) -> int:
        """A descriptor that is readable when a call has ended since the last `clear`."""
        return self._bell.fileno()

    def clear(self) -> None:
        """Makes the descriptor unreadable until the next call ends. Look at the outcomes afterwards, not before."""
        self._bell.clear()

    def close(self) -> None:
        """Cancels what still runs and lets the sessions end behind the turn."""
        for call in self._running:
            call.cancel()
        self._bell.close()
        if self._turn is not None:
            with suppress(ShuttingDown):
                # At the end of the process the loop ends them itself.
                self._started().start(self._turn.close)


class RunningCall:
    """A call, from its start."""

    __slots__ = ("_future", "_outcome")

    def __init__(self, future: Future[ToolOutcome] | None = None, outcome: ToolOutcome | None = None) -> None:
        self._future = future
        self._outcome = outcome

    @property
    def outcome(self) -> ToolOutcome | None:
        """None while the call runs."""
        if self._outcome is None and self._future is not None and self._future.done():
            self._outcome = _outcome_of(self._future)
        return self._outcome

    def cancel(self) -> None:
        """Ends the call at once and tells the server. A call that has ended keeps its outcome."""
        if self._future is not None:
            self._future.cancel()


def _outcome_of(future: Future[ToolOutcome]) -> ToolOutcome:
    if future.cancelled():
        return failure.cancelled().outcome()
    if (error := future.exception()) is not None:
        log.error("a tool call has ended with an error that was not foreseen", exc_info=error)
        return failure.uncallable().outcome()
    return future.result()
