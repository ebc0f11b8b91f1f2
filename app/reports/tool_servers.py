"""The tool servers of the table with what they list, and the outcome of one call, for `antiphon tools`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.contract.tools import Approval, ListedTool, ToolFilter, ToolOutcome, ToolServer, ToolTable, placeholder
from app.errors import ToolListFailed
from app.request_watch import Drain, Watch, wait_ready
from app.tools.servers import ToolServers

#: Seconds beyond the limit of a call, which is the one that counts.
_SLACK = 60.0


@dataclass(frozen=True, slots=True)
class ToolServerReport:
    """A tool server and its tools, or the reason why they are not known."""

    label: str
    server: ToolServer | None = None
    """None for one that is left out."""
    tools: Sequence[ListedTool] = ()
    """Those that its row allows."""
    failure: str = ""
    fulfils: tuple[str, ...] = ()
    """Types of hosted tools."""

    @property
    def state(self) -> str:
        """ok, failed, or left out."""
        if self.server is None:
            return "left out"
        return "failed" if self.failure else "ok"

    def needs_approval(self, tool: ListedTool) -> bool:
        """For a request that says nothing about it."""
        return self.server is None or self.server.approval.needed(tool)

    def wire(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "state": self.state,
            "failure": self.failure or None,
            "server_url": placeholder(self.label),
            "require_approval": _approval(self.server.approval) if self.server else None,
            "fulfils": list(self.fulfils),
            "tools": [
                {
                    "name": tool.name,
                    "description": tool.description,
                    "input_schema": tool.input_schema,
                    "read_only": tool.read_only,
                    "needs_approval": self.needs_approval(tool),
                }
                for tool in self.tools
            ],
        }


def _approval(approval: Approval) -> dict[str, Any]:
    return {
        "always": [_filter(one) for one in approval.always],
        "never": [_filter(one) for one in approval.never],
    }


def _filter(tools: ToolFilter) -> dict[str, Any]:
    return {"tool_names": None if tools.names is None else sorted(tools.names), "read_only": tools.read_only}


def list_tool_servers(table: ToolTable, labels: Sequence[str]) -> Iterator[ToolServerReport]:
    """Lists the tools of each server in turn."""
    servers = ToolServers()
    try:
        for label in labels:
            yield _report(table, label, servers)
    finally:
        servers.close()


def _report(table: ToolTable, label: str, servers: ToolServers) -> ToolServerReport:
    server = table.servers.get(label)
    if server is None:
        return ToolServerReport(label, failure=table.left_out[label])
    mapped = {type: hosted.tool for type, hosted in table.hosted.items() if hosted.server == label}
    try:
        listed = servers.listed(server, Watch(None, Drain()))
    except ToolListFailed as error:
        return ToolServerReport(label, server, failure=error.message, fulfils=(*mapped,))
    names = {tool.name for tool in listed}
    missing = [
        f"{type} is mapped to '{name}', which it does not list" for type, name in mapped.items() if name not in names
    ]
    return ToolServerReport(label, server, _allowed(server, listed), "; ".join(missing), (*mapped,))


def _allowed(server: ToolServer, tools: Sequence[ListedTool]) -> Sequence[ListedTool]:
    return [tool for tool in tools if server.allowed is None or server.allowed.matches(tool)]


@dataclass(frozen=True, slots=True)
class CallReport:
    """One call by an operator."""

    label: str
    known: Sequence[str]
    """The tools that the row allows."""
    tool: str
    outcome: ToolOutcome | None
    """None when the server does not list the tool, or its row does not allow it."""

    def wire(self) -> dict[str, Any]:
        outcome = self.outcome or ToolOutcome()
        return {
            "server": self.label,
            "tool": self.tool,
            "output": outcome.output,
            "error": outcome.error,
            "structured": outcome.structured,
            "links": [{"uri": link.uri, "title": link.title} for link in outcome.links],
            "images": len(outcome.images),
            "ms": outcome.milliseconds,
            "bytes": outcome.size,
        }


def call_tool(server: ToolServer, name: str, arguments: str) -> CallReport:
    """Calls a tool and waits for its end. `arguments`: a JSON object. Raises ToolListFailed."""
    servers = ToolServers()
    try:
        tools: Mapping[str, ListedTool] = {
            tool.name: tool for tool in _allowed(server, servers.listed(server, Watch(None, Drain())))
        }
        outcome = _called(servers, server, tools[name], arguments) if name in tools else None
        return CallReport(server.label, [*tools], name, outcome)
    finally:
        servers.close()


def _called(servers: ToolServers, server: ToolServer, tool: ListedTool, arguments: str) -> ToolOutcome:
    with servers.sessions() as sessions:
        call = sessions.start(server, tool, arguments)
        limit = 2 * (server.open_timeout + server.call_timeout) + _SLACK
        while (outcome := call.outcome) is None:
            wait_ready(sessions.fileno(), None, limit)
            sessions.clear()
        return outcome
