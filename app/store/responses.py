"""Responses: begun, ended, read, cancelled and deleted. A completed or incomplete response gets its position in the
tree here: the first child continues its parent's branch, every other child opens a branch of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import orjson

from app.contract.records import (
    CHAINABLE,
    Attempt,
    Chain,
    ConversationTurn,
    Draft,
    Outcome,
    StoredResponse,
    UpstreamResponse,
)
from app.contract.usage import Usage
from app.errors import StoreUnavailable
from app.ids import known_id
from app.metrics.measures import OFF, Measures
from app.store import chain, conversations, events, packets, recent_errors, tree_sums
from app.store.database import Conflict, Database, Row, Session
from app.store.dialects import Dialect
from app.store.grouped_writes import MAX_ITEM_ID, Group
from app.store.leases import HELD, Leases
from app.store.prompt_digests import NO_COLUMN, Column, added, end_of
from app.store.sums import DAY_SECONDS, SLOT_SECONDS, Place, day_of
from app.store.tool_calls import forget_results
from app.store.tree_positions import LOST, ROOT, TreePosition, TreePositions
from app.store.tree_sums import MAX_NAME
from app.store.unwritten import Unwritten
from app.store.writer import Writer

BEGUN_COLUMNS = (
    "id",
    "owner",
    "parent",
    "status",
    "kept",
    "streamed",
    "token",
    "model",
    "request_id",
    "created_at",
    "settings",
    "echo",
    "conversation",
    "seen",
    "client",
    "root",
)
ENDED_COLUMNS = (
    "status",
    "opaque",
    "estimated",
    "channel",
    "family",
    "upstream_model",
    "upstream_id",
    "completed_at",
    "first_byte_ms",
    "total_ms",
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost",
    "error",
    "incomplete_details",
    "attempts",
    "compaction",
    "outline",
)
POSITION_COLUMNS = ("branch", "depth", "since")
LATE_COLUMNS = (
    "channel",
    "upstream_model",
    "first_byte_ms",
    "estimated",
    "total_ms",
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost",
)

READ = (
    "SELECT r.owner, p.id, r.status, r.model, r.created_at, r.completed_at, s.json, r.echo, c.input, c.output,"
    " r.input_tokens, r.cached_tokens, r.cache_write_tokens, r.output_tokens, r.reasoning_tokens, r.estimated,"
    " r.error, r.incomplete_details, r.streamed, r.conversation, r.seen, r.id"
    " FROM response r LEFT JOIN response p ON p.pk = r.parent LEFT JOIN setting s ON s.pk = r.settings"
    " LEFT JOIN content c ON c.response = r.pk"
    " WHERE r.id = ? AND r.owner = ? AND r.kept = 1 AND r.deleted_at IS NULL"
)
BURY = "UPDATE response SET deleted_at = ?, echo = NULL, outline = NULL, worker = NULL"
BURIED = "WHERE id = ? AND owner = ? AND kept = 1 AND deleted_at IS NULL"
UPSTREAM = "SELECT id, upstream_id, family FROM response WHERE id = ? AND owner = ? AND deleted_at IS NULL"
CONTENT = (
    "SELECT r.pk, r.settings, r.error, c.input, c.output FROM response r LEFT JOIN content c ON c.response = r.pk"
    " WHERE r.id = ? AND r.owner = ?"
)


_NOTE_CHANNEL = "UPDATE response SET channel = ? WHERE id = ? AND status = 'in_progress'"

NOWHERE = (None, None, 0)

Columns = tuple[int | None, int | None, int]
"""branch, depth, since"""


class Ended(NamedTuple):
    written: bool
    position: TreePosition | None


@dataclass(frozen=True, slots=True)
class Record:
    """A draft and its outcome as column values, made in the caller's thread to keep the writer's work small."""

    draft: Draft
    outcome: Outcome
    stored: bool
    echo: bytes
    ended: tuple[Any, ...]
    late: tuple[Any, ...]
    """What a row still gets that was ended elsewhere."""
    place: Place
    """Where it is counted."""
    tree_turn: tree_sums.Turn | None
    """What it adds to the row of its tree."""
    turn: ConversationTurn | None
    """Appended to its conversation in the same transaction."""

    @property
    def is_in_tree(self) -> bool:
        return self.stored and self.outcome.status in CHAINABLE

    @property
    def is_partial_stream(self) -> bool:
        """It is what a client has seen of an answer that did not come to its end."""
        return self.stored and not self.draft.background and self.outcome.status not in CHAINABLE

    def count(self, group: Group, client: str | None = None, *, failed: bool | None = None) -> None:
        """Adds it to the sums. `client`: that of its row, for a background response. `failed`: of a row that was ended
        elsewhere."""
        outcome = self.outcome
        group.sums.add(
            self.place if client is None else self.place._replace(client=client),
            failed=outcome.status == "failed" if failed is None else failed,
            usage=outcome.usage,
            first_byte_ms=outcome.first_byte_ms,
            total_ms=outcome.total_ms,
        )

    def note_failures(self, group: Group, pk: int) -> None:
        """Adds its failed attempts to the newest failures of their channels, and to their sums. `pk`: the key of its
        row."""
        at = self.outcome.completed_at
        for error in recent_errors.of_attempts(self.draft, at, self.outcome.attempts, pk, stored=self.stored):
            group.add_error(error)
            if error.status not in recent_errors.REFUSALS:
                group.sums.add_error(self.place.slot, error.name)

    def count_turn(self, group: Group, pk: int, parent: TreePosition, columns: Columns) -> None:
        """Adds it to the row of its tree."""
        if self.tree_turn is not None:
            # A first child goes on in its parent's branch.
            branches = int(parent.branch is not None and columns[0] not in (None, parent.branch))
            group.trees.add(pk, parent.tree, self.tree_turn, branches)


class ResponseStore(Protocol):
    """The responses as a turn reads and writes them: those of the database, with or without a connection's own."""

    def begin(self, draft: Draft, channel: str | None = None) -> None:
        """Commits an `in_progress` row that names this worker. The id is sent to no client before. `channel`: the one
        that answers, if that is known by now."""
        ...

    def note_channel(self, response_id: str, channel: str) -> None:
        """Writes which channel answers a response in progress, some time later. Returns at once."""
        ...

    def finish(self, draft: Draft, outcome: Outcome) -> bool:
        """Commits the end. False when a cancel, a delete or the reaper was first: its row stays as it is."""
        ...

    def finish_later(self, draft: Draft, outcome: Outcome) -> None:
        """Keeps an end that the database could not take, and writes it when the database is back, if the row is still
        in progress then. Returns at once.
        """
        ...

    def note(self, draft: Draft, outcome: Outcome) -> None:
        """Writes the metadata of an unstored response, without its content, some time after the answer."""
        ...

    def chain(self, owner: str, response_id: str) -> Chain:
        """The response and its ancestors, from the newest compaction on. Raises HistoryError."""
        ...

    def full_chain(self, owner: str, response_id: str) -> Chain:
        """The response and all its ancestors, behind every compaction. Raises HistoryError."""
        ...

    def read(self, owner: str, response_id: str) -> StoredResponse | None:
        """The stored response; None when it is missing, deleted or another owner's."""
        ...

    def upstream(self, owner: str, response_id: str) -> UpstreamResponse | None:
        """What the upstream knows this response as; None if it is unknown, deleted or has no such id."""
        ...

    def cancel(self, owner: str, response_id: str) -> bool:
        """True when this call ended it: a response that had ended before stays as it is."""
        ...

    def delete(self, owner: str, response_id: str) -> bool:
        """Removes the content for good; False when there was none to remove."""
        ...


