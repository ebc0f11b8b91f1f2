"""Conversations: turns appended one after another, whose items can be read, added and removed one by one. A turn gets
its position under the lock of its conversation's row, so that turns that end at the same time have one order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import orjson

from app.contract.items import derive_item_id, is_hidden, new_item_id
from app.contract.records import Chain, Conversation, ConversationTurn, Link
from app.memory import Share
from app.store.database import Conflict, Database, Session
from app.store.errors import ConversationMissing, ConversationTooLong, ItemMissing

Item = dict[str, Any]

LONGEST = 10_000
CHUNK = 500
NOW = 2**63 - 1
"""A position after every turn."""
NOWHERE = -1
"""A position before every turn."""

_ID = re.compile(r"conv_[0-9A-Za-z_-]{1,59}\Z")
#: Ids that every database compares exactly, and that need no escaping in a path.
_ITEM_ID = re.compile(r"[0-9A-Za-z_.:-]{1,191}\Z")

_INSERT = "INSERT INTO conversation (id, owner, created_at, metadata, newest) VALUES (?, ?, ?, ?, 0)"
_INSERT_TURN = (
    "INSERT INTO conversation_turn (conversation, position, seen, compacted, opaque, response, status, channel, family,"
    " input_tokens, output_tokens, created_at, input, output) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SET_INPUT = "UPDATE conversation_turn SET input = ?, compacted = ? WHERE conversation = ? AND position = ?"
_SET_OUTPUT = "UPDATE conversation_turn SET output = ? WHERE conversation = ? AND position = ?"
_RISE = "UPDATE conversation SET newest = newest + 1 WHERE pk = ?"
_INSERT_REMOVED = (
    "INSERT INTO removed_item (conversation, position, place) SELECT pk, newest, ? FROM conversation WHERE pk = ?"
)
_NEWEST_COMPACTION = (
    "SELECT position, seen FROM conversation_turn WHERE conversation = ? AND compacted = 1"
    " ORDER BY position DESC LIMIT 1"
)
_INSERT_ITEM = "INSERT INTO conversation_item (owner, id, conversation, position) VALUES (?, ?, ?, ?)"

# A compaction replaces the turns up to `seen`; turns that were appended while it was made are loaded as well.
_LOAD = (
    "SELECT c.newest, h.position, t.position, t.response, t.status, t.channel, t.family, t.opaque, t.input, t.output,"
    " t.input_tokens, t.output_tokens FROM conversation c"
    " LEFT JOIN conversation_turn h ON h.conversation = c.pk AND h.position = ("
    "  SELECT MAX(m.position) FROM conversation_turn m"
    "  WHERE m.conversation = c.pk AND m.compacted = 1 AND m.position <= ?)"
    " LEFT JOIN conversation_turn t ON t.conversation = c.pk"
    "  AND t.position > COALESCE(h.seen, 0) AND t.position <= ?"
    " WHERE c.id = ? AND c.owner = ? LIMIT ?"
)
_CONTENTS = slice(8, 10)

_FIND_ITEMS = (
    "SELECT i.id, t.input, t.output FROM conversation_item i"
    " JOIN conversation_turn t ON t.conversation = i.conversation AND t.position = i.position"
    " WHERE i.owner = ? AND i.id IN ({marks}) ORDER BY t.created_at, t.pk"
)


class Loaded(NamedTuple):
    """One row of the query that loads a conversation."""

    newest: int
    head: int | None
    """Position of the newest compaction."""
    position: int | None
    response: str | None
    status: str
    channel: str | None
    family: str | None
    opaque: int
    input: str
    output: str
    input_tokens: int | None
    output_tokens: int | None

    def link(self) -> Link:
        return Link(
            id=self.response or "",
            status=self.status,
            channel=self.channel,
            family=self.family,
            opaque=self.opaque,
            input=self.input.encode(),
            output=self.output.encode(),
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
        )


class Conversations:
    def __init__(self, database: Database) -> None:
        self._database = database

    # --- the conversation itself --------------------------------------------------------------------------------

    def create(self, owner: str, conversation: Conversation, first: ConversationTurn) -> None:
        """Creates the conversation with its first items, if there are any."""
        first = named(first)

        def write(session: Session) -> None:
            row = (conversation.id, owner, conversation.created_at, _json(conversation.metadata))
            session.insert(_INSERT, row)
            append(session, owner, conversation.id, first)

        # A retry after a commit whose answer was lost finds the conversation complete.
        with suppress(Conflict):
            self._database.transaction(write)

    def read(self, owner: str, conversation_id: str) -> Conversation | None:
        if not known_id(conversation_id):
            return None
        row = self._database.read(
            lambda session: session.row(
                "SELECT id, created_at, metadata FROM conversation WHERE id = ? AND owner = ?",
                (conversation_id, owner),
            )
        )
        return Conversation(row[0], row[1], orjson.loads(row[2])) if row else None

    def update(self, owner: str, conversation_id: str, metadata: Mapping[str, str]) -> bool:
        if not known_id(conversation_id):
            return False
        changed = self._database.transaction(
            lambda session: session.run(
                "UPDATE conversation SET metadata = ? WHERE id = ? AND owner = ?",
                (_json(metadata), conversation_id, owner),
            )
        )
        return changed == 1

    def delete(self, owner: str, conversation_id: str) -> bool:
        """Removes the conversation and its items; responses made in it stay."""
        if not known_id(conversation_id):
            return False
        return self._database.transaction(lambda session: self._delete(session, owner, conversation_id))

    def _delete(self, session: Session, owner: str, conversation_id: str) -> bool:
        pk = self._held(session, owner, conversation_id)
        if pk is None:
            return False
        turns = session.rows("SELECT input, output FROM conversation_turn WHERE conversation = ?", (pk,))
        entries = sorted((owner, item_id, pk) for bodies in turns for item_id in _ids(bodies))
        if entries:
            session.run_many("DELETE FROM conversation_item WHERE owner = ? AND id = ? AND conversation = ?", entries)
        session.run("DELETE FROM conversation_turn WHERE conversation = ?", (pk,))
        session.run("DELETE FROM removed_item WHERE conversation = ?", (pk,))
        session.run("DELETE FROM conversation WHERE pk = ?", (pk,))
        return True

    def _held(self, session: Session, owner: str, conversation_id: str) -> int | None:
        """The key of the conversation. Locks its row until the commit, so that no turn is appended meanwhile."""
        row = session.row(
            f"SELECT pk FROM conversation WHERE id = ? AND owner = ?{self._database.dialect.hold}",
            (conversation_id, owner),
        )
        return int(row[0]) if row else None

    # --- its items ----------------------------------------------------------------------------------------------

    def add(self, owner: str, conversation_id: str, turn: ConversationTurn) -> list[Item] | None:
        """Appends a turn and returns its items, each with an id; None when there is no such conversation."""
        if not known_id(conversation_id):
            return None
        turn = named(turn)
        added = self._database.transaction(lambda session: append(session, owner, conversation_id, turn))
        return None if added is None else added.items()

    def item(self, owner: str, conversation_id: str, item_id: str) -> Item | None:
        if not known_id(conversation_id):
            return None
        row = self._database.read(
            lambda session: session.row(
                "SELECT t.input, t.output FROM conversation c"
                " JOIN conversation_item i ON i.owner = c.owner AND i.conversation = c.pk"
                " JOIN conversation_turn t ON t.conversation = c.pk AND t.position = i.position"
                " WHERE c.id = ? AND c.owner = ? AND i.id = ?",
                (conversation_id, owner, item_id[:192]),
            )
        )
        return _by_id(_items(row), item_id) if row else None

    def items(
        self, owner: str, conversation_id: str, *, order: str, after: str | None, limit: int
    ) -> list[Item] | None:
        """As many items as `limit`, the newest or the oldest first, behind the item `after`; None when there is no such
        conversation. Raises ItemMissing when `after` is none of its items.
        """
        if not known_id(conversation_id):
            return None
        return self._database.read(
            partial(_list, owner=owner, conversation_id=conversation_id, order=order, after=after, limit=limit)
        )

    def delete_item(self, owner: str, conversation_id: str, item_id: str) -> bool:
        if not known_id(conversation_id):
            return False
        return self._database.transaction(lambda session: self._delete_item(session, owner, conversation_id, item_id))

    def _delete_item(self, session: Session, owner: str, conversation_id: str, item_id: str) -> bool:
        pk = self._held(session, owner, conversation_id)
        position = _position(session, owner, pk, item_id) if pk is not None else None
        if pk is None or position is None:
            return False
        _note_removal(session, pk, position, item_id)
        place = (pk, position)
        row = session.row("SELECT input, output FROM conversation_turn WHERE conversation = ? AND position = ?", place)
        input, output = ([item for item in _array(body) if item["id"] != item_id] for body in row or ("[]", "[]"))
        if input or output:
            # A statement for each body: together they may be too large for one.
            session.run(_SET_INPUT, session.large((_json(input), int(_is_compacted(output)), *place)))
            session.run(_SET_OUTPUT, session.large((_json(output), *place)))
        else:
            session.run("DELETE FROM conversation_turn WHERE conversation = ? AND position = ?", place)
        session.run(
            "DELETE FROM conversation_item WHERE owner = ? AND id = ? AND conversation = ?", (owner, item_id, pk)
        )
        return True

    def find(self, owner: str, item_ids: Sequence[str]) -> dict[str, Item]:
        """The newest copy of each item that is in a conversation of the owner, by its id."""
        wanted = [item_id for item_id in item_ids if _ITEM_ID.match(item_id)]
        found: dict[str, Item] = {}
        for start in range(0, len(wanted), CHUNK):
            part = wanted[start : start + CHUNK]
            found.update(self._database.read(partial(_find_items, owner=owner, wanted=part)))
        return found

    # --- as the context of a turn -------------------------------------------------------------------------------

    def chain(self, owner: str, conversation_id: str, until: int = NOW) -> Chain:
        """The turns up to a position, from the newest compaction on. Raises HistoryError."""
        return self._load(owner, conversation_id, until, until)

    def full_chain(self, owner: str, conversation_id: str, until: int = NOW) -> Chain:
        """The turns up to a position from the first one on, without regard to compactions. Raises HistoryError."""
        return self._load(owner, conversation_id, until, NOWHERE)

    def _load(self, owner: str, conversation_id: str, until: int, newest_compaction: int) -> Chain:
        if not known_id(conversation_id):
            raise ConversationMissing(conversation_id)
        with closing(Share(self._database.budget)) as share:
            chain = self._database.read(
                lambda session: load(session, owner, conversation_id, until, newest_compaction, share)
            )
        if chain is None:
            raise ConversationMissing(conversation_id)
        return chain


def known_id(value: str) -> bool:
    """Whether the text can be the id of a conversation. If not, no query is needed."""
    return _ID.match(value) is not None


# --- appending --------------------------------------------------------------------------------------------------


def named(turn: ConversationTurn) -> ConversationTurn:
    """The turn with an id for each of its items, no two the same."""
    input, output = _array(turn.input), _array(turn.output)
    known: set[str] = set()
    for position, item in enumerate([*input, *output]):
        item_id = item.get("id")
        if not isinstance(item_id, str) or not _ITEM_ID.match(item_id) or item_id in known:
            item["id"] = _new_id(turn, item, position if position < len(input) else None)
        known.add(item["id"])
    return replace(turn, input=orjson.dumps(input), output=orjson.dumps(output))


def _new_id(turn: ConversationTurn, item: Item, position: int | None) -> str:
    """A new id. An input item without an id gets the one that the response's `input_items` shows."""
    kind = str(item.get("type"))
    if turn.response is None or position is None or item.get("id"):
        return new_item_id(kind)
    return derive_item_id(kind, turn.response, position)


