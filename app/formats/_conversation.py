"""Items as the steps of a conversation, in an order that every translating format can send.

A step of the assistant holds all calls of one turn with their results, also if other items came between them. This
module reads the contract's items; each format writes the steps in its own terms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.contract.items import INSTRUCTION_ROLES, OUTPUT_TYPES, TEXT_PARTS, Item
from app.errors import InvalidRequest
from app.formats._caching import Marks, divided, marked_parts, marks_of
from app.formats._toolbox import INPUT, Toolbox

Part = Mapping[str, Any]

#: All content parts that the contract has.
PARTS = ("input_text", "input_image", "input_file", "input_audio", *sorted(TEXT_PARTS - {"input_text"}))
_UNREADABLE_COMPACTION = (
    "[An earlier part of this conversation was compacted by another model server and cannot be read here.]"
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """The text of a system or developer message."""

    text: str
    marks: Marks = field(default_factory=dict)
    """Marks for the upstream's cache, which stand at the end of the text."""


@dataclass(frozen=True, slots=True)
class ClientMessage:
    """A user message: a string, or content parts as the client sent them."""

    content: str | Sequence[Part]


@dataclass(frozen=True, slots=True)
class Silence:
    """A user message without content. No upstream gets it, but the assistant has spoken twice."""


@dataclass(frozen=True, slots=True)
class AssistantText:
    """Text of the assistant."""

    text: str
    marks: Marks = field(default_factory=dict)
    """As those of an instruction."""


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A reasoning item."""

    item: Item

    @property
    def text(self) -> str:
        return joined(self.item.get("content") or ())


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the assistant with its result. `arguments` is always a valid JSON object."""

    id: str
    name: str
    """Flat, as the upstream reads it."""
    arguments: str
    result: Sequence[Part]
    failed: bool = False
    """The result says that the tool failed, or that nothing ran it."""
    marks: Marks = field(default_factory=dict)
    """Those of the call itself. Those of its result stand at the parts."""


AssistantPart = AssistantText | Reasoning | Call


@dataclass(frozen=True, slots=True)
class AssistantTurn:
    """Consecutive text, reasoning and calls of the assistant, in their order."""

    parts: Sequence[AssistantPart]


Step = Instruction | ClientMessage | Silence | AssistantTurn


def steps(items: Sequence[Item], toolbox: Toolbox) -> Iterator[Step]:
    """The steps of a conversation. Items without a place in one are left out, and so are unanswered calls."""
    return _StepBuilder(items, toolbox).steps()


class _StepBuilder:
    """Collects the assistant's items until an item of another role or an output follows."""

    def __init__(self, items: Sequence[Item], toolbox: Toolbox) -> None:
        self._items = items
        self._toolbox = toolbox
        self._answers = answers_by_call(items)
        self._answered = {id(answer) for answer in self._answers.values()}
        self._parts: list[AssistantPart] = []

    def steps(self) -> Iterator[Step]:
        for item in self._items:
            yield from self._step(item)
        yield from self._close()

    def _step(self, item: Item) -> Iterator[Step]:
        kind = item.get("type")
        if kind == "message":
            yield from self._message(item)
        elif kind == "reasoning":
            self._parts.append(Reasoning(item))
        elif kind in _CALLS:
            self._call(item)
        elif _is_output(item):
            yield from self._output(item)
        elif kind == "compaction":
            yield from self._client_message(_UNREADABLE_COMPACTION)

    def _message(self, item: Item) -> Iterator[Step]:
        role, content = item.get("role"), item.get("content")
        if role in INSTRUCTION_ROLES:
            for text, marks in _texts(item):
                yield from self._close()
                yield Instruction(text, marks)
        elif role == "assistant":
            self._parts += [AssistantText(text, marks) for text, marks in _texts(item)]
        elif content and (text_of(content) or (isinstance(content, list) and shown(content))):
            yield from self._client_message(_marked_content(item))
        else:
            yield from self._close()
            yield Silence()

    def _client_message(self, content: str | Sequence[Part]) -> Iterator[Step]:
        yield from self._close()
        yield ClientMessage(content)

    def _call(self, item: Item) -> None:
        answer = self._answers.get(id(item))
        if answer is not None:
            name, arguments = _CALLS[item["type"]](item, self._toolbox)
            failed, marks = str(answer.get("status")) in _FAILED, marks_of(item)
            self._parts.append(Call(_call_id(item), name, arguments, result(answer), failed, marks))

    def _output(self, item: Item) -> Iterator[Step]:
        if id(item) in self._answered:
            yield from self._close()
        elif item.get("type") != "tool_search_output":
            # The upstream searched; the tools that it found are in the toolbox.
            parts = result(item)
            named = f" {item['name']}" if isinstance(item.get("name"), str) else ""
            text = f"[Output of the tool{named}]\n{joined(parts)}"
            yield from self._client_message([{"type": "input_text", "text": text}, *shown(parts)])

    def _close(self) -> Iterator[Step]:
        parts, self._parts = self._parts, []
        if parts:
            yield AssistantTurn(parts)