class Responses:
    def __init__(
        self,
        database: Database,
        writer: Writer[Group],
        leases: Leases,
        positions: TreePositions,
        unwritten: Unwritten,
        measures: Measures = OFF,
    ) -> None:
        self._database = database
        self._measures = measures
        self._writer = writer
        self._unwritten = unwritten
        self._leases = leases
        self._positions = positions
        self._trees = tree_sums.Statements.of(database.dialect)
        insert = database.dialect.insert
        self._insert_begun = insert("response", [*BEGUN_COLUMNS, "worker", "channel"])
        self._insert_queued = insert("response", BEGUN_COLUMNS)
        self._insert_whole = insert(
            "response", [*BEGUN_COLUMNS[:3], *BEGUN_COLUMNS[4:], *ENDED_COLUMNS, "prompt", *POSITION_COLUMNS]
        )
        self._end = (
            f"UPDATE response SET worker = NULL, echo = ?, {_assign(ENDED_COLUMNS)}, prompt = ?,"
            f" {_assign(POSITION_COLUMNS)}"
            " WHERE pk = ? AND status IN ('queued', 'in_progress') AND deleted_at IS NULL"
        )
        self._add_output = f"UPDATE content SET output = {database.dialect.body} WHERE response = ?"
        self._body = database.dialect.parameter
        self._end_held = f"{self._end} AND {HELD}"
        self._end_late = f"UPDATE response SET {_assign(LATE_COLUMNS)} WHERE pk = ? AND total_ms IS NULL"
        self._add_late_output = f"{self._add_output} AND output IS NULL"
        self._begun: set[str] = set()

    # --- writing ------------------------------------------------------------------------------------------------

    def begin(self, draft: Draft, channel: str | None = None) -> None:
        self._check(draft.input, draft.echo, draft.settings)
        self._writer.do(lambda group: self._begin(group, draft, _name(channel)))
        self._begun.add(draft.id)

    def note_channel(self, response_id: str, channel: str) -> None:
        self._writer.post(lambda group: group.session.run(_NOTE_CHANNEL, (_name(channel), response_id)))

    def finish(self, draft: Draft, outcome: Outcome) -> bool:
        """False when the response had been cancelled, deleted or failed by the reaper before."""
        record = _record(draft, outcome, stored=draft.stored)
        self._check(draft.input, outcome.output, record.echo, draft.settings)
        begun = draft.id in self._begun
        ended = self._writer.do(lambda group: self._finish(group, record, begun))
        self._begun.discard(draft.id)
        if ended.position is not None:
            self._positions.remember(draft.owner, draft.id, ended.position)
        # A row that was ended elsewhere was cancelled, deleted or reaped.
        self._measures.response_ended(draft, outcome, outcome.status if ended.written else "cancelled")
        return ended.written

    def finish_later(self, draft: Draft, outcome: Outcome) -> None:
        """Keeps the end until the database can take it; written if the row is still in progress then."""
        self._measures.response_ended(draft, outcome, outcome.status)
        begun = draft.id in self._begun
        self._begun.discard(draft.id)
        bare = replace(draft, input=b"[]", settings=b"{}", item_ids=())
        silent = replace(outcome, output=b"[]", item_ids=())
        whole = _record(bare if begun else draft, outcome, stored=draft.stored)
        # A row that exists has its input already; a new row is written without its content.
        short = _record(bare, silent, stored=draft.stored and begun)
        bodies = (whole.draft.input, outcome.output, whole.echo, whole.draft.settings)
        if not all(map(self._database.fits, bodies)):
            whole = short
        self._unwritten.add(
            draft.id,
            lambda group: self._finish_late(group, whole, begun),
            lambda group: self._finish_late(group, short, begun),
            len(whole.draft.input) + len(whole.outcome.output) + len(whole.echo),
        )

    def note(self, draft: Draft, outcome: Outcome) -> None:
        self._measures.response_ended(draft, outcome, outcome.status)
        # The job may wait for long, so it holds no content.
        record = _record(replace(draft, input=b"[]"), replace(outcome, output=b"[]"), stored=False)
        begun = draft.id in self._begun
        self._begun.discard(draft.id)

        def write(group: Group) -> Ended:
            return self._finish(group, record, begun)

        def on_done(error: BaseException | None) -> None:
            if isinstance(error, StoreUnavailable) and not self._unwritten.full:
                self._unwritten.add(draft.id, write, write, 0)

        self._writer.post(write, on_done)

    def insert_queued(self, group: Group, draft: Draft) -> int | None:
        """The key of a new `queued` row; None when the first try of this transaction had committed it."""
        self._check(draft.input, draft.echo, draft.settings)
        parent = self._parent(group, draft)
        values = (
            *_identity(draft, parent.pk),
            "queued",
            *self._request(group, draft, draft.stored, draft.echo),
            parent.tree,
        )
        try:
            pk = group.session.insert(self._insert_queued, values)
        except Conflict:
            if self._row(group, draft) is None:
                raise
            return None
        group.add_content(pk, draft.input, None)
        group.add_items(draft.owner, draft.item_ids, pk)
        return pk

    def hold(self, response_id: str) -> None:
        """Notes that the row exists, so that `finish` updates it."""
        self._begun.add(response_id)

    def _check(self, *bodies: bytes) -> None:
        """Raises TooLargeToStore for a body that one statement cannot write."""
        packet = self._database.packet
        if packet is None:
            return
        for body in bodies:
            packets.check(packet, (body,))

    def _begin(self, group: Group, draft: Draft, channel: str | None) -> None:
        parent = self._parent(group, draft)
        values = (
            *_identity(draft, parent.pk),
            "in_progress",
            *self._request(group, draft, draft.stored, draft.echo),
            parent.tree,
            self._leases.worker(group.session),
            channel,
        )
        try:
            pk = group.session.insert(self._insert_begun, values)
        except Conflict:
            # A retry after a commit whose answer was lost finds the row in place.
            if self._row(group, draft) is None:
                raise
            return
        if draft.stored:
            group.add_content(pk, draft.input, None)
            group.add_items(draft.owner, draft.item_ids, pk)

    def _finish(self, group: Group, record: Record, begun: bool) -> Ended:
        row = self._row(group, record.draft) if begun else None
        if row is None:
            try:
                return self._write_whole(group, record)
            except Conflict:
                row = self._row(group, record.draft)
                if row is None:
                    if _is_erased(group.session, record.draft.id):
                        return Ended(False, None)
                    raise
        return self._write_end(group, record, row)

    def _finish_late(self, group: Group, record: Record, begun: bool) -> None:
        row = self._row(group, record.draft)
        if row is not None:
            self._write_end(group, record, row)
        elif not begun:
            self._write_whole(group, record)

    def _row(self, group: Group, draft: Draft) -> Row | None:
        sql = "SELECT pk, status, total_ms, client, root FROM response WHERE id = ? AND owner = ?"
        return group.session.row(sql, (draft.id, draft.owner))

    def _write_whole(self, group: Group, record: Record) -> Ended:
        draft, outcome = record.draft, record.outcome
        parent = self._parent(group, draft)
        prompt = _prompt(record, parent)
        values = (
            *_identity(draft, parent.pk),
            *self._request(group, draft, record.stored, record.echo),
            parent.tree,
            *record.ended,
            prompt.data,
        )
        pk, columns = _position_in_tree(
            group, record, parent, lambda columns: group.session.insert(self._insert_whole, (*values, *columns))
        )
        if record.stored:
            group.add_content(pk, draft.input, outcome.output)
            group.add_items(draft.owner, draft.item_ids + outcome.item_ids, pk)
        _append(group, record)
        record.count(group)
        record.note_failures(group, pk)
        record.count_turn(group, pk, parent, columns)
        return Ended(True, _place(pk, columns, parent, prompt))

    def _write_end(self, group: Group, record: Record, row: Row) -> Ended:
        """Ends an existing row, unless a cancel, a delete or the reaper was first."""
        draft, outcome = record.draft, record.outcome
        pk, status, _, client, _ = row
        if status not in ("queued", "in_progress"):
            return self._write_late(group, record, row)
        parent = self._parent(group, draft)
        prompt = _prompt(record, parent)
        values = (_text(record.echo) if record.stored else None, *record.ended, prompt.data)
        written, columns = _position_in_tree(
            group, record, parent, lambda columns: self._end_row(group, draft, (*values, *columns, pk))
        )
        if not written:
            return self._write_late(group, record, row)
        if record.stored:
            group.session.run(self._add_output, group.session.large((self._body(outcome.output), pk)))
            group.add_items(draft.owner, outcome.item_ids, pk)
        _append(group, record)
        record.count(group, client)
        record.note_failures(group, pk)
        record.count_turn(group, pk, parent, columns)
        return Ended(True, _place(pk, columns, parent, prompt))

    def _end_row(self, group: Group, draft: Draft, values: tuple[Any, ...]) -> int:
        if not draft.background:
            return group.session.run(self._end, values)
        ended = group.session.run(self._end_held, (*values, self._leases.name))
        if ended:
            group.session.run("DELETE FROM job WHERE response = ?", values[-1:])
            # A run reads its conversation when it starts, and other turns may have been appended since the request.
            group.session.run("UPDATE response SET seen = ? WHERE pk = ?", (draft.conversation_position, *values[-1:]))
        return ended

    def _write_late(self, group: Group, record: Record, row: Row) -> Ended:
        """The row stays as another caller ended it; the usage is recorded all the same, once. A cancelled
        stream keeps its output; that of a background response was written by the cancellation."""
        pk, status, total_ms, client, root = row
        if total_ms is None and group.session.run(self._end_late, (*record.late, pk)):
            record.count(group, client, failed=status == "failed")
            if record.tree_turn is not None:
                # The turn itself was counted when another call ended it.
                group.trees.add_usage(pk, root, record.tree_turn)
            if status == "cancelled" and record.is_partial_stream:
                self._write_late_output(group, record, pk)
        # A retry after a commit whose answer was lost finds its own row.
        return Ended(total_ms is not None and status == record.outcome.status, None)

    def _write_late_output(self, group: Group, record: Record, pk: int) -> None:
        draft, outcome = record.draft, record.outcome
        # A deleted response has no content.
        if group.session.run(self._add_late_output, group.session.large((self._body(outcome.output), pk))):
            group.add_items(draft.owner, outcome.item_ids, pk)

    def _parent(self, group: Group, draft: Draft) -> TreePosition:
        if draft.parent is None:
            return ROOT
        known = self._positions.find(draft.owner, draft.parent)
        if known is not None:
            return known
        row = group.session.row(
            "SELECT pk, branch, depth, since, prompt, root FROM response WHERE id = ? AND owner = ?",
            (draft.parent, draft.owner),
        )
        if row is None:
            return LOST
        pk, branch, depth, since, prompt, root = row
        return TreePosition(pk=pk, branch=branch, depth=depth or 0, since=since, root=root, prompt_end=end_of(prompt))

    def _request(self, group: Group, draft: Draft, stored: bool, echo: bytes) -> tuple[Any, ...]:
        return (
            int(stored),
            int(draft.streamed),
            draft.token,
            draft.model[:MAX_NAME],
            draft.request_id[:MAX_NAME] or None,
            draft.created_at,
            group.setting(draft.owner, draft.settings) if stored else None,
            _text(echo) if stored else None,
            *((draft.conversation, draft.conversation_position) if stored and draft.conversation else (None, None)),
            draft.client[:MAX_NAME] or None,
        )

    # --- reading and ending from outside ------------------------------------------------------------------------

    def chain(self, owner: str, response_id: str) -> Chain:
        return chain.load(self._database, self._positions, owner, response_id, chain.RECENT)

    def full_chain(self, owner: str, response_id: str) -> Chain:
        return chain.load(self._database, self._positions, owner, response_id, chain.WHOLE)

    def read(self, owner: str, response_id: str) -> StoredResponse | None:
        if not known_id(response_id):
            return None
        row = self._database.read(lambda session: session.row(READ, (response_id, owner)))
        return _stored(row) if row is not None and row[-1] == response_id else None

    def upstream(self, owner: str, response_id: str) -> UpstreamResponse | None:
        if not known_id(response_id):
            return None
        row = self._database.read(lambda session: session.row(UPSTREAM, (response_id, owner)))
        if row is None or row[0] != response_id or not row[1] or not row[2]:
            return None
        return UpstreamResponse(row[1], row[2])

    def cancel(self, owner: str, response_id: str) -> bool:
        """True when this call ended it: a response that had ended before stays as it is."""
        if not known_id(response_id):
            return False
        return self._database.transaction(lambda session: self._cancel(session, owner, response_id))

    def _cancel(self, session: Session, owner: str, response_id: str) -> bool:
        now = int(time.time())
        changed = session.run(
            "UPDATE response SET status = 'cancelled', worker = NULL, completed_at = ?"
            " WHERE id = ? AND owner = ? AND kept = 1 AND deleted_at IS NULL AND status IN ('queued', 'in_progress')",
            (now, response_id, owner),
        )
        row = session.row(CONTENT, (response_id, owner)) if changed else None
        if row is not None:
            self._count_end(session, row[0], now)
            # Every event committed before now is seen here; later ones are refused.
            set_output(session, self._database.dialect, row[0], owner, events.finished_items(session, row[0]))
            session.run("DELETE FROM job WHERE response = ?", row[:1])
        return changed == 1

    def delete(self, owner: str, response_id: str) -> bool:
        if not known_id(response_id):
            return False
        return self._database.transaction(lambda session: self._delete(session, owner, response_id))

    def _delete(self, session: Session, owner: str, response_id: str) -> bool:
        now = int(time.time())
        cut = session.run(
            f"{BURY}, status = 'cancelled', completed_at = ? {BURIED} AND status IN ('queued', 'in_progress')",
            (now, now, response_id, owner),
        )
        buried = cut or session.run(f"{BURY} {BURIED}", (now, response_id, owner))
        row = session.row(CONTENT, (response_id, owner)) if buried else None
        if row is None:
            return False
        pk, settings, error, *bodies = row
        if cut:
            self._count_end(session, pk, now)
        tree_sums.count_deleted(session, pk)
        session.run("DELETE FROM content WHERE response = ?", (pk,))
        session.run("DELETE FROM job WHERE response = ?", (pk,))
        events.forget(session, [pk])
        forget_results(session, response_id)
        session.run("DELETE FROM prefix WHERE response = ?", (pk,))
        session.run("UPDATE thread_turn SET question = NULL WHERE response = ?", (pk,))
        session.run("UPDATE recent_error SET message = '' WHERE response = ?", (pk,))
        for item_id in sorted(item_ids(bodies)):
            session.run("DELETE FROM item WHERE owner = ? AND id = ? AND response = ?", (owner, item_id, pk))
        attempts = session.row("SELECT attempts FROM response WHERE pk = ?", (pk,))
        bare = (_bare_error(error), _bare_attempts(attempts[0] if attempts else None), pk)
        session.run("UPDATE response SET settings = NULL, error = ?, attempts = ? WHERE pk = ?", bare)
        if settings is not None:
            forget_settings(session, self._database.dialect, [settings])
        return True

    def _count_end(self, session: Session, pk: int, at: int) -> None:
        """Counts a turn that was cancelled. `at`: as its row has it, in unix seconds."""
        ended = tree_sums.ending(session, "pk = ?", (pk,))
        tree_sums.count_ends(session, self._trees, ended, "cancelled", at)