def append(session: Session, owner: str, conversation_id: str, turn: ConversationTurn) -> ConversationTurn | None:
    """The turn as it stands in the conversation now, its items with new ids where theirs were taken; None when there is
    no such conversation any more. Its items are `named`.
    """
    item_ids = _ids((turn.input, turn.output))
    if not item_ids:
        return turn
    name = (conversation_id, owner)
    # Locks the row until the commit: the next writer sees these items and appends after them.
    if not session.run("UPDATE conversation SET newest = newest + 1 WHERE id = ? AND owner = ?", name):
        return None
    pk, position = session.row("SELECT pk, newest FROM conversation WHERE id = ? AND owner = ?", name) or (0, 0)
    taken = _taken(session, owner, pk, item_ids)
    if taken:
        turn = replace(turn, input=_renamed(turn.input, taken), output=_renamed(turn.output, taken))
        item_ids = _ids((turn.input, turn.output))
    if session.fits(turn.input, turn.output):
        session.insert(_INSERT_TURN, session.large(_row(pk, position, turn)))
    else:
        # A statement for each body: together they are too large for one.
        session.insert(_INSERT_TURN, session.large(_row(pk, position, replace(turn, output=b"[]"))))
        session.run(_SET_OUTPUT, session.large((turn.output.decode(), pk, position)))
    session.run_many(_INSERT_ITEM, [(owner, item_id, pk, position) for item_id in sorted(item_ids)])
    return turn


