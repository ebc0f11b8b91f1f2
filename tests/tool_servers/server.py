"""The server: one MCP server of the SDK behind uvicorn, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    InputRequiredResult,
    ListToolsResult,
    PaginatedRequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from tests import ports
from tests.tool_servers.edges import Answer, Edge
from tests.tool_servers.seen import Seen
from tests.tool_servers.tools import TOOLS, TestTool

PATIENCE = 60.0
_GLANCE = 0.002

Scope = Mapping[str, Any]
Receive = Callable[[], Any]
Send = Callable[[Mapping[str, Any]], Any]


@dataclass(slots=True, eq=False)
class Call:
    """One call that has reached a tool."""

    name: str
    arguments: Mapping[str, Any]
    ended: bool = False
    cancelled: bool = False


#: Rounds of the event loop in which a connection that was accepted just before the end shows itself and is closed.
_LAST_ROUNDS = 50


class _Uvicorn(uvicorn.Server):
    """Stops at once. Its own loops look every 0.1 s."""

    async def main_loop(self) -> None:
        self.over = asyncio.Event()
        await self.over.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cuts what the event loop knows: uvicorn does not know a connection before its first round. A connection
        whose first round comes after the end of its `asyncio.Server` would never be closed."""
        loop: Any = asyncio.get_running_loop()
        listening = [listener for server in self.servers for listener in server.sockets]
        for listener in listening:
            loop.remove_reader(listener.fileno())
        for _ in range(_LAST_ROUNDS):
            for transport in list(loop._transports.values()):
                transport.abort()
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()

    def cut(self) -> None:
        """Cuts every connection."""
        for connection in list(self.server_state.connections):
            # A connection has no transport before its first round.
            if connection.transport is not None:
                connection.transport.abort()


