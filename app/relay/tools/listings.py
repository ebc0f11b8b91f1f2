"""The `mcp_list_tools` items of a turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from app.contract.items import Item, gateway_item_id
from app.contract.tool_names import ServerTool
from app.contract.turn import Turn
from app.errors import ToolListFailed
from app.relay.tools.context_items import context_items
from app.relay.tools.toolset import NamedServer, OfferedTool, Toolset

LIST = "mcp_list_tools"


def list_items(turn: Turn, servers: Sequence[NamedServer], toolset: Toolset) -> list[Item]:
    """One item a server that the client names, in the order of its tools; none for a server whose list the context
    holds."""
    named = [server for server in servers if server.hosted is None]
    if not named:
        return []
    known = {item.get("server_label") for item in context_items(turn, LIST) if not item.get("error")}
    new = [server for server in named if server.label not in known]
    return [_item(turn.id, number, server.label, toolset.tools_of(server)) for number, server in enumerate(new)]


def listed_tools(turn: Turn) -> Iterator[ServerTool]:
    """The tools that the items of the context list, oldest first."""
    for item in context_items(turn, LIST):
        for tool in item.get("tools") or ():
            yield str(item.get("server_label")), str(tool.get("name"))


def list_failed(turn: Turn, error: ToolListFailed) -> Item:
    """The item of a server that could not be listed."""
    return {**_item(turn.id, 0, error.label, ()), "error": error.message}


def _item(turn_id: str, number: int, label: str, tools: Sequence[OfferedTool]) -> Item:
    item_id = gateway_item_id(LIST, turn_id, number, 0)
    return {"id": item_id, "type": LIST, "server_label": label, "tools": [*_shown(tools)]}


def _shown(tools: Sequence[OfferedTool]) -> Iterator[dict[str, Any]]:
    """The tools as OpenAI shows them: never a null."""
    for offered in tools:
        tool = offered.tool
        yield {
            "annotations": {"read_only": tool.read_only},
            "description": tool.description or "",
            "input_schema": dict(tool.input_schema),
            "name": tool.name,
        }