def _row(pk: int, position: int, turn: ConversationTurn) -> tuple[Any, ...]:
    return (
        pk,
        position,
        position - 1 if turn.conversation_position is None else turn.conversation_position,
        int(turn.compacted),
        int(turn.opaque),
        turn.response,
        turn.status,
        turn.channel,
        turn.family,
        turn.input_tokens,
        turn.output_tokens,
        turn.created_at,
        turn.input.decode(),
        turn.output.decode(),
    )


def _taken(session: Session, owner: str, pk: int, item_ids: Iterable[str]) -> set[str]:
    wanted = sorted(item_ids)
    taken: set[str] = set()
    for start in range(0, len(wanted), CHUNK):
        part = wanted[start : start + CHUNK]
        sql = f"SELECT id FROM conversation_item WHERE owner = ? AND conversation = ? AND id IN ({_marks(part)})"
        taken.update(item_id for (item_id,) in session.rows(sql, (owner, pk, *part)))
    return taken


def _renamed(array: bytes, taken: set[str]) -> bytes:
    items = [
        {**item, "id": new_item_id(str(item.get("type")))} if item["id"] in taken else item for item in _array(array)
    ]
    return orjson.dumps(items)


# --- reading ----------------------------------------------------------------------------------------------------


def load(
    session: Session, owner: str, conversation_id: str, until: int, newest_compaction: int, share: Share
) -> Chain | None:
    """The turns up to a position, from the newest compaction on that stands no later than at another; None when there
    is no such conversation. Raises ConversationTooLong.
    """
    wanted = (newest_compaction, until, conversation_id, owner, LONGEST + 1)
    rows = session.large_rows(_LOAD, _CONTENTS, wanted, share)
    loaded = [Loaded._make(row) for row in rows]
    if not loaded:
        return None
    turns = sorted((row for row in loaded if row.position is not None), key=_place)
    if len(turns) > LONGEST:
        raise ConversationTooLong(conversation_id, LONGEST)
    return Chain(
        links=tuple(turn.link() for turn in turns),
        compacted=loaded[0].head is not None,
        conversation=conversation_id,
        conversation_position=min(until, loaded[0].newest),
    )


