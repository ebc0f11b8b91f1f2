"""The tools of a server, as its sessions list them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from mcp.client.session import ClientSession
from mcp_types import PaginatedRequestParams, Tool

from app.contract.tools import ListedTool

log = logging.getLogger(__name__)

#: A list that goes on for longer is cut here.
_MOST_PAGES = 20
_MOST_TOOLS = 500
#: Most bytes of all schemas and descriptions: a model could not read more.
_MOST_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Listing:
    tools: Sequence[ListedTool]
    size: int
    """About as many bytes as it takes in memory."""


async def list_tools(session: ClientSession, label: str) -> Listing:
    """All pages of the server's list, up to the limits. Raises what the session raises."""
    tools: dict[str, ListedTool] = {}
    size = 0
    cursor: str | None = None
    for _ in range(_MOST_PAGES):
        page = await session.list_tools(params=PaginatedRequestParams(cursor=cursor) if cursor else None)
        for tool, bytes_of_tool in _readable(page.tools, label):
            if size + bytes_of_tool > _MOST_BYTES or len(tools) >= _MOST_TOOLS:
                log.warning("tool server %.64r lists too much; the gateway takes its first %d tools", label, len(tools))
                return Listing(tuple(tools.values()), size)
            tools.setdefault(tool.name, tool)
            size += bytes_of_tool
        cursor = page.next_cursor
        if not cursor:
            break
    return Listing(tuple(tools.values()), size)


def _readable(tools: Sequence[Tool], label: str) -> Iterator[tuple[ListedTool, int]]:
    for tool in tools:
        written = _written(tool.input_schema)
        if written is None or not tool.name:
            log.warning("tool server %.64r lists a tool that cannot be passed on; it is left out", label)
            continue
        schema, length = written
        description = tool.description or ""
        hints = tool.annotations
        listed = ListedTool(
            name=tool.name,
            description=description,
            input_schema=schema,
            read_only=hints is not None and hints.read_only_hint is True,
            idempotent=hints is not None and hints.idempotent_hint is True,
        )
        yield listed, length + len(description.encode()) + len(tool.name)


def _written(schema: Mapping[str, Any]) -> tuple[Mapping[str, Any], int] | None:
    """The schema as it can be written, and its length; None for one that is nested too deep. Numbers of more than 64
    bits become floating ones."""
    try:
        return schema, len(orjson.dumps(schema))
    except TypeError:
        pass
    try:
        smaller = orjson.loads(json.dumps(schema))
        return smaller, len(orjson.dumps(smaller))
    except (TypeError, ValueError, RecursionError):
        return None