def set_output(session: Session, dialect: Dialect, pk: int, owner: str, items: Sequence[Mapping[str, Any]]) -> None:
    """Writes the output of a response that another worker ends."""
    if not items:
        return
    output = orjson.dumps(items).decode()
    if not session.fits(output):
        # It has ended without an answer, and its end must be written.
        return
    session.run("UPDATE content SET output = ? WHERE response = ?", session.large((output, pk)))
    entries = sorted((owner, item_id, pk) for item_id in item_ids([output]) if len(item_id) <= MAX_ITEM_ID)
    if entries:
        session.run_many(dialect.unless_there("item", ["owner", "id", "response"]), entries)


def _is_erased(session: Session, response_id: str) -> bool:
    """Whether its owner was erased while it was being made: the row belongs to a pseudonym then (see `erasure`)."""
    return session.row("SELECT 1 FROM response WHERE id = ? AND deleted_at IS NOT NULL", (response_id,)) is not None


def forget_settings(session: Session, dialect: Dialect, keys: Sequence[int]) -> None:
    """Deletes the settings that no response refers to any more."""
    marks = ", ".join("?" * len(keys))
    # A transaction about to refer to a setting holds a shared lock on it until its commit; the check comes after.
    session.rows(f"SELECT pk FROM setting WHERE pk IN ({marks}) ORDER BY pk{dialect.hold}", keys)
    session.run(
        f"DELETE FROM setting WHERE pk IN ({marks})"
        " AND NOT EXISTS (SELECT 1 FROM response WHERE response.settings = setting.pk)",
        keys,
    )


