"""Completes output items of an upstream to the contract's shapes. A complete item stays the same object."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson

from app.contract.items import COMPACTION_TYPES, STATUSES, STREAMED_CALLS, SUMMARY_PARTS, Item, is_call, is_output
from app.contract.turn import Secret, Turn
from app.errors import UpstreamBroken
from app.formats import _ids

JSON = dict[str, Any]

#: Types that some upstreams give to an assistant's text parts.
_TEXT_NAMES = frozenset({"text", "input_text"})
#: Members in which some upstreams put the content of a message.
_OTHER_CONTENT = ("text", "output_text", "parts")


def complete(item: Item, turn_id: str, index: int) -> Item:
    """The item with all members that the contract requires; the same object if complete. Raises UpstreamBroken."""
    kind = item.get("type")
    changes: JSON = {}
    if not isinstance(kind, str) or not kind:
        kind = changes["type"] = kind_of(item)
    if check := _CHANGES.get(kind):
        changes |= check(item)
    changes |= _usable_ids(item, kind, turn_id, index)
    return {**item, **changes} if changes else item


def complete_all(items: Iterable[Any], turn: Turn) -> list[Item]:
    """All items of an output, completed, with ids that no other item has."""
    taken = TakenIds(turn)
    given = enumerate(item for item in items if isinstance(item, dict))
    return [bound(taken.renamed(complete(item, turn.id, index), index), item, turn) for index, item in given]


def message(text: str) -> Item:
    """A message with this text, not yet complete."""
    return {"type": "message", "content": text}


def text_of(event: Mapping[str, Any]) -> str:
    """The text of a delta event, also where a server gives it another name or an object around it."""
    text = event.get("delta")
    if isinstance(text, dict):
        text = text.get("text", text.get("content"))
    elif text is None:
        text = event.get("text")
    return text if isinstance(text, str) else ""


# --- ids --------------------------------------------------------------------------------------------------------


def kind_of(item: Mapping[str, Any]) -> str:
    """The type of an item that has none, by its members."""
    if "name" in item and "arguments" in item:
        return "function_call"
    return "reasoning" if "summary" in item else "message"


def _usable_ids(item: Mapping[str, Any], kind: str, turn_id: str, index: int) -> JSON:
    item_id, call_id = item.get("id"), item.get("call_id")
    changed: JSON = {}
    if not isinstance(item_id, str) or item_id == call_id or not _ids.is_fit(item_id, kind):
        changed["id"] = _ids.made(turn_id, kind, index)
    if isinstance(call_id, str) and call_id:
        if (usable := _ids.usable_call_id(call_id)) != call_id:
            changed["call_id"] = usable
    elif kind in STREAMED_CALLS:
        changed["call_id"] = _ids.made_call_id(turn_id, index)
    return changed


class TakenIds:
    """The ids of the context and of the answer so far. Some upstreams number their items from the start in every turn,
    or give two calls one id."""

    __slots__ = ("_calls", "_in_context", "_taken", "_turn")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._in_context = _ids.ContextIds(turn)
        self._taken: set[str] = set()
        self._calls: dict[str, str] = {}
        """The new ids of calls, by the upstream's. The upstream may answer its own calls."""

    def renamed(self, item: Item, index: int) -> Item:
        """The item with new ids in place of those that others have; the same object if its own are free."""
        changed: JSON = {}
        if self._has(item["id"]):
            changed["id"] = _ids.made(self._turn.id, item["type"], index)
        call_id = item.get("call_id")
        if isinstance(call_id, str) and is_call(item) and self._has(call_id):
            changed["call_id"] = self._calls[call_id] = _ids.made_call_id(self._turn.id, index)
        elif is_output(item) and call_id in self._calls:
            changed["call_id"] = self._calls[call_id]
        item = {**item, **changed} if changed else item
        self.add(item)
        return item

    def add(self, item: Item) -> None:
        self._taken.update(name for name in (item["id"], item.get("call_id")) if isinstance(name, str))

    def _has(self, name: str) -> bool:
        return name in self._taken or name in self._in_context


def bound(item: Item, original: Item, turn: Turn) -> Item:
    """The item for the client. Encrypted content is bound to the id that the upstream gave it, so another id goes with
    the content sealed together with the upstream's."""
    secret, item_id = original.get("encrypted_content"), original.get("id")
    if item["type"] != "reasoning" or not isinstance(secret, str) or not secret:
        return item
    if not isinstance(item_id, str) or item_id == item["id"]:
        return item
    return {**item, "encrypted_content": turn.sealed(Secret(secret, item_id=item_id))}


