"""Items as the messages of a chat: merged and ordered so that every upstream takes them.

One system message stands first, each assistant message holds all calls of its turn, and their results follow it at
once, whatever came between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from app.errors import InvalidRequest
from app.formats.chat_completions._tools import INPUT, Toolbox
from app.turn import Item, Row

Message = dict[str, Any]

_INSTRUCTORS = frozenset({"system", "developer"})
_UNREADABLE_COMPACTION = (
    "[An earlier part of this conversation was compacted by another model server and cannot be read here.]"
)
_ELSEWHERE = "[The output is in the next message.]"


def messages(items: Sequence[Item], instructions: str | None, row: Row, toolbox: Toolbox) -> list[Message]:
    """The whole conversation. An item that a chat has no word for is left out."""
    conversation = _Conversation(row, toolbox, _answers(items))
    if instructions:
        conversation.instruct(instructions)
    for item in items:
        conversation.add(item)
    return conversation.finished()


def check(items: Sequence[Item]) -> None:
    """Raises InvalidRequest for content of a client's own input that would be lost."""
    for position, item in enumerate(items):
        for name in ("content", "output"):
            parts = item.get(name)
            if not isinstance(parts, list) or (item.get("type") != "message" and not _is_output(item)):
                continue
            for number, part in enumerate(parts):
                if part.get("type") is not None and _part(part) is None:
                    raise _cannot_carry(part, f"input[{position}].{name}[{number}]")


def _cannot_carry(part: Mapping[str, Any], param: str) -> InvalidRequest:
    kind = part["type"]
    if kind in _PARTS:
        return InvalidRequest(
            f"Invalid '{param}': this model takes an '{kind}' as data or URL only.",
            code="unsupported_value",
            param=param,
        )
    listed = ", ".join(f"'{name}'" for name in _PARTS)
    return InvalidRequest(
        f"Invalid value: '{kind}'. Supported values are: {listed}.", code="invalid_value", param=f"{param}.type"
    )


class _Conversation:
    """Messages in the making. What an assistant did is collected until somebody else speaks."""

    def __init__(self, row: Row, toolbox: Toolbox, answers: Mapping[int, Item]) -> None:
        self._row = row
        self._toolbox = toolbox
        self._answers = answers
        self._answered = {id(answer) for answer in answers.values()}
        self._system: list[str] = []
        self._messages: list[Message] = []
        self._said: list[str] = []
        self._thought: list[str] = []
        self._calls: list[tuple[Message, Item]] = []

    def instruct(self, text: str) -> None:
        """A system message; the leading ones are one, and later ones speak as the user where only one may be."""
        self._close()
        if self._row.system_messages == "keep":
            self._messages.append({"role": "system", "content": text})
        elif self._messages:
            self._messages.append({"role": "user", "content": text})
        else:
            self._system.append(text)

    def add(self, item: Item) -> None:
        kind = item.get("type")
        if kind == "message":
            self._message(item)
        elif kind == "reasoning":
            self._thought.append(_joined(item.get("content") or ()))
        elif kind in _CALLS:
            self._call(item)
        elif kind == "mcp_call":
            self._remote_call(item)
        elif _is_output(item):
            self._output(item)
        elif kind == "compaction":
            self._user(_UNREADABLE_COMPACTION)

    def finished(self) -> list[Message]:
        self._close()
        system = [{"role": "system", "content": "\n\n".join(self._system)}] if self._system else []
        return [*system, *self._messages]

    # --- one item

    def _message(self, item: Item) -> None:
        role, content = item.get("role"), item.get("content")
        if role in _INSTRUCTORS:
            if text := _text(content):
                self.instruct(text)
        elif role == "assistant":
            if text := _text(content):
                self._said.append(text)
        elif carried := _content(content):
            self._user(carried)

    def _user(self, content: str | list[Message]) -> None:
        self._close()
        self._messages.append({"role": "user", "content": content})

    def _call(self, item: Item) -> None:
        answer = self._answers.get(id(item))
        if answer is not None:
            name, arguments = _CALLS[item["type"]](item, self._toolbox)
            self._calls.append((_tool_call(_call_id(item), name, arguments), answer))

    def _remote_call(self, item: Item) -> None:
        """A call that its upstream has answered itself."""
        said = item.get("output") or item.get("error")
        if said:
            name = self._toolbox.told(str(item.get("name")), str(item.get("server_label")))
            call = _tool_call(str(item.get("id")), name, _as_object(str(item.get("arguments"))))
            self._calls.append((call, {"output": said}))
            self._close()

    def _output(self, item: Item) -> None:
        if id(item) in self._answered:
            self._close()
            return
        if item.get("type") == "tool_search_output":
            return  # searched by the upstream itself; what it found is among the tools
        text, parts = _output(item)
        named = f" {item['name']}" if isinstance(item.get("name"), str) else ""
        told = f"[Output of the tool{named}]\n{text}"
        self._user([{"type": "text", "text": told}, *parts] if parts else told)

    def _close(self) -> None:
        """The assistant's message, the results of its calls, and what a result cannot hold."""
        if self._said or self._calls:
            self._messages.append(self._assistant())
        shown: list[Message] = []
        for call, answer in self._calls:
            text, parts = _output(answer)
            content = text or (_ELSEWHERE if parts else "")
            self._messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})
            shown += parts
        if shown:
            self._messages.append({"role": "user", "content": shown})
        self._said, self._thought, self._calls = [], [], []

    def _assistant(self) -> Message:
        message: Message = {"role": "assistant", "content": "\n\n".join(self._said) or None}
        if self._calls:
            message["tool_calls"] = [call for call, _ in self._calls]
        thought = "\n\n".join(text for text in self._thought if text)
        # Thinking models refuse their own calls without the reasoning that led there, be it empty.
        if self._row.reasoning_text and (thought or self._calls):
            message["reasoning_content"] = thought
        return message


