"""Ids at the border to the upstreams: of items and of calls.

The answer's ids become ours: those that other upstreams would refuse, or that the context already has, are replaced
before the client sees them, and stay the same in events, stored items and later requests. On the way back, the ids of a
client's own history are fitted alike. Each replacement is derived, so that no table has to hold it.
"""

from __future__ import annotations

import hashlib
import re

import orjson

from app import ids
from app.contract.items import TYPES, Item, answered_call_id, call_ids, is_output, prefix_of
from app.contract.turn import Turn
from app.formats import _context
from app.sealing import is_sealed

#: OpenAI refuses item ids with other characters or of more than 64.
_SHAPE = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
#: How `encrypted_content` begins that is not an upstream's own, but what a translating format keeps for one.
CHAT_SECRET, MESSAGES_SECRET = "chat_completions:", "anthropic:"
#: OpenAI's chat completions refuse longer ids of calls.
_LONGEST_CHAT = 40
#: Ids of this length, as OpenAI makes them for items, are random: no other item has them.
_RANDOM = 40
#: The values of `id`, `call_id` and the like in stored JSON.
_IDS = re.compile(rb'id":"([^"\\]*(?:\\.[^"\\]*)*)"').findall
_SHORT = re.compile(r"[A-Za-z0-9]{9}\Z")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


# --- ids of items -----------------------------------------------------------------------------------------------


def is_fit(item_id: str, kind: str) -> bool:
    """Whether every upstream takes this id for an item of this type."""
    known = TYPES.get(kind)
    return bool(_SHAPE.match(item_id)) and item_id.startswith(known.checked_prefix if known else "")


def made(turn_id: str, kind: str, index: int) -> str:
    """An item id that is the same whenever this answer is decoded again."""
    return f"{prefix_of(kind)}_{_digest(f'{turn_id}/{index}')}"


def fitted(item_id: str, kind: str) -> str:
    """The id that replaces an unfit one, always the same."""
    return f"{prefix_of(kind)}_{_digest(item_id)}"


class Outgoing:
    """Fits the ids of the items in one request. Each is sent once."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._renamed: dict[str, str] = {}

    def fit(self, item: Item) -> Item:
        """The item with an id that the upstream takes. An encrypted item keeps its own: they are bound together."""
        item_id, kind = item.get("id"), str(item.get("type"))
        if not isinstance(item_id, str) or is_native(item):
            return item
        if is_output(item) and item.get("call_id") is None and answered_call_id(item) == item_id:
            # This id names the call.
            return {**item, "id": self._renamed.get(item_id, item_id)}
        unique, number = item_id if is_fit(item_id, kind) else fitted(item_id, kind), 1
        while unique in self._seen:
            number += 1
            unique = fitted(f"{item_id}/{number}", kind)
        self._seen.add(unique)
        if unique == item_id:
            return item
        self._renamed[item_id] = unique
        return {**item, "id": unique}


def with_id(position: int, item: Item) -> Item:
    """A message of the assistant with an id and a status, also where the client has left them out."""
    if item.get("type") != "message" or item.get("role") != "assistant":
        return item
    own = {"id": item.get("id") or f"msg_{_digest(f'{position}')}", "status": item.get("status") or "completed"}
    return {**item, **own}


def without_id(item: Item) -> Item:
    """The item without its id. An encrypted item keeps it, and an id by which an output may name a call stays."""
    item_id = item.get("id")
    if item_id is None or is_native(item) or item_id in (*call_ids(item), answered_call_id(item)):
        return item
    return {name: value for name, value in item.items() if name != "id"}


def is_native(item: Item) -> bool:
    """Whether the item holds content that an upstream encrypted itself."""
    secret = item.get("encrypted_content")
    if not isinstance(secret, str) or not secret:
        return False
    return not is_sealed(secret) and not secret.startswith((CHAT_SECRET, MESSAGES_SECRET))


# --- ids of calls -----------------------------------------------------------------------------------------------


def made_call_id(turn_id: str, index: int) -> str:
    """The id of a call that came without one."""
    return f"call_{_digest(f'{turn_id}/{index}')}"


def usable_call_id(call_id: str) -> str:
    """The call id; one derived from it if it is longer than the 64 characters that clients may send back."""
    return call_id if len(call_id) <= ids.MAX_CALL_ID else f"call_{_digest(call_id)}"


def chat_call_id(call_id: str, shape: str) -> str:
    """The id for a chat upstream; `shape` is the row's `call_ids`. A call and its output get the same one."""
    if shape == "short":
        return call_id if _SHORT.match(call_id) else _nine(call_id)
    return call_id if 0 < len(call_id) <= _LONGEST_CHAT else f"call_{_digest(call_id)[:32]}"


def _nine(call_id: str) -> str:
    """Nine letters and digits, as Mistral asks for."""
    number = int.from_bytes(hashlib.sha256(call_id.encode()).digest(), "big")
    letters = []
    for _ in range(9):
        number, letter = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[letter])
    return "".join(letters)


# --- ids that the context has -----------------------------------------------------------------------------------


class ContextIds:
    """The ids of items and calls in a turn's context and its own input. They are collected when one is first looked up,
    in one pass over the stored bytes: a search for each id would read a long history as often as an answer has items.
    """

    __slots__ = ("_given", "_stored", "_turn")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._given: frozenset[str] | None = None
        self._stored: set[bytes] = set()
        """As JSON writes them."""

    def __contains__(self, name: str) -> bool:
        if len(name) >= _RANDOM:
            return False
        if self._given is None:
            self._given = self._collected()
        return name in self._given or (bool(self._stored) and orjson.dumps(name)[1:-1] in self._stored)

    def _collected(self) -> frozenset[str]:
        arrays = [array for link in self._turn.chain.links for array in (link.output, link.input)]
        self._stored.update(*map(_IDS, _context.batches(arrays)))
        names = (item.get(member) for item in self._turn.input for member in ("id", "call_id"))
        return frozenset(name for name in names if isinstance(name, str))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:48]
