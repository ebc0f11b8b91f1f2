"""Checks of `tools` and `tool_choice`. Of an unknown type only `type` itself is checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Mapping as AnyMapping
from typing import Any

from app.schemas.fields import (
    Array,
    Boolean,
    Either,
    Object,
    OneOf,
    String,
    StringMap,
    Typed,
    Violation,
    shown,
)

_TEXT = String()
_OBJECT = Object()
_LABEL = String(min=1)


# --- tools ------------------------------------------------------------------------------------------------------


_FUNCTION = Object(
    {
        "name": String(min=1, max=128, pattern="[a-zA-Z0-9_-]+"),
        "description": _TEXT,
        "parameters": _OBJECT,
        "strict": Boolean(),
    },
    needs=("name",),
)
_GRAMMAR = Object({"definition": _TEXT, "syntax": OneOf("lark", "regex")}, needs=("definition", "syntax"))
_CUSTOM = Object(
    {"name": _LABEL, "description": _TEXT, "format": Typed({"grammar": _GRAMMAR}, "Format")}, needs=("name",)
)
#: A namespace holds functions and custom tools only, so namespaces cannot be nested without end.
_MEMBERS = {"function": _FUNCTION, "custom": _CUSTOM}
_NAMESPACE = Object(
    {"name": _LABEL, "description": _TEXT, "tools": Array(Typed(_MEMBERS, "Tool"))}, needs=("name", "tools")
)
_NAMES = Array(_TEXT, of="strings")
_FILTER = Object({"tool_names": _NAMES, "read_only": Boolean()})
_ALLOWED = Either("one of an array of strings or object", {list: _NAMES, dict: _FILTER})
_EVERY_CALL = OneOf("always", "never")
_CALLS = Object({"always": _ALLOWED, "never": _ALLOWED})
#: Without an address, the label is that of a server in the channel table.
_MCP = Object(
    {
        "server_label": _LABEL,
        "server_url": _LABEL,
        "connector_id": _LABEL,
        "tunnel_id": String(pattern="tunnel_[a-z0-9]{32}"),
        "server_description": _TEXT,
        "authorization": _TEXT,
        "headers": StringMap(max=64, max_key=128, max_value=8192),
        "allowed_tools": _ALLOWED,
        "require_approval": Either("one of a string or object", {str: _EVERY_CALL, dict: _CALLS}),
        "defer_loading": Boolean(),
        "allowed_callers": Array(OneOf("direct", "programmatic")),
    },
    needs=("server_label",),
)

TOOLS = Array(Typed({**_MEMBERS, "namespace": _NAMESPACE, "mcp": _MCP}, "Tool").named("Tool"))
check_tools = TOOLS.check


# --- tool_choice ------------------------------------------------------------------------------------------------


_MODE = OneOf("none", "auto", "required")
_NAMED = Object({"name": _LABEL}, needs=("name",))
_CHOICE = Typed(
    {
        "function": _NAMED,
        "custom": _NAMED,
        "mcp": Object({"server_label": _LABEL, "name": _TEXT}, needs=("server_label",)),
        "allowed_tools": Object(
            {"mode": OneOf("auto", "required"), "tools": Array(Typed({}, "AllowedTool"))}, needs=("mode", "tools")
        ),
    },
    "Choice",
)
TOOL_CHOICE = Either("one of a string or object", {str: _MODE, dict: _CHOICE})
check_tool_choice = TOOL_CHOICE.check


# --- whether the tool that is chosen exists ---------------------------------------------------------------------

#: Members of a request that may bring tools which are not known yet.
_SOURCES = frozenset({"conversation", "previous_response_id", "prompt"})
#: Types of items that bring tools, or stand for items that may, and of the tool that does. Not a set: the value that is
#: looked for is not checked yet, and need not be hashable.
_BRINGING = ("additional_tools", "compaction", "item_reference", "tool_search_output", "tool_search")
#: Tools that are chosen by their type, by the word that all versions of it begin with.
_HOSTED = ("code_interpreter", "computer", "file_search", "image_generation", "web_search")


def check_choice_exists(choice: object, request: AnyMapping[str, Any]) -> None:
    """Raises Fault for a `tool_choice` that names no tool of this request. A choice that is not well formed, or whose
    tool may be brought by something else, passes."""
    if not isinstance(choice, dict) or _may_bring_tools(request):
        return
    tools = request.get("tools")
    known = list(_flat(tools if isinstance(tools, list) else ()))
    named = choice.get("tools") if choice.get("type") == "allowed_tools" else [choice]
    if isinstance(named, list) and named and all(_is_missing(one, known) for one in named):
        raise _not_found(named[0])


def _may_bring_tools(request: AnyMapping[str, Any]) -> bool:
    if not _SOURCES.isdisjoint(request):
        return True
    items, tools = request.get("input"), request.get("tools")
    return any(
        isinstance(one, dict) and one.get("type") in _BRINGING
        for listed in (items, tools)
        if isinstance(listed, list)
        for one in listed
    )


def _flat(tools: Iterable[Any], namespace: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    """The tools and the members of namespaces, each with the name of its namespace."""
    for tool in tools:
        if isinstance(tool, dict):
            yield tool, namespace
            if tool.get("type") == "namespace" and isinstance(tool.get("tools"), list):
                yield from _flat(tool["tools"], str(tool.get("name")))


def _is_missing(choice: Any, tools: Iterable[tuple[dict[str, Any], str]]) -> bool:
    """Whether the choice certainly means no tool."""
    if not isinstance(choice, dict):
        return False
    kind = choice.get("type")
    if kind in ("function", "custom"):
        name = choice.get("name")
        return isinstance(name, str) and not any(_is_called(tool, namespace, name) for tool, namespace in tools)
    if kind == "mcp":
        label = choice.get("server_label")
        return isinstance(label, str) and not any(tool.get("server_label") == label for tool, _ in tools)
    hosted = next((word for word in _HOSTED if isinstance(kind, str) and kind.startswith(word)), None)
    return hosted is not None and not any(str(tool.get("type")).startswith(hosted) for tool, _ in tools)


def _is_called(tool: dict[str, Any], namespace: str, name: str) -> bool:
    """By its name; a member of a namespace also by both names, however they are joined."""
    own = tool.get("name")
    if not isinstance(own, str):
        return False
    return own == name or (namespace != "" and name.startswith(namespace) and name.endswith(own))


def _not_found(choice: dict[str, Any]) -> Violation:
    name = str(choice.get("name") or choice.get("server_label") or choice["type"])
    return Violation("invalid_value", lambda _: f"Tool choice '{shown(name)}' not found in 'tools' parameter.")
