"""Calls of tools: one row a call, committed before the call leaves. The row is the operator's record of the call, the
mark that keeps a background run from calling again, and the answer to the approval request of a call. `started_at`
tells an answer from a call that has left: it is 0 until then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from app.contract.records import ToolCall
from app.errors import StoreUnavailable
from app.metrics.measures import OFF, Measures
from app.store import recent_errors
from app.store.database import Conflict, Database, Row, Session
from app.store.errors import AlreadyAnswered
from app.store.grouped_writes import MAX_ITEM_ID, Group
from app.store.sums import DAY_SECONDS, day_of
from app.store.unwritten import Unwritten
from app.store.writer import Writer

_COLUMNS = ("owner", "item_id", "response", "server", "tool", "started_at", "approval_request")
_MOST = 500
"""Ids in one query."""

_ANSWERED = (
    "SELECT item_id, response, started_at FROM tool_call WHERE owner = ? AND (item_id = ? OR approval_request = ?)"
)
_ANSWER_AGAIN = (
    "UPDATE tool_call SET item_id = ?, response = ?, server = ?, tool = ?, started_at = ?, ms = NULL, bytes = NULL,"
    " error = NULL, result = NULL WHERE owner = ? AND approval_request = ?"
)
_START = "UPDATE tool_call SET started_at = ? WHERE owner = ? AND item_id = ? AND response = ? AND started_at IN (0, ?)"
_ENDED_AS = "SELECT status FROM response WHERE id = ? AND owner = ?"
#: How a response has ended that gives its client no result of the call.
_WITHOUT_RESULT = ("failed", "cancelled")
_END = "UPDATE tool_call SET ms = ?, bytes = ?, error = ?, result = ? WHERE owner = ? AND item_id = ?"
_OF_RESPONSE = (
    "SELECT item_id, server, tool, started_at, approval_request, ms, bytes, error, result FROM tool_call"
    " WHERE owner = ? AND response = ? ORDER BY started_at, item_id"
)
_RESULTS = "SELECT item_id, result FROM tool_call WHERE owner = ? AND item_id IN (%s) AND result IS NOT NULL"


class ToolCallStore(Protocol):
    """Calls of tools as a turn reads and writes them: those of the database, with or without a connection's own."""

    def begin(self, owner: str, response: str, calls: Sequence[ToolCall]) -> None:
        """Commits the calls before they leave, or answers to approval requests. Raises AlreadyAnswered, and commits
        none of them, if the approval request of one was answered before, unless nothing has come of that: its call has
        not left, or may be repeated because its response has failed."""
        ...

    def start(self, owner: str, response: str, calls: Sequence[ToolCall]) -> None:
        """Commits that approved calls leave now. Raises AlreadyAnswered if another turn has answered the approval
        request of one in the meantime."""
        ...

    def end(self, owner: str, response: str, calls: Sequence[ToolCall]) -> None:
        """Writes how the calls ended, before the end of their response."""
        ...

    def settle(self) -> None:
        """Returns once all that this process has written behind its answers until now is committed. Raises
        StoreUnavailable."""
        ...

    def of_response(self, owner: str, response: str) -> list[ToolCall]:
        """The calls of a response, in the order in which they left."""
        ...

    def results(self, owner: str, item_ids: Sequence[str]) -> Mapping[str, bytes]:
        """The hidden results of hosted calls, by the id of the call's item."""
        ...


