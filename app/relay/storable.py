"""Refuses what the database cannot store, before an upstream is paid for answering it."""

from __future__ import annotations

from collections.abc import Sequence

from app.contract.items import Item
from app.contract.records import Draft
from app.errors import request_too_large_to_store
from app.store.store import Store

#: Bytes that an item may take more in a conversation, where each item has an id.
_ID = 96


def check_request(store: Store, draft: Draft, items: Sequence[Item], *others: bytes) -> None:
    """`items`: the turn's own input. `others`: further bodies that are stored with it. Raises PayloadTooLarge."""
    if draft.stored:
        more = _ID * len(items) if draft.conversation is not None else 0
        _check(store, draft.input, more)
        for body in (draft.settings, draft.echo, *others):
            _check(store, body)


def check_items(store: Store, items: Sequence[Item], body: bytes) -> None:
    """The items that a client adds to a conversation, and their JSON. Raises PayloadTooLarge."""
    _check(store, body, _ID * len(items))


def _check(store: Store, body: bytes, more: int = 0) -> None:
    packet = store.database.packet
    if packet is not None and not store.database.fits(body, more=more):
        raise request_too_large_to_store(packet)
