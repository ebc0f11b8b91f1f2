"""The order of items that strict chat templates ask for, as `chat_completions/_order` does it for messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from app.contract.items import INSTRUCTION_ROLES, OUTPUT_TYPES, Item
from app.formats._conversation import answers_by_call
from app.formats._message_order import GO_ON, NOTED, merged

_TEXT_TYPES = {"user": "input_text", "assistant": "output_text"}


def strict(items: Iterable[Item]) -> list[Item]:
    """The items in that order. None is lost: neighbours of one role are merged, and fillers stand between others."""
    ordered: list[Item] = []
    for item in _led_reasoning(_answered_at_once(list(items))):
        if item.get("role") in INSTRUCTION_ROLES and ordered and _role(ordered[-1]) != "system":
            item = {**item, "role": "user"}
        _add(ordered, item)
    if not ordered or _role(ordered[-1]) in ("assistant", "system"):
        _add(ordered, _message("user", GO_ON))
    return ordered


def _role(item: Item) -> str:
    """Who speaks in this item: user, assistant, tool or system."""
    role = item.get("role")
    if role in INSTRUCTION_ROLES:
        return "system"
    if isinstance(role, str):
        return role
    return "tool" if item.get("type") in OUTPUT_TYPES else "assistant"


def _answered_at_once(items: Sequence[Item]) -> Iterator[Item]:
    """The items with the results of calls before what was said meanwhile."""
    answers = answers_by_call(items)
    results = {id(answer) for answer in answers.values()}
    waiting: list[Item] = []
    for item in items:
        if id(item) in results or "role" in item:
            yield from waiting
            waiting = []
        if id(item) in answers:
            waiting.append(answers[id(item)])
        if id(item) not in results:
            yield item
    yield from waiting


def _led_reasoning(items: Iterable[Item]) -> Iterator[Item]:
    """The items without reasoning that led to nothing."""
    held: list[Item] = []
    for item in items:
        if item.get("type") == "reasoning":
            held.append(item)
            continue
        if _role(item) == "assistant":
            yield from held
        held = []
        yield item


def _add(ordered: list[Item], item: Item) -> None:
    role, before = _role(item), _role(ordered[-1]) if ordered else "system"
    if role == "assistant" and before == "system":
        ordered.append(_message("user", GO_ON))
    elif role == "user" and before == "tool":
        ordered.append(_message("assistant", NOTED))
    at = len(ordered)
    while at and ordered[at - 1].get("type") == "reasoning":
        at -= 1
    earlier = ordered[at - 1] if at else {}
    if item.get("role") in _TEXT_TYPES and earlier.get("role") == role:
        content = merged(earlier.get("content"), item.get("content"), _TEXT_TYPES[role])
        ordered[at - 1 :] = [*ordered[at:], {**earlier, "content": content}]
    else:
        ordered.append(item)


def _message(role: str, text: str) -> Item:
    part: Item = {"type": _TEXT_TYPES[role], "text": text}
    if role == "assistant":
        part["annotations"] = []
    return {"type": "message", "role": role, "content": [part]}
