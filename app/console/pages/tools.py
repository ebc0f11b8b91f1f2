"""/console/tools: the tool servers that the gateway calls, what was called of them, and what they list now."""

from __future__ import annotations

from flask import Blueprint, Response

from app.console.access import Visitor, operators_only, signed_in
from app.console.answers import page
from app.contract.tools import ToolTable, placeholder
from app.errors import NotFound
from app.reports.tool_servers import list_tool_servers
from app.reports.tools_overview import tools_of, tools_overview

blueprint = Blueprint("tools", __name__)


@blueprint.get("/tools")
@signed_in
def tools(visitor: Visitor) -> Response:
    table = _table(visitor)
    if visitor.is_operator:
        return page(
            "tools.html",
            visitor,
            active="Tools",
            servers=tools_overview(table, visitor.gateway.store),
            origins=sorted(table.client_origins),
        )
    return page("tools_of_owner.html", visitor, active="Tools", servers=tools_of(table, visitor.token))


@blueprint.post("/tools/<label>/test")
@operators_only
def test(visitor: Visitor, label: str) -> Response:
    """Lists the tools of a server now. It calls none of them."""
    table = _table(visitor)
    if label not in table.servers:
        raise NotFound("The channel table has no tool server of this label, or leaves it out.")
    visitor.gateway.store.audit.record(visitor.token, "list tools", label)
    (report,) = list_tool_servers(table, [label])
    return page("tool_server.html", visitor, active="Tools", report=report, url=placeholder(label))


def _table(visitor: Visitor) -> ToolTable:
    return visitor.gateway.state.table.current.tools
