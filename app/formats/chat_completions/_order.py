"""The order of messages that strict chat templates ask for.

One system message comes first. Then user and assistant alternate, and the first and the last word are the user's. The
results of calls follow the message with the calls, and the assistant speaks before the user does again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.formats._message_order import GO_ON, NOTED, merged

Message = dict[str, Any]

_TEXT = "text"


def strict(messages: Iterable[Message]) -> list[Message]:
    """The messages in that order. None is lost: neighbours of one role are merged, and fillers stand between others. An
    empty message of the user separates two of the assistant."""
    ordered: list[Message] = []
    was_silent = False
    for message in messages:
        if is_silence(message):
            was_silent = True
            continue
        if was_silent and message["role"] == "assistant" and ordered and ordered[-1]["role"] == "assistant":
            _add(ordered, {"role": "user", "content": GO_ON})
        was_silent = False
        if message["role"] == "system" and ordered and ordered[-1]["role"] == "system":
            ordered[-1] = _together(ordered[-1], message)
            continue
        if message["role"] == "system" and ordered:
            message = {**message, "role": "user"}
        _add(ordered, message)
    if not ordered or ordered[-1]["role"] in ("assistant", "system"):
        _add(ordered, {"role": "user", "content": GO_ON})
    return ordered


def is_silence(message: Message) -> bool:
    return message["role"] == "user" and not message["content"]


def system_as_user(messages: Iterable[Message]) -> list[Message]:
    """The messages without a system message, for templates that have none: its text begins the first user message."""
    ordered: list[Message] = []
    for message in messages:
        system = ordered and ordered[-1]["role"] == "system"
        if system and message["role"] == "user":
            ordered[-1] = {**message, "content": merged(ordered[-1]["content"], message["content"], _TEXT)}
        else:
            ordered.append(message)
    return [{**message, "role": "user"} if message["role"] == "system" else message for message in ordered]


def _add(ordered: list[Message], message: Message) -> None:
    role, before = message["role"], ordered[-1]["role"] if ordered else "system"
    if role == "assistant" and before == "system":
        ordered.append({"role": "user", "content": GO_ON})
    elif role == "user" and before == "tool":
        ordered.append({"role": "assistant", "content": NOTED})
    if ordered and role == before and role in ("user", "assistant"):
        ordered[-1] = _together(ordered[-1], message)
    else:
        ordered.append(message)


def _together(first: Mapping[str, Any], second: Mapping[str, Any]) -> Message:
    """Two messages of one role as one."""
    message = {**first, **second, "content": merged(first.get("content"), second.get("content"), _TEXT)}
    if reasoning := [one for part in (first, second) if (one := part.get("reasoning_content"))]:
        message["reasoning_content"] = "\n\n".join(reasoning)
    return message
