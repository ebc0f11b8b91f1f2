"""What the database holds of an owner, row by row: the responses, oldest first, then the conversations. One response is
in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from app.contract.usage import Usage
from app.store.database import Database, Session
from app.store.erasure import owned_keys

_FACTS = (
    "SELECT r.pk, r.id, p.id, t.name, r.conversation, r.status, r.kept, r.deleted_at, r.streamed, r.model, r.channel,"
    " r.upstream_model, r.request_id, r.created_at, r.completed_at, r.input_tokens, r.cached_tokens,"
    " r.cache_write_tokens, r.output_tokens, r.reasoning_tokens, r.estimated, r.error, r.incomplete_details, r.echo,"
    " s.json FROM response r LEFT JOIN response p ON p.pk = r.parent LEFT JOIN token t ON t.pk = r.token"
    " LEFT JOIN setting s ON s.pk = r.settings WHERE r.pk IN ({marks}) AND r.created_at >= ? ORDER BY r.pk"
)
_CALLED = "SELECT DISTINCT response FROM tool_call WHERE response IN ({marks})"
_CALLS = "SELECT item_id, server, tool, started_at, ms, error, result FROM tool_call WHERE response = ? ORDER BY 4, 1"
_TURNS = (
    "SELECT position, response, created_at, input, output FROM conversation_turn"
    " WHERE conversation = ? AND position > ? AND created_at >= ? ORDER BY position LIMIT 1"
)


class ResponseRow(NamedTuple):
    """A response as it is stored. Members in JSON are texts."""

    key: int
    id: str
    parent: str | None
    token: str | None
    """Its name."""
    conversation: str | None
    status: str
    stored: int
    deleted_at: int | None
    streamed: int
    model: str
    channel: str | None
    upstream_model: str | None
    request_id: str | None
    created_at: int
    completed_at: int | None
    input_tokens: int | None
    cached_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    estimated: int
    error: str | None
    incomplete_details: str | None
    echo: str | None
    settings: str | None

    @property
    def usage(self) -> Usage | None:
        if self.input_tokens is None:
            return None
        return Usage(
            self.input_tokens,
            self.cached_tokens,
            self.cache_write_tokens,
            self.output_tokens,
            self.reasoning_tokens,
            bool(self.estimated),
        )


class CallRow(NamedTuple):
    """A call of a tool server; `result` is what a hosted tool has found."""

    item: str
    server: str
    tool: str
    started_at: int
    ms: int | None
    error: str | None
    result: str | None


class Export:
    def __init__(self, database: Database, owner: str, since: int) -> None:
        """`since`: unix seconds; what is older is left out."""
        self._database = database
        self._owner = owner
        self._since = since

    def responses(self) -> Iterator[tuple[ResponseRow, str, str, list[CallRow]]]:
        """Each response with its input and output, JSON arrays, and its calls of tools."""
        for keys in owned_keys(self._database, "response", self._owner):
            rows = self._rows(_FACTS.format(marks=_marks(keys)), (*keys, self._since))
            facts = [ResponseRow._make(row) for row in rows]
            ids = [row.id for row in facts]
            called = {row[0] for row in self._rows(_CALLED.format(marks=_marks(ids)), ids)} if ids else set()
            for row in facts:
                bodies = self._rows("SELECT input, output FROM content WHERE response = ?", (row.key,))
                input, output = bodies[0] if bodies else (None, None)
                calls = self._rows(_CALLS, (row.id,)) if row.id in called else []
                yield row, input or "[]", output or "[]", [CallRow._make(call) for call in calls]

    def conversations(self) -> Iterator[tuple[int, str, int, str]]:
        """Key, id, time and metadata (a JSON object) of each conversation."""
        for keys in owned_keys(self._database, "conversation", self._owner):
            sql = f"SELECT pk, id, created_at, metadata FROM conversation WHERE pk IN ({_marks(keys)}) ORDER BY pk"
            yield from ((int(pk), id, created_at, metadata) for pk, id, created_at, metadata in self._rows(sql, keys))

    def turns(self, conversation: int) -> Iterator[tuple[str | None, int, str, str]]:
        """The response, the time, the input and the output of each turn of a conversation, which is named by its
        key."""
        position = 0
        while rows := self._rows(_TURNS, (conversation, position, self._since)):
            position, *turn = rows[0]
            response, created_at, input, output = turn
            yield response, created_at, input, output

    def _rows(self, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        return self._database.read(partial(Session.rows, sql=sql, parameters=parameters))


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
