"""Turns to write into a store."""

from __future__ import annotations

import time
from typing import Any

import orjson

from app import ids
from app.contract.items import new_item_id
from app.contract.records import Draft, Outcome
from app.contract.usage import Usage
from app.store.store import Store

OWNER = "ada"


def draft(parent: str | None = None, *, owner: str = OWNER, says: str = "hello", **fields: Any) -> Draft:
    item = {"type": "message", "role": "user", "content": says}
    values: dict[str, Any] = {
        "id": ids.new("resp"),
        "owner": owner,
        "token": None,
        "model": "small",
        "created_at": int(time.time()),
        "parent": parent,
        "input": orjson.dumps([item]),
    }
    return Draft(**{**values, **fields})


def outcome(status: str = "completed", *, says: str = "welcome", **fields: Any) -> Outcome:
    item = {"type": "message", "id": new_item_id("message"), "role": "assistant", "content": says}
    values: dict[str, Any] = {
        "status": status,
        "completed_at": int(time.time()),
        "output": orjson.dumps([item]),
        "item_ids": (item["id"],),
        "usage": Usage(input_tokens=3, output_tokens=5),
        "channel": "first",
        "total_ms": 12,
    }
    return Outcome(**{**values, **fields})


def turn(store: Store, parent: str | None = None, status: str = "completed", **fields: Any) -> str:
    """Writes one whole turn; its id."""
    compacted = fields.pop("compacted", False)
    begun = draft(parent, **fields)
    assert store.responses.finish(begun, outcome(status, compacted=compacted))
    return begun.id


def line(store: Store, length: int, parent: str | None = None, **fields: Any) -> list[str]:
    """A conversation of so many turns; their ids, oldest first."""
    written: list[str] = []
    for _ in range(length):
        written.append(turn(store, written[-1] if written else parent, **fields))
    return written


def chain_ids(store: Store, response_id: str, owner: str = OWNER) -> list[str]:
    return [link.id for link in store.responses.chain(owner, response_id).links]