# --- values -----------------------------------------------------------------------------------------------------


def _position_in_tree(
    group: Group, record: Record, parent: TreePosition, write: Callable[[Columns], int]
) -> tuple[int, Columns]:
    """Writes a response into its parent's branch, or into a new one when another child was there first; what `write`
    returned, and with which columns.
    """
    columns: Columns = NOWHERE
    if not record.is_in_tree:
        return write(columns), columns
    depth = parent.depth + 1
    since = depth if record.outcome.compacted else parent.since
    if parent.branch is not None:
        columns = (parent.branch, depth, since)
        try:
            return write(columns), columns
        except Conflict:
            pass
    branch_point = parent.depth if parent.branch is not None else None
    branch = group.session.insert("INSERT INTO branch (parent, fork) VALUES (?, ?)", (parent.branch, branch_point))
    columns = (branch, depth, since)
    return write(columns), columns


def _append(group: Group, record: Record) -> None:
    if record.turn is not None and record.draft.conversation is not None:
        group.append(record.draft.owner, record.draft.conversation, record.turn)


def _place(pk: int, columns: Columns, parent: TreePosition, prompt: Column) -> TreePosition | None:
    branch, depth, since = columns
    return None if branch is None or depth is None else TreePosition(pk, branch, depth, since, parent.tree, prompt.end)