class ToolCalls:
    def __init__(
        self, database: Database, writer: Writer[Group], unwritten: Unwritten, measures: Measures = OFF
    ) -> None:
        self._database = database
        self._measures = measures
        self._writer = writer
        self._unwritten = unwritten
        self._insert = database.dialect.insert("tool_call", _COLUMNS)
        self._answered = _ANSWERED + database.dialect.hold

    def begin(self, owner: str, response: str, calls: Sequence[ToolCall]) -> None:
        self._writer.do(lambda group: self._begin(group.session, owner, response, calls))

    def start(self, owner: str, response: str, calls: Sequence[ToolCall]) -> None:
        self._writer.do(lambda group: _start(group.session, owner, response, calls))

    def end(self, owner: str, response: str, calls: Sequence[ToolCall]) -> None:
        for call in calls:
            self._measures.tool_called(call)

        def write(group: Group) -> None:
            for call in calls:
                result = call.result.decode() if call.result is not None and call.stored else None
                ended = (call.milliseconds, call.size, call.error, result, owner, call.item_id)
                group.session.run(_END, group.session.large(ended))
                if call.error is not None:
                    group.add_error(recent_errors.of_call(owner, call))
                group.sums.add_call(
                    day_of(call.started_at // 1000 // DAY_SECONDS),
                    call.server,
                    call.tool,
                    failed=call.error is not None,
                    milliseconds=call.milliseconds or 0,
                    size=call.size or 0,
                )

        def on_done(error: BaseException | None) -> None:
            if isinstance(error, StoreUnavailable) and not self._unwritten.full:
                size = sum(len(call.result or b"") for call in calls)
                self._unwritten.add(calls[0].item_id, write, write, size)

        self._writer.post(write, on_done)

    def settle(self) -> None:
        # Jobs are written in their order.
        self._writer.do(lambda group: None)

    def of_response(self, owner: str, response: str) -> list[ToolCall]:
        rows = self._database.read(lambda session: session.rows(_OF_RESPONSE, (owner, response)))
        return list(map(_call, rows))

    def results(self, owner: str, item_ids: Sequence[str]) -> Mapping[str, bytes]:
        found: dict[str, bytes] = {}
        for start in range(0, len(item_ids), _MOST):
            some = [item_id for item_id in item_ids[start : start + _MOST] if len(item_id) <= MAX_ITEM_ID]
            if some:
                found |= self._database.read(partial(_results, owner=owner, item_ids=some))
        return found

    def _begin(self, session: Session, owner: str, response: str, calls: Sequence[ToolCall]) -> None:
        for call in calls:
            approval = call.approval_request_id
            values = (owner, call.item_id, response, call.server, call.tool, call.started_at, approval)
            try:
                session.insert(self._insert, values)
            except Conflict:
                row = session.row(self._answered, (owner, call.item_id, approval))
                if row is None or not self._may_follow(session, owner, row, response, call):
                    raise AlreadyAnswered(approval or call.item_id) from None

    def _may_follow(self, session: Session, owner: str, row: Row, response: str, call: ToolCall) -> bool:
        """Whether the call may have its row where there is this one already. Takes that one over if need be."""
        item_id, earlier, started_at = row
        if item_id == call.item_id:
            # A retry after a commit whose answer was lost finds its own row. Clients that send their whole history send
            # the same denial in every turn.
            return bool(earlier == response or item_id == call.approval_request_id)
        if item_id == call.approval_request_id or (started_at and not _may_repeat(session, owner, earlier, call)):
            return False
        values = (call.item_id, response, call.server, call.tool, call.started_at)
        return session.run(_ANSWER_AGAIN, (*values, owner, call.approval_request_id)) == 1


def _start(session: Session, owner: str, response: str, calls: Sequence[ToolCall]) -> None:
    for call in calls:
        # A retry after a commit whose answer was lost finds its own time.
        if session.run(_START, (call.started_at, owner, call.item_id, response, call.started_at)) != 1:
            raise AlreadyAnswered(call.approval_request_id or call.item_id)


def _may_repeat(session: Session, owner: str, response: str, call: ToolCall) -> bool:
    row = session.row(_ENDED_AS, (response, owner))
    return call.repeatable and row is not None and row[0] in _WITHOUT_RESULT


def has_calls(session: Session, response: int) -> bool:
    """Whether a call of a response, named by its key, has left."""
    return (
        session.row(
            "SELECT 1 FROM tool_call c JOIN response r ON r.id = c.response"
            " WHERE r.pk = ? AND c.started_at <> 0 LIMIT 1",
            (response,),
        )
        is not None
    )


def forget_results(session: Session, response: str) -> None:
    """Removes what the calls of a response have found. The operator's record stays."""
    session.run("UPDATE tool_call SET result = NULL WHERE response = ? AND result IS NOT NULL", (response,))


def _call(row: Row) -> ToolCall:
    *facts, result = row
    return replace(ToolCall(*facts), result=None if result is None else result.encode())


def _results(session: Session, owner: str, item_ids: Sequence[str]) -> dict[str, bytes]:
    marks = ", ".join("?" * len(item_ids))
    return {item_id: result.encode() for item_id, result in session.rows(_RESULTS % marks, (owner, *item_ids))}