# --- what each type needs ---------------------------------------------------------------------------------------


def _message(item: Mapping[str, Any]) -> JSON:
    changes = _status(item)
    if item.get("role") != "assistant":
        changes["role"] = "assistant"
    given = item.get("content") or next((item[name] for name in _OTHER_CONTENT if item.get(name)), item.get("content"))
    content = _parts(given, _message_part)
    return changes if content is item.get("content") else changes | {"content": content}


def _function_call(item: Mapping[str, Any]) -> JSON:
    return _named(item) | _status(item) | _text(item, "arguments", "{}")


def _custom_tool_call(item: Mapping[str, Any]) -> JSON:
    return _named(item) | _text(item, "input", "")


def _mcp_call(item: Mapping[str, Any]) -> JSON:
    return _text(item, "arguments", "{}")


def _reasoning(item: Mapping[str, Any]) -> JSON:
    changes: JSON = {}
    if item.get("encrypted_content") == "":
        changes["encrypted_content"] = None
    summary = _parts(item.get("summary"), lambda part: _text_part(part, "summary_text"))
    if summary is not item.get("summary"):
        changes["summary"] = summary
    if item.get("content") is not None:
        content = _parts(item["content"], lambda part: _text_part(part, "reasoning_text"))
        if content is not item["content"]:
            changes["content"] = content
    return changes


_CHANGES: Mapping[str, Callable[[Mapping[str, Any]], JSON]] = {
    "message": _message,
    "function_call": _function_call,
    "custom_tool_call": _custom_tool_call,
    "mcp_call": _mcp_call,
    "reasoning": _reasoning,
    **dict.fromkeys(COMPACTION_TYPES - {"compaction"}, lambda item: {"type": "compaction"}),
}


def _status(item: Mapping[str, Any]) -> JSON:
    status = item.get("status")
    return {} if isinstance(status, str) and status in STATUSES else {"status": "completed"}


def _named(item: Mapping[str, Any]) -> JSON:
    if not isinstance(item.get("name"), str) or not item["name"]:
        raise UpstreamBroken("The model's server sent a call without a name.")
    return {}


def _text(item: Mapping[str, Any], name: str, absent: str) -> JSON:
    value = item.get(name)
    if isinstance(value, str):
        return {}
    return {name: absent if value is None else orjson.dumps(value).decode()}


# --- parts ------------------------------------------------------------------------------------------------------


def _parts(value: Any, part: Callable[[Any], JSON]) -> Sequence[Any]:
    """The parts, each completed; the same list if all were complete."""
    if not isinstance(value, list):
        return [part(value)] if value else []
    parts = [part(one) for one in value if isinstance(one, dict | str)]
    same = len(parts) == len(value) and all(new is old for new, old in zip(parts, value, strict=True))
    return value if same else parts


def _message_part(part: Any) -> JSON:
    if not isinstance(part, dict):
        part = {"type": "output_text", "text": part}
    kind = part.get("type")
    if not isinstance(kind, str):
        kind = "refusal" if "refusal" in part else "output_text"
    if kind == "refusal":
        return _with_text(part, kind, "refusal")
    if kind in _TEXT_NAMES:
        kind = "output_text"
    return _output_text(part) if kind == "output_text" else part


def _output_text(part: JSON) -> JSON:
    part = _with_text(part, "output_text", "text")
    lists: JSON = {name: [] for name in ("annotations", "logprobs") if not isinstance(part.get(name), list)}
    return {**part, **lists} if lists else part


def complete_part(part: Any, item_type: str) -> JSON:
    """One part of a message or a reasoning item, completed."""
    if item_type == "message":
        return _message_part(part)
    summary = isinstance(part, dict) and part.get("type") in SUMMARY_PARTS
    return _text_part(part, "summary_text" if summary else "reasoning_text")


def _text_part(part: Any, kind: str) -> JSON:
    if not isinstance(part, dict):
        return {"type": kind, "text": part}
    return _with_text(part if part.get("type") == kind else {"text": part.get("text")}, kind, "text")


def _with_text(part: JSON, kind: str, name: str) -> JSON:
    if part.get("type") == kind and isinstance(part.get(name), str):
        return part
    text = part.get(name)
    return {**part, "type": kind, name: text if isinstance(text, str) else ""}
