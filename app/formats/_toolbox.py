"""Tools for upstreams that have functions only: flat names, and the tool that a called name means.

A custom tool becomes a function with one string; a tool of a namespace has the namespace in its name. Hosted tools are
left out, and `dropped` lists their types.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.contract.channel import Channel
from app.contract.items import Item
from app.contract.turn import Turn
from app.errors import InvalidRequest
from app.formats import _context
from app.formats._caching import Marks, marked_parts, marks_of

#: The one argument of a custom tool.
INPUT = "input"

#: The mode of an answer without calls.
NO_CALLS = "none"

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_UNFIT = re.compile(r"[^a-zA-Z0-9_-]")
_BETWEEN = re.compile(r"[._:/-]{1,2}")
_TYPE = re.compile(r"[a-z0-9_.-]{1,64}")
_NO_PARAMETERS = {"type": "object", "properties": {}}
#: Items that bring callable tools, and the bytes that show such an item in JSON.
_BRINGING_TOOLS = {"additional_tools": b'"additional_tools"', "tool_search_output": b'"tool_search_output"'}


@dataclass(frozen=True, slots=True)
class Tool:
    """A callable tool, as the client defined it."""

    call: str
    """Type of the item that calls it."""
    name: str
    namespace: str | None = None


class Toolbox:
    """The tools of one turn."""

    def __init__(self, tools: Iterable[Mapping[str, Any]]) -> None:
        self.functions: dict[str, dict[str, Any]] = {}
        """By flat name."""
        self.dropped: list[str] = []
        self.marks: dict[str, Marks] = {}
        """Marks for the upstream's cache, by flat name."""
        self._tools: dict[str, Tool] = {}
        for tool, namespace in _flat(tools):
            self._add(tool, namespace)

    @classmethod
    def of(cls, turn: Turn) -> Toolbox:
        brought = (tool for item in _bringing_tools(turn) for tool in item.get("tools") or ())
        return cls([*turn.request.get("tools", ()), *brought])

    def called(self, name: str) -> Tool:
        """The tool that a called name means. Models sometimes leave the namespace out, or write `namespace.name`."""
        known = self._tools.get(name)
        if known is not None:
            return known
        candidates = [tool for tool in self._tools.values() if name == tool.name or _is_spelling(name, tool)]
        return candidates[0] if len(candidates) == 1 else Tool("function_call", name)

    def flat_name(self, name: str, namespace: str | None) -> str:
        """The flat name for the upstream."""
        for flat, tool in self._tools.items():
            if (tool.name, tool.namespace) == (name, namespace):
                return flat
        return _flat_name(name, namespace)

    def _add(self, tool: Mapping[str, Any], namespace: Mapping[str, Any] | None) -> None:
        if tool.get("type") not in _FUNCTIONS:
            self._drop(tool)
            return
        known = Tool(_CALLS[tool["type"]], tool["name"], namespace["name"] if namespace else None)
        flat = _flat_name(known.name, known.namespace)
        if self._tools.get(flat, known) != known:
            flat = _shorter(flat, orjson.dumps((known.name, known.namespace)))
        self._tools[flat] = known
        self.functions[flat] = {"name": flat, **_FUNCTIONS[tool["type"]](tool, _introduced(tool, namespace))}
        if marks := marks_of(tool):
            self.marks[flat] = marks

    def _drop(self, tool: Mapping[str, Any]) -> None:
        kind = str(tool.get("type"))
        shown = kind if _TYPE.fullmatch(kind) else "unknown"
        if shown not in self.dropped:
            self.dropped.append(shown)


@dataclass(frozen=True, slots=True)
class Offer:
    """The functions that a model may call, and whether it must call one."""

    functions: Sequence[Mapping[str, Any]]
    mode: str | None = None
    """auto, none or required; None if the client set none."""
    forced: str | None = None
    """The function that the model has to call."""

    @property
    def must_call(self) -> bool:
        """The answer is a call. `text.format` does not apply then: servers that enforce it would force text."""
        return bool(self.functions) and (self.forced is not None or self.mode == "required")


def offer(turn: Turn, row: Channel, toolbox: Toolbox) -> Offer:
    """The functions to send. Raises InvalidRequest if `tool_choice` or the row forbids leaving a tool out."""
    if toolbox.dropped and row.hosted_tools == "refuse":
        raise _refused(f"Tools of type {_listed(toolbox.dropped)} are not available with this model.", "tools")
    offered = _chosen(turn.request.get("tool_choice"), toolbox)
    if turn.forbids_calls:
        return Offer(offered.functions, NO_CALLS)
    if offered.mode == "required" and not offered.functions:
        raise _refused("'tool_choice' is 'required', but none of the tools is available with this model.")
    return offered


