"""The rows of `tools` in the channel table: the tool servers, the hosted tools that they fulfil, and the origins of
servers that clients may name. Knows no file, line or variable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from marshmallow import ValidationError

from app.contract.tools import Approval, ToolFilter, origin_of
from app.schemas import table_values
from app.schemas.readers import a_string, either, reads, single
from app.schemas.rows import Row, Value
from app.schemas.table_values import Scalar

# --- a tool server ----------------------------------------------------------------------------------------------


class FilterRow(Row):
    tool_names = Value(table_values.distinct(table_values.tool_name))
    read_only = Value(table_values.flag)


_TOOL_NAMES = table_values.distinct(table_values.tool_name)


@reads(either(_TOOL_NAMES.schema, FilterRow.described()))
def filter_of(value: Any) -> ToolFilter:
    """A list of tool names, or a mapping of `tool_names` and `read_only`."""
    if isinstance(value, list):
        return ToolFilter(frozenset(_TOOL_NAMES(value)))
    if not isinstance(value, dict):
        raise ValidationError("must be a list of tool names, or a mapping with 'tool_names' or 'read_only'")
    row: Mapping[str, Any] = FilterRow().load(value)
    names: Sequence[str] | None = row.get("tool_names")
    return ToolFilter(None if names is None else frozenset(names), row.get("read_only"))


class ApprovalRow(Row):
    always = Value(filter_of)
    never = Value(filter_of)


_APPROVAL = table_values.one_of("always", "never")


@reads(either(_APPROVAL.schema, ApprovalRow.described()))
def approval_of(value: Any) -> Approval:
    """`always`, `never`, or a mapping of both words to filters."""
    if not isinstance(value, dict):
        return Approval.of(_APPROVAL(value))
    return Approval(**{name: (one,) for name, one in ApprovalRow().load(value).items()})


class ToolTimeoutRow(Row):
    open = Value(table_values.duration)
    call = Value(table_values.duration)


@reads(either(table_values.duration.schema, ToolTimeoutRow.described()))
def timeout_of(value: Any) -> Mapping[str, float]:
    """One duration limits a call; a mapping has the two."""
    if not isinstance(value, dict):
        return {"call": table_values.duration(value)}
    return ToolTimeoutRow().load(value)  # type: ignore[no-any-return]


_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?"


@reads(single(a_string(rf"(?![^?]*/sse/*(?:\?|$))[Hh][Tt][Tt][Pp][Ss]?://{_HOST}(?:[/?][^#]*)?")))
def mcp_url(value: Any) -> str:
    """`https://host[:port]/path[?query]`; empty when its variable is not set. A query may hold a key, as some servers
    want it."""
    given = table_values.scalar(value)
    if given.unset:
        return ""
    if origin_of(given.text) is None or "#" in given.text:
        raise ValidationError("must be a URL that begins with http:// or https://, without a user and without '#'")
    if urlsplit(given.text).path.rstrip("/").endswith("/sse"):
        raise ValidationError(
            "ends in /sse: that is the old transport, HTTP+SSE; name the server's URL for Streamable HTTP, often /mcp"
        )
    return given.text


class ToolServerRow(Row):
    label = Value(table_values.identifier, required=True)
    url = Value(mcp_url, required=True)
    headers = Value(table_values.mapping(table_values.header))
    allowed_tools = Value(filter_of)
    require_approval = Value(approval_of)
    timeout = Value(timeout_of)
    max_result = Value(table_values.size(1 << 10, 16 << 20))
    ca_file = Value(table_values.text)
    protocol = Value(table_values.one_of("auto", "legacy"))
    description = Value(table_values.text)
    enabled = Value(table_values.flag)


# --- hosted tools, and servers of clients -----------------------------------------------------------------------


class HostedToolRow(Row):
    server = Value(table_values.identifier, required=True)
    tool = Value(table_values.tool_name, required=True)


class HostedRow(Row):
    web_search = Value(HostedToolRow.reader())
    file_search = Value(HostedToolRow.reader())


@reads(single(a_string(rf"[Hh][Tt][Tt][Pp][Ss]?://{_HOST}/?")))
def origin(value: Any) -> str:
    given = table_values.scalar(value).text
    found = origin_of(given)
    if found is None or urlsplit(given).path not in ("", "/") or "?" in given or "#" in given:
        raise ValidationError("must be an origin, such as https://mcp.example.com or http://10.0.0.7:8000")
    return found


class OriginRow(Row):
    origin = Value(origin, required=True)
    private = Value(table_values.flag)


@reads(either(origin.schema, OriginRow.described()))
def client_origin(value: Any) -> tuple[str, bool]:
    """An origin, or a mapping of `origin` and `private`, as the two."""
    if isinstance(value, Scalar):
        return origin(value), False
    row = OriginRow().load(value)
    return row["origin"], row.get("private", False)


class ToolsRow(Row):
    servers = Value(table_values.every(ToolServerRow.reader()))
    hosted = Value(HostedRow.reader())
    client_urls = Value(table_values.every(client_origin))


ROWS = (ToolsRow, ToolServerRow, ToolTimeoutRow, FilterRow, ApprovalRow, HostedRow, HostedToolRow, OriginRow)
