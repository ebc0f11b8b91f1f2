"""Real MCP servers for tests: the SDK's own, over HTTP on the loopback, in a thread of the test process.

    with ToolServer() as server:                       # modern protocol, JSON answers
        ...  {"label": "docs", "url": server.url}
    ToolServer(protocol="legacy", answers="sse")       # needs `initialize`, has session ids, answers as event streams
    ToolServer(edge=bearer("secret"))                  # the edges of `edges` answer in front of the SDK

`server.requests` holds every HTTP request, `server.calls` every call that has reached a tool. The tools are those of
`tools`, or a list of the test's own. Importing this package imports the SDK.
"""

from tests.tool_servers.edges import (
    Answer,
    Edge,
    bearer,
    broken_stream,
    html,
    only,
    redirect,
    status,
    too_long_event,
    too_long_json,
)
from tests.tool_servers.server import Call, Seen, ToolServer
from tests.tool_servers.tools import TOOLS, TestTool, named, plain

__all__ = [
    "TOOLS",
    "Answer",
    "Call",
    "Edge",
    "Seen",
    "TestTool",
    "ToolServer",
    "bearer",
    "broken_stream",
    "html",
    "named",
    "only",
    "plain",
    "redirect",
    "status",
    "too_long_event",
    "too_long_json",
]