def _prompt(record: Record, parent: TreePosition) -> Column:
    """Digests of what the model was given, whose items follow the parent's."""
    prompt = record.outcome.prompt
    return NO_COLUMN if prompt is None else added(prompt, parent.prompt_end)


def _record(draft: Draft, outcome: Outcome, *, stored: bool) -> Record:
    usage = outcome.usage
    counts = (
        (
            usage.input_tokens,
            usage.cached_tokens,
            usage.cache_write_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
            usage.cost,
        )
        if usage is not None
        else (None,) * 6
    )
    estimated = int(usage is not None and usage.estimated)
    error = _json(outcome.error)
    ended = (
        outcome.status,
        int(outcome.opaque),
        estimated,
        _name(outcome.channel),
        _name(outcome.family),
        _name(outcome.upstream_model),
        _name(outcome.upstream_id),
        outcome.completed_at,
        outcome.first_byte_ms,
        outcome.total_ms,
        *counts,
        error if stored else _bare_error(error),
        _json(outcome.incomplete_details),
        _attempts(outcome.attempts),
        _json(outcome.compaction),
        outcome.outline.packed() if outcome.outline else None,
    )
    return Record(
        draft=draft,
        outcome=outcome,
        stored=stored,
        echo=outcome.echo if outcome.echo is not None else draft.echo,
        ended=ended,
        late=(
            _name(outcome.channel),
            _name(outcome.upstream_model),
            outcome.first_byte_ms,
            estimated,
            outcome.total_ms,
            *counts,
        ),
        place=_counted_at(draft, outcome),
        tree_turn=tree_sums.turn_of(draft, outcome, stored=stored),
        turn=_turn(draft, outcome) if stored and draft.conversation and outcome.status in CHAINABLE else None,
    )


