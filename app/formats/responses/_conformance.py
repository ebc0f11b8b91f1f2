"""Checks whether a stream keeps the contract, by the events that are parsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.contract.events import (
    ARGUMENT_EVENTS,
    ITEM_ADDED,
    ITEM_DONE,
    MISNAMED_PART,
    PART_FAMILIES,
    TEXT_EVENTS,
    part_family,
)
from app.contract.items import STREAMED_CALLS, SUMMARY_PARTS, TEXT_TYPES, TYPES, Item
from app.contract.replay import has_arguments, with_arguments
from app.contract.turn import Turn
from app.formats.responses import _items

#: The events that may end what an item of this type consists of.
_LAST_OF: Mapping[str, frozenset[str]] = {
    **{kind: frozenset(f"{part_family(part)}.done" for part in TYPES[kind].parts) for kind in TEXT_TYPES},
    **{kind: frozenset({f"{ARGUMENT_EVENTS[kind][0]}.done"}) for kind in STREAMED_CALLS},
}
_EMPTY: Mapping[str, tuple[str, ...]] = {kind: TYPES[kind].grows for kind in TEXT_TYPES | STREAMED_CALLS}
_TEXTS = {family: (key, kind) for kind, (family, key) in TEXT_EVENTS.items()}
_ENDS_OF_TEXT = frozenset(f"{family}.done" for family in _TEXTS)
_INPUTS = {family: (key, kind) for kind, (family, key) in ARGUMENT_EVENTS.items()}
_NAMES = ("id", "type", "call_id", "name")


class StreamConformance:
    """Follows a stream item by item. Events that were not parsed count as exact."""

    __slots__ = ("_done", "_in_part", "_taken", "_turn_id", "is_complete", "item")

    def __init__(self, turn: Turn) -> None:
        self.item: Item | None = None
        """The open item."""
        self.is_complete = False
        """A parsed delta of this item was exact, so the others are taken for exact."""
        self._turn_id = turn.id
        self._done = 0
        self._taken = _items.TakenIds(turn)
        self._in_part = False

    def conforms(self, event: Mapping[str, Any], last: str | None) -> bool:
        """Whether the event is valid here. `last` is the type of the event before it; None if unknown."""
        kind = event["type"]
        if kind == ITEM_ADDED:
            return self._added(event)
        if kind == ITEM_DONE:
            return self._ended(event, last)
        family, _, step = kind.rpartition(".")
        if family in _TEXTS:
            return self._is_here(event) and self._text(event, step, *_TEXTS[family])
        if family in PART_FAMILIES:
            return self._is_here(event) and self._part(event, step, last)
        if family in _INPUTS:
            key, kind = _INPUTS[family]
            if step == "done" and TYPES[kind].json_arguments and not has_arguments(event):
                return False
            return self._is_here(event) and self._text_of(event, step, key)
        return family != MISNAMED_PART and self._is_nowhere_else(event)

    # --- an item

    def _added(self, event: Mapping[str, Any]) -> bool:
        item = event.get("item")
        if self.item is not None or event.get("output_index") != self._done or not self._is_whole(item):
            return False
        assert isinstance(item, dict)
        if any(item.get(name) for name in _EMPTY.get(item["type"], ())):
            return False
        if self._taken.renamed(item, self._done) is not item:
            return False
        self.item, self.is_complete, self._in_part = item, False, False
        return True

    def _ended(self, event: Mapping[str, Any], last: str | None) -> bool:
        item, begun = event.get("item"), self.item
        if begun is None or event.get("output_index") != self._done or not self._is_whole(item):
            return False
        assert isinstance(item, dict)
        if any(item.get(name) != begun.get(name) for name in _NAMES) or item.get("status") == "in_progress":
            return False
        if with_arguments(item) is not item:
            return False
        filled = item["type"] in ARGUMENT_EVENTS or any(item.get(name) for name in _EMPTY.get(item["type"], ()))
        if filled and last is not None and last not in _LAST_OF.get(item["type"], (last,)):
            return False
        self.item, self.is_complete = None, False
        self._done += 1
        return True

    def _is_whole(self, item: object) -> bool:
        if not isinstance(item, dict) or not isinstance(item.get("type"), str):
            return False
        if item["type"] in STREAMED_CALLS and not item.get("name"):
            return False
        return _items.complete(item, self._turn_id, self._done) is item

    # --- what it consists of

    def _is_here(self, event: Mapping[str, Any]) -> bool:
        here = self.item is not None and event.get("item_id") == self.item["id"]
        return here and event.get("output_index") == self._done

    def _is_nowhere_else(self, event: Mapping[str, Any]) -> bool:
        """Whether an event of a hosted tool, or of an unknown type, names no other item than the open one."""
        if "item_id" not in event and "output_index" not in event:
            return True
        return self._is_here({"output_index": self._done, "item_id": self.item and self.item["id"], **event})

    def _text(self, event: Mapping[str, Any], step: str, key: str, kind: str) -> bool:
        index = event.get("summary_index" if kind in SUMMARY_PARTS else "content_index")
        if not self._in_part or not isinstance(index, int):
            return False
        if kind == "output_text" and step in ("delta", "done") and not isinstance(event.get("logprobs"), list):
            return False
        return self._text_of(event, step, key)

    def _text_of(self, event: Mapping[str, Any], step: str, key: str) -> bool:
        if step == "delta":
            self.is_complete = isinstance(event.get("delta"), str)
            return self.is_complete
        # A full text without deltas would be more than the client received.
        return step != "done" or (isinstance(event.get(key), str) and (self.is_complete or not event[key]))

    def _part(self, event: Mapping[str, Any], step: str, last: str | None) -> bool:
        assert self.item is not None
        index = event.get("content_index", event.get("summary_index"))
        part = event.get("part")
        if not isinstance(index, int) or not isinstance(part, dict):
            return False
        if step == "done" and last not in (None, *_ENDS_OF_TEXT) and part.get("type") in TEXT_EVENTS:
            return False
        if step == "added" and last is not None and last.rpartition(".")[0] in _TEXTS:
            # The previous part has not ended.
            return False
        self._in_part = True
        return _items.complete_part(part, self.item["type"]) is part