def as_functions(items: Iterable[Item], toolbox: Toolbox) -> Iterator[Item]:
    """The items with every call as a call of a function, and every output as its output. Items that only bring tools,
    or that tools of an upstream left, are left out."""
    for item in items:
        kind = item.get("type")
        if kind in _CALLS:
            name, arguments = _CALLS[item["type"]](item, toolbox)
            yield _call_item(_call_id(item), name, arguments)
        elif _is_output(item):
            yield _output_item(_call_id(item), result(item))
        elif kind in _SPOKEN:
            yield item


def _call_item(call_id: str, name: str, arguments: str) -> Item:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def _output_item(call_id: str, result: Sequence[Part]) -> Item:
    output = list(result) if shown(result) or any(map(marks_of, result)) else joined(result)
    return {"type": "function_call_output", "call_id": call_id, "output": output}


#: The statuses of an output that is none.
_FAILED = ("failed", "incomplete")
#: Items that every upstream of the Responses API takes.
_SPOKEN = frozenset({None, "message", "reasoning", "compaction", "item_reference"})


# --- calls and outputs ------------------------------------------------------------------------------------------


def answers_by_call(items: Sequence[Item]) -> dict[int, Item]:
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
    return item.get("type") in OUTPUT_TYPES


def _call_id(item: Item) -> str:
    # An output of a local shell may name its call by its own id.
    return str(item.get("call_id") or item.get("id") or "")


def _as_object(arguments: str) -> str:
    """Arguments as a JSON object. Some upstreams refuse a history with arguments that are not valid JSON."""
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
    return _flat_name(item, toolbox), _as_object(str(item.get("arguments") or ""))


def _custom_call(item: Item, toolbox: Toolbox) -> tuple[str, str]:
    return _flat_name(item, toolbox), _json({INPUT: item.get("input") or ""})


def _flat_name(item: Item, toolbox: Toolbox) -> str:
    return toolbox.flat_name(str(item.get("name")), item.get("namespace"))


def _of(name: str, *members: str) -> Callable[[Item, Toolbox], tuple[str, str]]:
    """A call of a tool that this upstream lacks: it stays in the history under a plain name."""

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


def result(item: Item) -> Sequence[Part]:
    """An output as content parts. Marks of the whole output stand at the last one."""
    return marked_parts(_result(item), marks_of(item))


def _result(item: Item) -> Sequence[Part]:
    value = item.get("output")
    if isinstance(value, Mapping) and value.get("type") == "computer_screenshot":
        return [{**value, "type": "input_image"}]
    if isinstance(value, list) and all(part.get("type") in PARTS for part in value):
        return value
    if value is None and isinstance(item.get("tools"), list):
        value = [tool.get("name") for tool in item["tools"]]
    if value is None:
        value = str(item.get("status") or "")
    return [{"type": "input_text", "text": value if isinstance(value, str) else _json(value)}]


# --- content ----------------------------------------------------------------------------------------------------


def _texts(item: Item) -> Iterator[tuple[str, Marks]]:
    """The text of a message. It is divided behind each mark."""
    content, marks = item.get("content"), marks_of(item)
    if isinstance(content, str):
        if content:
            yield content, marks
        return
    for parts, own in divided(marked_parts(content if isinstance(content, list) else (), marks)):
        if text := joined(parts):
            yield text, own


def _marked_content(item: Item) -> str | Sequence[Part]:
    """The content of a message. Marks of the whole message stand at its last part."""
    content: str | Sequence[Part] = item["content"]
    marks = marks_of(item)
    if not marks:
        return content
    return marked_parts([{"type": "input_text", "text": content}] if isinstance(content, str) else content, marks)


def text_of(content: object) -> str:
    return content if isinstance(content, str) else joined(content if isinstance(content, list) else ())


def joined(parts: Sequence[Part]) -> str:
    """The texts among the parts."""
    texts = (part.get("text", part.get("refusal")) for part in parts)
    return "\n".join(text for text in texts if isinstance(text, str))


def shown(parts: Sequence[Part]) -> list[Part]:
    """The parts that are not text."""
    return [part for part in parts if part.get("type") not in TEXT_PARTS]


def is_text(part: Part) -> bool:
    return part.get("type") in TEXT_PARTS


def check(items: Sequence[Item], carries: Callable[[Part], bool]) -> None:
    """Raises InvalidRequest for content of the client's input that this format cannot express."""
    for position, item in enumerate(items):
        for name in ("content", "output"):
            parts = item.get(name)
            if not isinstance(parts, list) or (item.get("type") != "message" and not _is_output(item)):
                continue
            for number, part in enumerate(parts):
                if part.get("type") is not None and not carries(part):
                    raise _cannot_carry(part, f"input[{position}].{name}[{number}]")


def unreadable(part: Part) -> str:
    """The text that replaces a part of the history that the format cannot express."""
    return f"[An {part.get('type')} that cannot be read here.]"


def _cannot_carry(part: Part, param: str) -> InvalidRequest:
    kind = part["type"]
    if kind in PARTS:
        return InvalidRequest(
            f"Invalid '{param}': this model does not take this '{kind}', or takes it as data or URL only.",
            code="unsupported_value",
            param=param,
        )
    listed = ", ".join(f"'{name}'" for name in PARTS)
    return InvalidRequest(
        f"Invalid value: '{kind}'. Supported values are: {listed}.", code="invalid_value", param=f"{param}.type"
    )