def _chosen(choice: str | Mapping[str, Any] | None, toolbox: Toolbox) -> Offer:
    functions = list(toolbox.functions.values())
    if choice is None or isinstance(choice, str):
        return Offer(functions, choice)
    if choice.get("type") == "allowed_tools":
        allowed = {name for tool in choice["tools"] if (name := _named(tool, toolbox)) is not None}
        return Offer([toolbox.functions[name] for name in toolbox.functions if name in allowed], choice["mode"])
    name = _named(choice, toolbox)
    if name is None:
        wanted = choice.get("name") or choice.get("type")
        raise _refused(f"Tool choice '{wanted}' is not among the tools that are available with this model.")
    return Offer(functions, forced=name)


def _named(tool: Mapping[str, Any], toolbox: Toolbox) -> str | None:
    """The function of an entry of `tool_choice`, by its flat name."""
    if tool.get("type") not in _FUNCTIONS or not isinstance(tool.get("name"), str):
        return None
    known = toolbox.called(tool["name"])
    flat = toolbox.flat_name(tool["name"], tool.get("namespace") or known.namespace)
    return flat if flat in toolbox.functions else None


def _refused(message: str, param: str = "tool_choice") -> InvalidRequest:
    return InvalidRequest(message, code="unsupported_value", param=param)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


# --- one tool ---------------------------------------------------------------------------------------------------


def _function(tool: Mapping[str, Any], description: str) -> dict[str, Any]:
    function: dict[str, Any] = {"description": description} if description else {}
    function["parameters"] = tool.get("parameters") or _NO_PARAMETERS
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"]
    return function


def _custom(tool: Mapping[str, Any], description: str) -> dict[str, Any]:
    """A function with one string. A grammar becomes part of the description."""
    text: dict[str, Any] = {"type": "string", "description": "The whole input of the tool, as plain text."}
    grammar = tool.get("format") or {}
    if grammar.get("type") == "grammar":
        rules = f"The input must match this {grammar['syntax']} grammar:\n{grammar['definition']}"
        description = f"{description}\n\n{rules}" if description else rules
    return {
        **({"description": description} if description else {}),
        "parameters": {
            "type": "object",
            "properties": {INPUT: text},
            "required": [INPUT],
            "additionalProperties": False,
        },
    }


_FUNCTIONS = {"function": _function, "custom": _custom}
_CALLS = {"function": "function_call", "custom": "custom_tool_call"}


def _introduced(tool: Mapping[str, Any], namespace: Mapping[str, Any] | None) -> str:
    """The description of the namespace, then the tool's own: flat functions have no namespaces."""
    texts = ((namespace or {}).get("description"), tool.get("description"))
    return "\n\n".join(text for text in texts if text)


def _flat(tools: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any] | None]]:
    for tool in tools:
        if tool.get("type") == "namespace":
            # Marks of the namespace stand at its last tool.
            yield from ((inner, tool) for inner in marked_parts(tool.get("tools") or (), marks_of(tool)))
        else:
            yield tool, None


def _flat_name(name: str, namespace: str | None) -> str:
    full = f"{namespace}__{name}" if namespace else name
    return full if _NAME.fullmatch(full) else _shorter(full, full.encode())


def _is_spelling(name: str, tool: Tool) -> bool:
    """Whether the name is that of the tool behind its namespace, whatever stands between the two."""
    if tool.namespace is None or not (name.startswith(tool.namespace) and name.endswith(tool.name)):
        return False
    return _BETWEEN.fullmatch(name[len(tool.namespace) : len(name) - len(tool.name)]) is not None


def _shorter(name: str, salt: bytes) -> str:
    return f"{_UNFIT.sub('_', name)[:54]}_{hashlib.sha256(salt).hexdigest()[:8]}"


def _bringing_tools(turn: Turn) -> Iterator[Item]:
    arrays = [*_context.arrays(turn)]
    if _context.any_marked(_brings_tools, arrays):
        for array in filter(_brings_tools, arrays):
            yield from (item for item in orjson.loads(array) if item.get("type") in _BRINGING_TOOLS)
    yield from (item for item in turn.input if item.get("type") in _BRINGING_TOOLS)


def _brings_tools(array: bytes) -> bool:
    return any(mark in array for mark in _BRINGING_TOOLS.values())
