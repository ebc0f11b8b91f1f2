"""Writes the steps of a conversation as chat messages that every upstream accepts.

One system message comes first. An assistant message holds all calls of its turn, and their results follow it directly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from app.contract.channel import Channel
from app.contract.items import Item
from app.formats._caching import Marks, accepted, divided, marks_of
from app.formats._conversation import (
    AssistantText,
    AssistantTurn,
    Call,
    ClientMessage,
    Instruction,
    Part,
    Reasoning,
    Silence,
    is_text,
    shown,
    steps,
    text_of,
    unreadable,
)
from app.formats._ids import chat_call_id
from app.formats._images import relabelled
from app.formats._toolbox import Toolbox
from app.formats.chat_completions import _extras, _order

Message = dict[str, Any]

_ELSEWHERE = "[The output is in the next message.]"


def messages(
    items: Sequence[Item], instructions: tuple[str | None, Marks], row: Channel, toolbox: Toolbox
) -> list[Message]:
    """The whole conversation. `instructions`: their text and its marks for the cache. Items that a chat cannot express
    are left out."""
    builder = _MessageBuilder(row)
    text, marks = instructions
    if text:
        builder.add_instruction(text, marks)
    for step in steps(items, toolbox):
        match step:
            case Instruction(text, marks):
                builder.add_instruction(text, marks)
            case ClientMessage(content):
                builder.add({"role": "user", "content": _content(content, row)})
            case Silence():
                builder.add({"role": "user", "content": ""})
            case AssistantTurn():
                builder.add_assistant_turn(step)
    return builder.finished()


def carries(part: Part) -> bool:
    """Whether a chat can express this content part."""
    return _part(part) is not None


class _MessageBuilder:
    """Builds the messages in order."""

    def __init__(self, row: Channel) -> None:
        self._row = row
        self._system: list[Message] = []
        """Text parts."""
        self._messages: list[Message] = []

    def add(self, message: Message) -> None:
        self._messages.append(message)

    def add_instruction(self, text: str, marks: Marks) -> None:
        """Adds an instruction: leading ones are merged, and later ones become user messages if only one is allowed."""
        part = self._text(text, marks)
        if self._row.system_messages == "keep":
            self.add({"role": "system", "content": _written([part])})
        elif self._messages:
            self.add({"role": "user", "content": _written([part])})
        else:
            self._system.append(part)

    def add_assistant_turn(self, turn: AssistantTurn) -> None:
        """Adds the assistant's message, the results of its calls, and the images that a result cannot hold."""
        calls = [act for act in turn.parts if isinstance(act, Call)]
        texts = [self._text(act.text, act.marks) for act in turn.parts if isinstance(act, AssistantText)]
        if not texts and not calls:
            return
        message: Message = {"role": "assistant", "content": _written(texts, "\n\n") or None}
        if calls:
            message["tool_calls"] = [self._tool_call(call) for call in calls]
        thoughts = [act for act in turn.parts if isinstance(act, Reasoning)]
        reasoning = "\n\n".join(act.text for act in thoughts if act.text)
        # Thinking models refuse their own calls without `reasoning_content`, even an empty one.
        if self._row.reasoning_text and (reasoning or calls):
            message["reasoning_content"] = reasoning
        if calls or thoughts:
            _extras.restore(message, calls, thoughts, self._row.call_signatures)
        self.add(message)
        if calls:
            self._add_results(calls, message["tool_calls"])

    def _add_results(self, calls: Sequence[Call], sent_calls: Sequence[Message]) -> None:
        in_place = self._row.tool_images == "tool"
        for call, sent in zip(calls, sent_calls, strict=True):
            result = _content(call.result, self._row) if in_place else self._result(call)
            self.add({"role": "tool", "tool_call_id": sent["id"], "content": result})
        if not in_place and (images := [part for call in calls for part in _parts(shown(call.result), self._row)]):
            self.add({"role": "user", "content": images})

    def _tool_call(self, call: Call) -> Message:
        function = {"name": call.name, "arguments": call.arguments}
        return {"id": chat_call_id(call.id, self._row.call_ids), "type": "function", "function": function}

    def _result(self, call: Call) -> str | list[Message]:
        texts = [part for part in call.result if is_text(part)]
        return _written([*_parts(texts, self._row)]) or (_ELSEWHERE if shown(call.result) else "")

    def _text(self, text: str, marks: Marks) -> Message:
        return {"type": "text", "text": text, **accepted(marks, self._row)}

    def finished(self) -> list[Message]:
        system = [{"role": "system", "content": _written(self._system, "\n\n")}] if self._system else []
        messages = [*system, *self._messages]
        if self._row.system_messages == "user":
            messages = _order.system_as_user(messages)
        if self._row.message_order == "strict":
            return _order.strict(messages)
        return [message for message in messages if not _order.is_silence(message)]


# --- content ----------------------------------------------------------------------------------------------------


def _content(content: str | Sequence[Part], row: Channel) -> str | list[Message]:
    """The content of a user message: text as a string, which every upstream accepts, else parts."""
    if isinstance(content, str):
        return content
    parts = list(_parts(content, row))
    return _written(parts) if all(part["type"] == "text" for part in parts) else parts


def _written(texts: Sequence[Message], between: str = "\n") -> str | list[Message]:
    """Text parts as one string; up to each mark as one part, if there are marks."""
    groups = [(between.join(part["text"] for part in parts), marks) for parts, marks in divided(texts)]
    if not any(marks for _, marks in groups):
        return between.join(text for text, _ in groups)
    return [{"type": "text", "text": text, **marks} for text, marks in groups if text]


def _parts(parts: Sequence[Part], row: Channel) -> Iterator[Message]:
    for part in parts:
        written = _part(part) or {"type": "text", "text": unreadable(part)}
        yield {**written, **accepted(marks_of(part), row)}


def _part(part: Part) -> Message | None:
    if is_text(part):
        return {"type": "text", "text": text_of([part])}
    read = _PARTS.get(str(part.get("type")))
    return read(part) if read else None


def _image(part: Part) -> Message | None:
    if not isinstance(part.get("image_url"), str):
        return None
    image = {"url": relabelled(part["image_url"])}
    if part.get("detail"):
        image["detail"] = "high" if part["detail"] == "original" else part["detail"]
    return {"type": "image_url", "image_url": image}


def _file(part: Part) -> Message | None:
    file = {name: part[name] for name in ("filename", "file_data", "file_id") if part.get(name) is not None}
    return {"type": "file", "file": file} if file.keys() & {"file_data", "file_id"} else None


def _audio(part: Part) -> Message | None:
    audio = part.get("input_audio")
    return {"type": "input_audio", "input_audio": audio} if isinstance(audio, Mapping) else None


_PARTS: dict[str, Callable[[Part], Message | None]] = {
    "input_image": _image,
    "input_file": _file,
    "input_audio": _audio,
}