def _place(row: Loaded) -> tuple[bool, int]:
    """Sorts the compaction first, then the turns that it does not stand for."""
    return row.position != row.head, row.position or 0


def _list(
    session: Session, *, owner: str, conversation_id: str, order: str, after: str | None, limit: int
) -> list[Item] | None:
    found = session.row("SELECT pk, newest FROM conversation WHERE id = ? AND owner = ?", (conversation_id, owner))
    if found is None:
        return None
    pk, newest = found
    start = _position(session, owner, pk, after) if after is not None else (newest if order == "desc" else 0)
    if start is None:
        raise ItemMissing(after or "")
    bound, direction = ("<=", "DESC") if order == "desc" else (">=", "ASC")
    # No turn is empty, and the first of them may hold nothing behind `after`.
    rows = session.rows(
        f"SELECT input, output FROM conversation_turn WHERE conversation = ? AND position {bound} ?"
        f" ORDER BY position {direction} LIMIT ?",
        (pk, start, limit + 1),
    )
    step = -1 if order == "desc" else 1
    items = [item for row in rows for item in _items(row)[::step] if not is_hidden(item)]
    if after is not None:
        items = items[next((at + 1 for at, item in enumerate(items) if item["id"] == after), len(items)) :]
    return items[:limit]


def _find_items(session: Session, owner: str, wanted: Sequence[str]) -> dict[str, Item]:
    rows = session.rows(_FIND_ITEMS.format(marks=_marks(wanted)), (owner, *wanted))
    found = {item_id: _by_id(_items(bodies), item_id) for item_id, *bodies in rows}
    return {item_id: item for item_id, item in found.items() if item is not None}


