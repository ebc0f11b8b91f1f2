"""Finds items by their id in an owner's stored responses and conversations. Ids repeat, because clients send items
back: the newest copy counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import orjson

from app.contract.items import parse_derived_item_id
from app.contract.records import StoredItem
from app.ids import known_id
from app.store.conversations import Conversations
from app.store.database import Database, Session
from app.store.grouped_writes import MAX_ITEM_ID

CHUNK = 500


class ItemPosition(NamedTuple):
    """The place of an input item that had no id, from the id derived for it."""

    response_id: str
    position: int


class Body(NamedTuple):
    pk: int
    id: str
    input: list[Any]
    output: list[Any]


class Items:
    def __init__(self, database: Database, conversations: Conversations) -> None:
        self._database = database
        self._conversations = conversations

    def find(self, owner: str, item_ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """The items that exist, in responses or in conversations, by their id."""
        found: dict[str, Mapping[str, Any]] = {
            item_id: stored.item for item_id, stored in self.in_responses(owner, item_ids).items()
        }
        elsewhere = [item_id for item_id in item_ids if item_id not in found]
        return {**found, **self._conversations.find(owner, elsewhere)}

    def in_responses(self, owner: str, item_ids: Sequence[str]) -> dict[str, StoredItem]:
        """The newest copy of each item among the inputs and outputs of the owner's stored responses."""
        found: dict[str, StoredItem] = {}
        wanted = sorted({item_id for item_id in item_ids if 0 < len(item_id) <= MAX_ITEM_ID})
        for start in range(0, len(wanted), CHUNK):
            part = wanted[start : start + CHUNK]
            found.update(self._database.read(partial(_find, owner=owner, wanted=part)))
        return found


def _find(session: Session, owner: str, wanted: Sequence[str]) -> dict[str, StoredItem]:
    newest = _newest(session, owner, wanted)
    derived = {item_id: position for item_id in wanted if (position := _place(item_id)) is not None}
    bodies = _bodies(session, owner, newest.values(), [position.response_id for position in derived.values()])
    found = {}
    for item_id in wanted:
        body = bodies.get(newest.get(item_id, 0))
        item = _by_id(body, item_id) if body is not None else None
        if item is None and item_id in derived:
            body = bodies.get(derived[item_id].response_id)
            item = _by_position(body, derived[item_id].position) if body is not None else None
        if item is not None and body is not None:
            found[item_id] = StoredItem(response_id=body.id, item={**item, "id": item_id})
    return found


def _newest(session: Session, owner: str, wanted: Sequence[str]) -> dict[str, int]:
    """The key of the newest response that holds each id."""
    rows = session.rows(
        f"SELECT id, MAX(response) FROM item WHERE owner = ? AND id IN ({_marks(wanted)}) GROUP BY id",
        (owner, *wanted),
    )
    return {item_id: int(response) for item_id, response in rows}


def _bodies(session: Session, owner: str, keys: Iterable[int], response_ids: Iterable[str]) -> dict[int | str, Body]:
    """The bodies by key and by id."""
    by_key, by_id = sorted(set(keys)), sorted(set(response_ids))
    choices = [f"r.pk IN ({_marks(by_key)})"] if by_key else []
    choices += [f"r.id IN ({_marks(by_id)})"] if by_id else []
    if not choices:
        return {}
    rows = session.rows(
        "SELECT r.pk, r.id, c.input, c.output FROM response r JOIN content c ON c.response = r.pk"
        f" WHERE r.owner = ? AND r.kept = 1 AND r.deleted_at IS NULL AND ({' OR '.join(choices)})",
        (owner, *by_key, *by_id),
    )
    bodies: dict[int | str, Body] = {}
    for pk, response_id, input, output in rows:
        bodies[pk] = bodies[response_id] = Body(pk, response_id, orjson.loads(input), orjson.loads(output or "[]"))
    return bodies


def _place(item_id: str) -> ItemPosition | None:
    parsed = parse_derived_item_id(item_id)
    return ItemPosition(*parsed) if parsed is not None and known_id(parsed[0]) else None


def _by_id(body: Body, item_id: str) -> Mapping[str, Any] | None:
    """The last item with that id: output comes after input."""
    for items in (body.output, body.input):
        for item in reversed(items):
            if isinstance(item, dict) and item.get("id") == item_id:
                return item
    return None


def _by_position(body: Body, position: int) -> Mapping[str, Any] | None:
    item = body.input[position] if position < len(body.input) else None
    return item if isinstance(item, dict) else None


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
