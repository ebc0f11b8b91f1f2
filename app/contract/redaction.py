"""Removes credentials for MCP servers and containers from tools before they are stored or shown.

Credentials go upstream in the turn that brings them, and nowhere else. A tool may stand in `tools`, in a namespace, in
`tool_choice`, in items that bring tools and in items of unknown types: this module searches all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from app.contract.channel import Channel
from app.contract.items import WITHOUT_TOOLS

JSON = dict[str, Any]

#: Members of a tool that hold credentials, whatever the tool's type.
_CREDENTIALS = frozenset({"authorization", "headers", "domain_secrets"})
#: Members of a container's settings that hold credentials.
_OF_CONTAINERS = frozenset({"domain_secrets"})
#: Members that are JSON schemas: an argument may have the name `headers`.
_SCHEMAS = frozenset({"input_schema", "output_schema", "parameters", "schema"})


def redacted_items(items: Sequence[JSON]) -> Sequence[JSON]:
    """The items without credentials; the same sequence if no item can hold any."""
    if {item.get("type") for item in items} <= WITHOUT_TOOLS:
        return items
    return [redacted_item(item) for item in items]


def brings_tools(item: Mapping[str, Any]) -> bool:
    """Whether the item may hold tools, and so credentials."""
    return item.get("type") not in WITHOUT_TOOLS


def redacted_item(item: JSON) -> JSON:
    """The item without credentials; the same object if it holds none."""
    if not brings_tools(item):
        return item
    redacted = _members(item, _OF_CONTAINERS)
    return item if redacted == item else redacted


def redacted_tool(tool: Mapping[str, Any]) -> JSON:
    """A tool, or an entry of `tool_choice`, without credentials, also those of tools inside it."""
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


#: Members whose texts are credentials, or may hold some.
_SECRET = _CREDENTIALS | {"server_url"}
#: Shorter texts are words that any sentence may hold.
_SHORTEST = 6
_REDACTED = "***"


def without_credentials(text: str, request: Mapping[str, Any]) -> str:
    """A text that may quote a validated request, such as a refusal, without the credentials of its tools."""
    for credential in sorted(set(_credentials(request)), key=len, reverse=True):
        text = text.replace(credential, _REDACTED)
    return text


def without_upstream(text: str, channel: Channel, *sent: str) -> str:
    """An upstream's words without the key, the headers and the address of its channel, and without what else was `sent`
    to it alone."""
    for secret in sorted((*_of_channel(channel), *sent), key=len, reverse=True):
        text = text.replace(secret, _REDACTED)
    return text


def _of_channel(channel: Channel) -> Iterator[str]:
    parts = urlsplit(channel.base_url or "")
    host = parts.hostname if parts.hostname and "." in parts.hostname else None
    address = (parts.netloc, host, parts.password, parts.path if len(parts.path) > _SHORTEST else None)
    for secret in (channel.api_key, *channel.headers.values(), channel.base_url, *address):
        if secret and len(secret) >= _SHORTEST:
            yield secret


def _credentials(value: Any, given: bool = False) -> Iterator[str]:
    """`given`: the member that holds the value has the name of a credential."""
    if isinstance(value, str):
        if given and len(value) >= _SHORTEST:
            yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _credentials(inner, given)
    elif isinstance(value, Mapping) and brings_tools(value):
        for name, inner in value.items():
            if name not in _SCHEMAS:
                shown = name == "server_url" and isinstance(inner, str) and _address(inner) == inner
                yield from _credentials(inner, given or (name in _SECRET and not shown))


def _members(value: Mapping[str, Any], left_out: Iterable[str]) -> JSON:
    """The value without credentials. Few calls a level, because requests may be nested deep."""
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
    """A URL without user, password, query and fragment: each of them may be a key."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