class ToolServer:
    """`url` is its endpoint. `edge`, `tools`, `page_size` and `protocol` may be changed while it runs.

    `protocol`: "modern" answers `server/discover` and `initialize`, "legacy" refuses what it does not know with a 400,
    as older servers do. `answers`: bodies are JSON or event streams. `sessions`: legacy clients get a session id.
    """

    def __init__(
        self,
        *,
        tools: Sequence[TestTool] = TOOLS,
        protocol: Literal["modern", "legacy"] = "modern",
        answers: Literal["json", "sse"] = "json",
        sessions: bool = True,
        edge: Edge | None = None,
        page_size: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.tools = tools
        self.edge = edge
        self.page_size = page_size
        self.gate: threading.Event | None = None
        """When the test has one, each list waits until it is set."""
        self.requests: list[Seen] = []
        self.calls: list[Call] = []
        self.protocol = protocol
        self._json = answers == "json"
        self._sessions = sessions
        self._tls = tls
        self._changed = threading.Condition()
        self._permits = 0
        self._permitted: asyncio.Condition | None = None
        # It keeps the port while the server does not run.
        self._reserved = ports.reserve()
        self._port = ports.number(self._reserved)
        self._listener = self._listen()
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._reserved.close()

    @property
    def origin(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/mcp"

    # Its life

    def kill(self) -> None:
        """Cuts every connection and stops. The port refuses connections until `restart`."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._uvicorn.over.set)
            self._thread.join(PATIENCE)

    def restart(self) -> None:
        """Starts on the same port, and knows no session of the time before."""
        self.kill()
        self._listener = self._listen()
        self._start()

    def cut(self) -> None:
        """Cuts every connection, and takes new ones."""
        self._loop.call_soon_threadsafe(self._uvicorn.cut)

    def expire_sessions(self) -> None:
        """Forgets the session ids that it has given, so that each is answered with 404."""
        self._loop.call_soon_threadsafe(self._manager._server_instances.clear)
        self.wait_for(lambda: not self._manager._server_instances)

    # What it does

    def release(self, times: int = 1) -> None:
        """Lets as many tools on hold end, now or when they begin."""

        async def permit() -> None:
            assert self._permitted is not None
            async with self._permitted:
                self._permits += times
                self._permitted.notify_all()

        asyncio.run_coroutine_threadsafe(permit(), self._loop).result(PATIENCE)

    async def permission(self) -> None:
        """For tools: returns when the test releases one."""
        assert self._permitted is not None
        async with self._permitted:
            await self._permitted.wait_for(lambda: self._permits > 0)
            self._permits -= 1

    # What it has seen

    def seen(self, rpc: str) -> list[Seen]:
        """The requests of this JSON-RPC method, or of this method of HTTP."""
        return [request for request in self.requests if request.rpc == rpc]

    def wait_for(self, holds: Callable[[], object], patience: float = PATIENCE) -> None:
        """Waits until the condition holds, and fails when it does not within the patience."""
        until = time.monotonic() + patience
        with self._changed:
            while not holds():
                assert time.monotonic() < until, "the tool server did not get there in time"
                self._changed.wait(0.02)

    def wait_for_call(self, name: str, times: int = 1) -> Call:
        """The latest call of this tool, once there are as many."""

        def begun() -> list[Call]:
            return [call for call in self.calls if call.name == name]

        self.wait_for(lambda: len(begun()) >= times)
        return begun()[-1]

    # The event loop's side

    def _listen(self) -> socket.socket:
        return socket.create_server(("127.0.0.1", self._port), backlog=128)

    def _start(self) -> None:
        server = Server("tests", version="1", on_list_tools=self._list, on_call_tool=self._call)
        app = server.streamable_http_app(
            json_response=self._json,
            stateless_http=not self._sessions,
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        self._manager = server.session_manager
        config = uvicorn.Config(
            self._edged(app), log_config=None, log_level="critical", access_log=False, ws="none", timeout_keep_alive=600
        )
        config.load()
        config.ssl = self._tls
        self._uvicorn = _Uvicorn(config)
        self._thread = threading.Thread(target=self._run, name=f"tools-{self._port}", daemon=True)
        self._thread.start()
        until = time.monotonic() + PATIENCE
        while not self._uvicorn.started:
            assert self._thread.is_alive(), "the tool server has not started"
            assert time.monotonic() < until, "the tool server has not started in time"
            time.sleep(_GLANCE)

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._permitted = asyncio.Condition()
            await self._uvicorn.serve(sockets=[self._listener])

        asyncio.run(serve())
        self._listener.close()
        _close_left(self._loop)

    def _edged(self, app: Callable[[Scope, Receive, Send], Any]) -> Callable[[Scope, Receive, Send], Any]:
        async def edged(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            body = await _whole(receive)
            request = _seen(scope, body)
            with self._changed:
                self.requests.append(request)
                self._changed.notify_all()
            answer = self.edge(request) if self.edge is not None else None
            if answer is None and self.protocol == "legacy" and _is_modern(request):
                answer = Answer(400, b"Bad Request: Unsupported protocol version", "text/plain")
            if answer is None:
                await app(scope, _replayed(body, receive), send)
            else:
                await _send(answer, send)

        return edged

    async def _list(self, context: Any, params: PaginatedRequestParams | None) -> ListToolsResult:
        if self.gate is not None:
            await asyncio.to_thread(self.gate.wait, PATIENCE)
        tools = [tool.listed for tool in self.tools]
        if self.page_size is None:
            return ListToolsResult(tools=tools)
        begin = int(params.cursor) if params is not None and params.cursor else 0
        end = begin + self.page_size
        return ListToolsResult(tools=tools[begin:end], next_cursor=str(end) if end < len(tools) else None)

    async def _call(self, context: Any, params: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
        tool = next((tool for tool in self.tools if tool.name == params.name), None)
        if tool is None:
            raise MCPError(code=INVALID_PARAMS, message=f"Unknown tool: {params.name}")
        call = Call(params.name, params.arguments or {})
        with self._changed:
            self.calls.append(call)
            self._changed.notify_all()
        try:
            return await tool.run(call.arguments, self)
        except asyncio.CancelledError:
            call.cancelled = True
            raise
        finally:
            with self._changed:
                call.ended = True
                self._changed.notify_all()


def _is_modern(request: Seen) -> bool:
    return request.headers.get("mcp-protocol-version") in MODERN_PROTOCOL_VERSIONS


def _seen(scope: Scope, body: bytes) -> Seen:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    return Seen(scope["method"], scope["path"], headers, body, tuple(scope["client"]))


async def _whole(receive: Receive) -> bytes:
    pieces = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body once more, then what the connection brings: its end."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Any:
        return waiting.pop() if waiting else await receive()

    return replayed


async def _send(answer: Answer, send: Send) -> None:
    headers = [(b"content-type", answer.type.encode())]
    headers += [(name.encode(), value.encode()) for name, value in answer.headers.items()]
    if isinstance(answer.body, bytes):
        headers.append((b"content-length", str(len(answer.body)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})
        return
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    async for piece in answer.body():
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _close_left(ended: Any) -> None:
    """Closes the connections that an event loop took in its last rounds and left open: the garbage collector would warn
    of them in some later test.
    """
    for transport in list(ended._transports.values()):
        if transport._sock is not None:
            transport._sock.close()
            transport._sock = None
