"""Tools as they may be stored and shown: without the credentials that a client gives for an MCP server or a container.

Credentials go upstream in the turn that brings them, and nowhere else. A tool can stand in `tools`, in a namespace, in
`tool_choice`, in items that bring tools, and in items whose type is unknown here: all of them are read in this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from app.contract.items import WITHOUT_TOOLS

JSON = dict[str, Any]

#: Members of a tool that hold credentials, whatever the tool's type.
_CREDENTIALS = frozenset({"authorization", "headers", "domain_secrets"})
#: Members of a container's settings that do.
_OF_CONTAINERS = frozenset({"domain_secrets"})
#: JSON schemas name arguments, and an argument may be called `headers`.
_SCHEMAS = frozenset({"input_schema", "output_schema", "parameters", "schema"})


def redacted_items(items: Sequence[JSON]) -> Sequence[JSON]:
    """The items without credentials; the same sequence where none can hold any."""
    if {item.get("type") for item in items} <= WITHOUT_TOOLS:
        return items
    return [redacted_item(item) for item in items]


def brings_tools(item: Mapping[str, Any]) -> bool:
    """Whether the item may hold tools, and so credentials."""
    return item.get("type") not in WITHOUT_TOOLS


def redacted_item(item: JSON) -> JSON:
    """The item without credentials; itself where it holds none."""
    if not brings_tools(item):
        return item
    redacted = _members(item, _OF_CONTAINERS)
    return item if redacted == item else redacted


def redacted_tool(tool: Mapping[str, Any]) -> JSON:
    """A tool without credentials, and those inside it; or what `tool_choice` says of one."""
    shown = _members(tool, _CREDENTIALS)
    if isinstance(url := shown.get("server_url"), str):
        shown["server_url"] = _address(url)
    return shown


def redacted_request(request: Mapping[str, Any]) -> JSON:
    """A validated request without the credentials of its tools."""
    redacted = _members(request, _OF_CONTAINERS)
    if isinstance(choice := request.get("tool_choice"), Mapping):
        redacted["tool_choice"] = redacted_tool(choice)
    return redacted


def _members(value: Mapping[str, Any], left_out: Iterable[str]) -> JSON:
    """Without a call for each member: values may be nested as deep as a request may be."""
    found = {}
    for name, inner in value.items():
        if name in left_out:
            continue
        if name == "tools" and isinstance(inner, list):
            found[name] = [redacted_tool(tool) if isinstance(tool, Mapping) else _searched(tool) for tool in inner]
        else:
            found[name] = inner if name in _SCHEMAS else _searched(inner)
    return found


def _searched(value: Any) -> Any:
    if isinstance(value, Mapping):
        return redacted_tool(value) if value.get("type") == "mcp" else _members(value, _OF_CONTAINERS)
    if isinstance(value, list):
        return [_searched(inner) for inner in value]
    return value


def _address(url: str) -> str:
    """A URL without user, password, query and fragment, of which any may be a key."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
