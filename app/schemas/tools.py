"""What `tools` and `tool_choice` may be. Of types this room has not heard of, nothing but `type` is checked."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as AnyMapping
from typing import Any, cast

from app.schemas.fields import (
    Boolean,
    Choice,
    Fault,
    ListOf,
    Mapping,
    Plain,
    StrictText,
    absent_or_wrong,
    missing,
    wrong_type,
)

Check = Callable[[dict[str, Any]], None]

_TEXT = StrictText()
_OBJECT = Mapping()
_LABEL = StrictText(min=1)


def read_tools(value: object, param: str = "tools") -> list[dict[str, Any]]:
    """The tools as they came, or `InvalidRequest`."""
    try:
        check_tools(value)
    except Fault as fault:
        raise fault.at(param) from None
    return cast(list[dict[str, Any]], value)


def read_tool_choice(value: object, param: str = "tool_choice") -> str | dict[str, Any]:
    """The choice as it came, or `InvalidRequest`. Whether the tool it names is there is the upstream's business."""
    try:
        check_tool_choice(value)
    except Fault as fault:
        raise fault.at(param) from None
    return cast(str | dict[str, Any], value)


# --- tools ------------------------------------------------------------------------------------------------------


def check_tools(value: object) -> None:
    _check_each(value, _TOOLS)


def _check_each(tools: object, checks: AnyMapping[str, Check]) -> None:
    if not isinstance(tools, list):
        raise wrong_type("an array of objects", tools)
    for index, tool in enumerate(tools):
        try:
            check_typed(tool, checks)
        except Fault as fault:
            fault.within(index)
            raise


def check_typed(value: object, checks: AnyMapping[str, Check]) -> None:
    """An object with a type, and what the table says of that type; one it has not heard of passes."""
    if not isinstance(value, dict):
        raise wrong_type("an object", value)
    kind = value.get("type")
    if not isinstance(kind, str):
        raise absent_or_wrong(value, "type", "a string")
    check = checks.get(kind)
    if check is not None:
        check(value)


def _check_format(value: Any) -> None:
    check_typed(value, {"grammar": _GRAMMAR.check})


def _check_members(value: Any) -> None:
    # A namespace holds functions and custom tools only, so namespaces cannot be nested without end.
    _check_each(value, _NAMESPACE_MEMBERS)


def _check_mcp(tool: dict[str, Any]) -> None:
    _MCP.check(tool)
    if all(tool.get(name) is None for name in _MCP_SERVERS):
        raise missing(_MCP_SERVERS[0])


_FUNCTION = Mapping(
    {
        "name": StrictText(min=1, max=128, pattern="[a-zA-Z0-9_-]+"),
        "description": _TEXT,
        "parameters": _OBJECT,
        "strict": Boolean(),
    },
    needs=("name",),
)
_GRAMMAR = Mapping({"definition": _TEXT, "syntax": Choice("lark", "regex")}, needs=("definition", "syntax"))
_CUSTOM = Mapping({"name": _LABEL, "description": _TEXT, "format": Plain(_check_format)}, needs=("name",))
_NAMESPACE = Mapping({"name": _LABEL, "description": _TEXT, "tools": Plain(_check_members)}, needs=("name", "tools"))
_MCP_SERVERS = ("server_url", "connector_id", "tunnel_id")
_MCP = Mapping(
    {
        "server_label": _LABEL,
        **dict.fromkeys(_MCP_SERVERS, _LABEL),
        "authorization": _TEXT,
        "headers": _OBJECT,
    },
    needs=("server_label",),
)

_NAMESPACE_MEMBERS: dict[str, Check] = {"function": _FUNCTION.check, "custom": _CUSTOM.check}
_TOOLS: dict[str, Check] = {**_NAMESPACE_MEMBERS, "namespace": _NAMESPACE.check, "mcp": _check_mcp}


# --- tool_choice ------------------------------------------------------------------------------------------------


def check_tool_choice(value: object) -> None:
    if isinstance(value, str):
        _MODE.check(value)
    elif isinstance(value, dict):
        check_typed(value, _CHOICES)
    else:
        raise wrong_type("one of a string or object", value)


def _check_any_tool(value: Any) -> None:
    check_typed(value, {})


_MODE = Choice("none", "auto", "required")
_NAMED = Mapping({"name": _LABEL}, needs=("name",))
_CHOICES: dict[str, Check] = {
    "function": _NAMED.check,
    "custom": _NAMED.check,
    "mcp": Mapping({"server_label": _LABEL, "name": _TEXT}, needs=("server_label",)).check,
    "allowed_tools": Mapping(
        {"mode": Choice("auto", "required"), "tools": ListOf(Plain(_check_any_tool))}, needs=("mode", "tools")
    ).check,
}
