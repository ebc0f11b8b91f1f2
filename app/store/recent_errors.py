"""The newest failures of each channel and of each tool server, written together with the responses that met them.

A table of its own, because no index leads from a channel to its failures: a response that another channel answered has
failed nowhere else. The reaper deletes all but the newest.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from app.contract.records import Attempt, Draft, ToolCall
from app.store.database import Database, Session
from app.store.writer import Writer

if TYPE_CHECKING:
    from app.store.grouped_writes import Group

CHANNEL, TOOL_SERVER = "channel", "tool server"
#: The code of a tool server that did not list its tools.
UNLISTED = "not listed"

#: Failures of one channel that are shown, and stored between two visits of the reaper at least.
NEWEST = 20
#: Characters of a message that are stored.
MESSAGE = 200
#: Seconds after which a failure is forgotten.
LIFETIME = 30 * 86_400
_NAME = 191

#: Refusals of the request itself, which say nothing about the channel. Their words may quote what the client has sent.
REFUSALS = frozenset({400, 413, 415, 422})

COLUMNS = ("kind", "name", "at", "status", "code", "message", "owner", "response")
_SELECT = (
    "SELECT e.kind, e.name, e.at, e.status, e.code, e.message, e.owner, r.id, r.request_id FROM recent_error e"
    " LEFT JOIN response r ON r.pk = e.response WHERE e.kind = ? ORDER BY e.pk DESC LIMIT ?"
)
_NAMES = f"SELECT kind, name FROM recent_error GROUP BY kind, name HAVING COUNT(*) > {NEWEST}"
_LAST_SHOWN = f"SELECT pk FROM recent_error WHERE kind = ? AND name = ? ORDER BY pk DESC LIMIT 1 OFFSET {NEWEST}"
_REMOVE = "DELETE FROM recent_error WHERE kind = ? AND name = ? AND pk <= ?"

#: Rows that one page reads at most, of all channels together.
MOST = 2000


class NewError(NamedTuple):
    """A failure as it is written."""

    kind: str
    name: str
    at: int
    status: int | None
    code: str
    message: str
    owner: str
    response: int | None
    """The key of its response."""


class RecentError(NamedTuple):
    kind: str
    name: str
    at: int
    """Unix time."""
    status: int | None
    """HTTP's; None for a tool."""
    code: str
    message: str
    """The beginning of what the upstream said, or the name of the tool; empty if it said nothing that may be stored."""
    owner: str
    response: str | None
    """Its id, while it is known."""
    request: str | None


class RecentErrors:
    def __init__(self, database: Database, writer: Writer[Group]) -> None:
        self._database = database
        self._writer = writer

    def note_unlisted(self, owner: str, label: str) -> None:
        """Writes, some time later, that a turn of this owner did not get the list of a tool server's tools."""
        error = NewError(TOOL_SERVER, label[:_NAME], int(time.time()), None, UNLISTED, "", owner, None)
        self._writer.post(lambda group: group.add_error(error))

    def channels(self) -> Mapping[str, Sequence[RecentError]]:
        """The newest failures of each channel, newest first."""
        return self._of(CHANNEL)

    def tool_servers(self) -> Mapping[str, Sequence[RecentError]]:
        """The newest failures of each tool server, newest first."""
        return self._of(TOOL_SERVER)

    def _of(self, kind: str) -> Mapping[str, Sequence[RecentError]]:
        found: dict[str, list[RecentError]] = {}
        for row in self._database.read(lambda session: session.rows(_SELECT, (kind, MOST))):
            error = RecentError._make(row)
            named = found.setdefault(error.name, [])
            if len(named) < NEWEST:
                named.append(error)
        return found


def of_attempts(draft: Draft, at: int, attempts: Sequence[Attempt], response: int, *, stored: bool) -> list[NewError]:
    """The failures among the attempts of a response."""
    return [
        NewError(
            CHANNEL,
            attempt.channel[:_NAME],
            at,
            attempt.status,
            attempt.error[:_NAME],
            _message(attempt, stored=stored),
            draft.owner,
            response,
        )
        for attempt in attempts
        if attempt.error is not None
    ]


def _message(attempt: Attempt, *, stored: bool) -> str:
    """Nothing of the content of an unstored response is stored, not even as the quotation in a refusal."""
    if not stored and attempt.status in REFUSALS:
        return ""
    return " ".join((attempt.upstream_message or "").split())[:MESSAGE]


def of_call(owner: str, call: ToolCall) -> NewError:
    """The failure of a call: its kind and the name of the tool, without the words of the server."""
    at, kind = int(time.time()), (call.error or "")[:_NAME]
    return NewError(TOOL_SERVER, call.server[:_NAME], at, None, kind, call.tool[:MESSAGE], owner, None)


def newest(errors: Sequence[NewError]) -> list[NewError]:
    """Those that will be shown, in their order: a group of responses may hold hundreds."""
    seen: Counter[tuple[str, str]] = Counter()
    chosen: list[NewError] = []
    for error in reversed(errors):
        if seen[error.kind, error.name] < NEWEST:
            seen[error.kind, error.name] += 1
            chosen.append(error)
    return chosen[::-1]


def trim(session: Session, now: int) -> None:
    """Deletes the failures that are too old, or not among the newest of their channel or server."""
    for kind, name in session.rows(_NAMES):
        if (last := session.row(_LAST_SHOWN, (kind, name))) is not None:
            session.run(_REMOVE, (kind, name, last[0]))
    # The table is small by now.
    session.run("DELETE FROM recent_error WHERE at < ?", (now - LIFETIME,))