def _counted_at(draft: Draft, outcome: Outcome) -> Place:
    return Place(
        day_of(outcome.completed_at // DAY_SECONDS),
        outcome.completed_at // SLOT_SECONDS,
        draft.token or 0,
        draft.model[:MAX_NAME],
        (outcome.channel or "")[:MAX_NAME],
        draft.client[:MAX_NAME],
    )


def _turn(draft: Draft, outcome: Outcome) -> ConversationTurn:
    usage = outcome.usage
    return conversations.named(
        ConversationTurn(
            created_at=outcome.completed_at,
            response=draft.id,
            status=outcome.status,
            input=draft.input,
            output=outcome.output,
            compacted=outcome.compacted,
            conversation_position=draft.conversation_position,
            channel=_name(outcome.channel),
            family=_name(outcome.family),
            opaque=outcome.opaque,
            input_tokens=usage.input_tokens if usage else None,
            output_tokens=usage.output_tokens if usage else None,
        )
    )


def _identity(draft: Draft, parent: int | None) -> tuple[Any, ...]:
    return (draft.id, draft.owner, parent)


def _assign(columns: tuple[str, ...]) -> str:
    return ", ".join(f"{column} = ?" for column in columns)


def _name(value: str | None) -> str | None:
    return None if value is None else value[:MAX_NAME]


def _text(json: bytes) -> str | None:
    """NULL in place of the empty object, to save its bytes."""
    return None if json == b"{}" else json.decode()


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _bare_error(json: str | None) -> str | None:
    """An error without its message, which may quote content."""
    if json is None:
        return None
    error = orjson.loads(json)
    return orjson.dumps({"message": "", "type": error.get("type"), "code": error.get("code")}).decode()


def _attempts(attempts: tuple[Attempt, ...]) -> str | None:
    """NULL when one attempt sufficed with the whole request as it was: the other columns describe it fully."""
    if not attempts or (len(attempts) == 1 and attempts[0].is_plain):
        return None
    return orjson.dumps([attempt.wire() for attempt in attempts]).decode()


def _bare_attempts(json: str | None) -> str | None:
    """Attempts without the upstreams' messages, which may quote content."""
    if json is None:
        return None
    attempts = [{name: value for name, value in attempt.items() if name != "said"} for attempt in orjson.loads(json)]
    return orjson.dumps(attempts).decode()


def item_ids(bodies: Iterable[str | None]) -> set[str]:
    """The ids of the items in these arrays."""
    return {
        item["id"]
        for body in bodies
        if body is not None
        for item in orjson.loads(body)
        if isinstance(item, dict) and isinstance(item.get("id"), str)
    }


def _stored(row: Row) -> StoredResponse:
    (
        owner,
        parent,
        status,
        model,
        created_at,
        completed_at,
        settings,
        echo,
        input,
        output,
        input_tokens,
        cached_tokens,
        cache_write_tokens,
        output_tokens,
        reasoning_tokens,
        estimated,
        error,
        incomplete_details,
        streamed,
        conversation,
        seen,
        response_id,
    ) = row
    usage = None
    if input_tokens is not None:
        usage = Usage(input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, bool(estimated))
    return StoredResponse(
        id=response_id,
        owner=owner,
        parent=parent,
        status=status,
        model=model,
        created_at=created_at,
        completed_at=completed_at,
        settings=(settings or "{}").encode(),
        echo=(echo or "{}").encode(),
        input=(input or "[]").encode(),
        output=(output or "[]").encode(),
        usage=usage,
        error=None if error is None else orjson.loads(error),
        incomplete_details=None if incomplete_details is None else orjson.loads(incomplete_details),
        streamed=bool(streamed),
        conversation=conversation,
        conversation_position=seen or 0,
    )