# --- calls and outputs ------------------------------------------------------------------------------------------


def _answers(items: Sequence[Item]) -> dict[int, Item]:
    """The output of each call, by the call's identity: call ids may repeat from turn to turn."""
    waiting: dict[str, list[Item]] = {}
    answers: dict[int, Item] = {}
    for item in items:
        if item.get("type") in _CALLS:
            waiting.setdefault(_call_id(item), []).append(item)
        elif _is_output(item):
            calls = waiting.get(_call_id(item))
            if calls:
                answers[id(calls.pop(0))] = item
    return answers


def _is_output(item: Item) -> bool:
    return item.get("type") in _OUTPUTS


def _call_id(item: Item) -> str:
    # The outputs of a local shell name their call by their own id.
    return str(item.get("call_id") or item.get("id") or "")


def _tool_call(call_id: str, name: str, arguments: str) -> Message:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _as_object(arguments: str) -> str:
    """Arguments that an upstream can parse: some refuse a history in which a model once failed to write JSON."""
    if not arguments.strip():
        return "{}"
    try:
        if isinstance(orjson.loads(arguments), dict):
            return arguments
    except ValueError:
        pass
    return _json({"arguments": arguments})


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _function_call(item: Item, toolbox: Toolbox) -> tuple[str, str]:
    return _told(item, toolbox), _as_object(str(item.get("arguments") or ""))


def _custom_call(item: Item, toolbox: Toolbox) -> tuple[str, str]:
    return _told(item, toolbox), _json({INPUT: item.get("input") or ""})


def _told(item: Item, toolbox: Toolbox) -> str:
    return toolbox.told(str(item.get("name")), item.get("namespace"))


def _of(name: str, *members: str) -> Callable[[Item, Toolbox], tuple[str, str]]:
    """A call whose tool this upstream does not have, so that the history stays whole."""

    def call(item: Item, toolbox: Toolbox) -> tuple[str, str]:
        return name, _json({member: item[member] for member in members if item.get(member) is not None})

    return call


#: Name and arguments of each kind of call that an output answers.
_CALLS: dict[str, Callable[[Item, Toolbox], tuple[str, str]]] = {
    "function_call": _function_call,
    "custom_tool_call": _custom_call,
    "shell_call": _of("shell", "action"),
    "local_shell_call": _of("local_shell", "action"),
    "apply_patch_call": _of("apply_patch", "operation"),
    "computer_call": _of("computer", "action", "actions"),
    "tool_search_call": _of("tool_search", "arguments"),
}

_OUTPUTS = frozenset({*(f"{kind}_output" for kind in _CALLS), "tool_search_output"})


def _output(item: Item) -> tuple[str, list[Message]]:
    """The output's text, and the parts that only a user message can hold."""
    value = item.get("output")
    if isinstance(value, str):
        return value, []
    if isinstance(value, Mapping) and value.get("type") == "computer_screenshot":
        value = [{**value, "type": "input_image"}]
    if isinstance(value, list) and all(part.get("type") in _PARTS for part in value):
        return _joined(value), [part for part in _parts(value) if part["type"] != "text"]
    if value is None and isinstance(item.get("tools"), list):
        value = [tool.get("name") for tool in item["tools"]]
    return str(item.get("status") or "") if value is None else _json(value), []


# --- content ----------------------------------------------------------------------------------------------------


def _text(content: object) -> str:
    return content if isinstance(content, str) else _joined(content if isinstance(content, list) else ())


def _joined(parts: Sequence[Mapping[str, Any]]) -> str:
    texts = (part.get("text", part.get("refusal")) for part in parts)
    return "\n".join(text for text in texts if isinstance(text, str))


def _content(content: object) -> str | list[Message]:
    """What a user said: text as a string, which every upstream takes, else parts."""
    if isinstance(content, str):
        return content
    parts = list(_parts(content if isinstance(content, list) else ()))
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _parts(parts: Sequence[Mapping[str, Any]]) -> Iterator[Message]:
    for part in parts:
        yield _part(part) or {"type": "text", "text": f"[An {part.get('type')} that cannot be read here.]"}


def _part(part: Mapping[str, Any]) -> Message | None:
    read = _PARTS.get(str(part.get("type")))
    return read(part) if read else None


def _text_part(part: Mapping[str, Any]) -> Message:
    return {"type": "text", "text": str(part.get("text") or "")}


def _refusal(part: Mapping[str, Any]) -> Message:
    return {"type": "text", "text": str(part.get("refusal") or "")}


def _image(part: Mapping[str, Any]) -> Message | None:
    if not isinstance(part.get("image_url"), str):
        return None
    image = {"url": part["image_url"]}
    if part.get("detail"):
        image["detail"] = "high" if part["detail"] == "original" else part["detail"]
    return {"type": "image_url", "image_url": image}


def _file(part: Mapping[str, Any]) -> Message | None:
    file = {name: part[name] for name in ("filename", "file_data", "file_id") if part.get(name) is not None}
    return {"type": "file", "file": file} if file.keys() & {"file_data", "file_id"} else None


def _audio(part: Mapping[str, Any]) -> Message | None:
    audio = part.get("input_audio")
    return {"type": "input_audio", "input_audio": audio} if isinstance(audio, Mapping) else None


_PARTS: dict[str, Callable[[Mapping[str, Any]], Message | None]] = {
    "input_text": _text_part,
    "input_image": _image,
    "input_file": _file,
    "input_audio": _audio,
    "output_text": _text_part,
    "refusal": _refusal,
    "text": _text_part,
    "summary_text": _text_part,
    "reasoning_text": _text_part,
}
