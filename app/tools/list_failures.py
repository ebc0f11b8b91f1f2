"""That a server has just failed to list its tools: the next turns fail at once, in place of waiting for the same."""

from __future__ import annotations

from typing import NamedTuple

from app.contract.tools import ToolServer
from app.tools.failure import Failure

#: Seconds for which the first failure counts. Each further one in a row counts for twice as long.
FIRST_PAUSE = 10.0
LONGEST_PAUSE = 60.0


class _Failed(NamedTuple):
    server: ToolServer
    failure: Failure
    pause: float
    until: float


class ListFailures:
    """The failures of one server since it has listed its tools. Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._newest: _Failed | None = None

    def note(self, server: ToolServer, failure: Failure, now: float) -> None:
        if not failure.is_lasting:
            self.clear()
            return
        before = self._newest
        pause = FIRST_PAUSE
        # The pause of a client's own server does not grow: its owner cannot reload the table.
        if before is not None and not server.from_client:
            pause = min(2 * before.pause, LONGEST_PAUSE)
        self._newest = _Failed(server, failure, pause, now + pause)

    def clear(self) -> None:
        self._newest = None

    def current(self, server: ToolServer, now: float) -> Failure | None:
        """The failure, while it counts. One of a table that has been loaded again since does not: the operator has
        mended something, and wants to see it."""
        newest = self._newest
        if newest is None or now >= newest.until:
            return None
        return newest.failure if server.from_client or server is newest.server else None