def _position(session: Session, owner: str, pk: int, item_id: str) -> int | None:
    row = session.row(
        "SELECT id, position FROM conversation_item WHERE owner = ? AND id = ? AND conversation = ?",
        (owner, item_id[:192], pk),
    )
    # MySQL ignores trailing spaces in comparisons.
    return int(row[1]) if row is not None and row[0] == item_id else None


def _note_removal(session: Session, pk: int, position: int, item_id: str) -> None:
    """Notes which item of the context goes, so that a report can tell why the next prompt was not in a cache. The note
    has a position of its own: turns with a later one have not read the item."""
    place = _place_in_context(session, pk, position, item_id)
    if place is not None:
        session.run(_RISE, (pk,))
        session.run(_INSERT_REMOVED, (place, pk))


def _place_in_context(session: Session, pk: int, position: int, item_id: str) -> int | None:
    """The number of items before this one that a turn reads now; None for an item behind the newest compaction."""
    head, seen = session.row(_NEWEST_COMPACTION, (pk,)) or (None, 0)
    rows = session.rows(
        "SELECT position, input, output FROM conversation_turn"
        " WHERE conversation = ? AND (position = ? OR (position > ? AND position <= ?))",
        (pk, -1 if head is None else head, seen, position),
    )
    read: list[Item] = []
    for at, input, output in sorted(rows, key=lambda row: (row[0] != head, row[0])):
        # Of a compaction, its output stands for everything before it.
        read += _items((output,) if at == head else (input, output))
    return next((place for place, item in enumerate(read) if item["id"] == item_id), None)


def _items(bodies: Sequence[Any]) -> list[Item]:
    return [item for body in bodies for item in _array(body)]


def _array(body: str | bytes) -> list[Item]:
    items: list[Item] = orjson.loads(body)
    return items


def _ids(bodies: Sequence[Any]) -> set[str]:
    return {item["id"] for item in _items(bodies)}


def _by_id(items: Sequence[Item], item_id: str) -> Item | None:
    return next((item for item in items if item["id"] == item_id), None)


def _is_compacted(output: Sequence[Item]) -> bool:
    return any(item.get("type") == "compaction" for item in output)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
