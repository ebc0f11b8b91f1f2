"""Conversations and their items, as the API creates, reads and changes them. The recorder of a response appends its
turn to the conversation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from time import time
from typing import Any

import orjson

from app import ids
from app.contract.items import Item, bound
from app.contract.records import Conversation, ConversationTurn, Token
from app.contract.redaction import redacted_items
from app.contract.response import Echo
from app.errors import InvalidRequest, NotFound, conversation_not_found
from app.relay.compaction.context import Contexts
from app.relay.history_errors import history_errors
from app.relay.item_lists import as_listed, list_object
from app.relay.storable import check_items
from app.relay.turn_builder import resolve
from app.schemas.listing import PageRequest
from app.store.store import Store


class Conversations:
    def __init__(self, store: Store, contexts: Contexts) -> None:
        self._store = store
        self._conversations = store.conversations
        self._contexts = contexts

    # --- the conversation itself

    def create(self, token: Token, items: Sequence[Item], metadata: Mapping[str, str]) -> dict[str, Any]:
        _check_stores(token)
        conversation = Conversation(ids.new("conv"), int(time()), metadata)
        self._conversations.create(token.owner, conversation, self._turn(token.owner, items))
        return conversation.wire()

    def retrieve(self, token: Token, conversation_id: str) -> dict[str, Any]:
        return self._found(token, conversation_id).wire()

    def update(self, token: Token, conversation_id: str, metadata: Mapping[str, str]) -> dict[str, Any]:
        _check_stores(token)
        if not self._conversations.update(token.owner, conversation_id, metadata):
            raise conversation_not_found(conversation_id)
        return self.retrieve(token, conversation_id)

    def delete(self, token: Token, conversation_id: str) -> dict[str, Any]:
        """Deletes the conversation. Its responses stay, with their content."""
        if not self._conversations.delete(token.owner, conversation_id):
            raise conversation_not_found(conversation_id)
        return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}

    # --- its items

    def add(self, token: Token, conversation_id: str, items: Sequence[Item], include: Iterable[str]) -> dict[str, Any]:
        _check_stores(token)
        added = self._conversations.add(token.owner, conversation_id, self._turn(token.owner, items))
        if added is None:
            raise conversation_not_found(conversation_id)
        return list_object(_shown(added, include), has_more=False)

    def items(self, token: Token, conversation_id: str, page: PageRequest, include: Iterable[str]) -> dict[str, Any]:
        with history_errors():
            found = self._conversations.items(
                token.owner, conversation_id, order=page.order, after=page.after, limit=page.limit + 1
            )
        if found is None:
            raise conversation_not_found(conversation_id)
        return list_object(_shown(found[: page.limit], include), has_more=len(found) > page.limit)

    def item(self, token: Token, conversation_id: str, item_id: str, include: Iterable[str]) -> Item:
        found = self._conversations.item(token.owner, conversation_id, item_id)
        if found is None:
            raise self._item_not_found(token, conversation_id, item_id)
        return _shown([found], include)[0]

    def delete_item(self, token: Token, conversation_id: str, item_id: str) -> dict[str, Any]:
        """Deletes the item and returns the conversation."""
        if not self._conversations.delete_item(token.owner, conversation_id, item_id):
            raise self._item_not_found(token, conversation_id, item_id)
        return self.retrieve(token, conversation_id)

    # --- shared

    def _turn(self, owner: str, added: Sequence[Item]) -> ConversationTurn:
        """The turn for a client's items. With a compaction among them, they replace all earlier items, as an answer."""
        items = redacted_items(self._contexts.checked(owner, resolve(self._store, owner, added)))
        compacted = any(item.get("type") == "compaction" for item in items)
        none: Sequence[Item] = ()
        input, output = (none, items) if compacted else (items, none)
        check_items(self._store, items, orjson.dumps(items))
        return ConversationTurn(
            created_at=int(time()),
            input=orjson.dumps(input),
            output=orjson.dumps(output),
            compacted=compacted,
            opaque=bound(item.get("type") for item in items),
        )

    def _found(self, token: Token, conversation_id: str) -> Conversation:
        found = self._conversations.read(token.owner, conversation_id)
        if found is None:
            raise conversation_not_found(conversation_id)
        return found

    def _item_not_found(self, token: Token, conversation_id: str, item_id: str) -> NotFound:
        self._found(token, conversation_id)
        return NotFound(f"Item with id '{item_id}' not found.")


def _shown(items: Iterable[Item], include: Iterable[str]) -> list[Item]:
    echo = Echo({}, tuple(include))
    return [dict(echo.shown(as_listed(item, "", 0))) for item in items]


def _check_stores(token: Token) -> None:
    if not token.stores:
        raise InvalidRequest(
            "This token does not store anything, so it cannot have conversations.",
            code="unsupported_parameter",
        )
