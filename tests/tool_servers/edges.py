"""What stands in front of a tool server and may answer in its place, as proxies, gateways and broken servers do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

import orjson

from tests.tool_servers.seen import Seen


@dataclass(frozen=True, slots=True)
class Answer:
    status: int = 200
    body: bytes | Callable[[], AsyncIterator[bytes]] = b""
    """A function returns pieces, each sent at once. The connection is cut off when they end."""
    type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


_PIECE = b"more and " * 8192
_PIECES = 512

#: Answers a request, or returns None to let the server answer it.
Edge = Callable[[Seen], Answer | None]


def bearer(token: str) -> Edge:
    """Lets requests with this bearer token pass. Its refusal quotes the token that it got, as careless servers do."""

    def check(request: Seen) -> Answer | None:
        given = request.headers.get("authorization")
        if given == f"Bearer {token}":
            return None
        words = orjson.dumps({"error": "invalid_token", "got": given})
        return Answer(401, words, headers={"www-authenticate": 'Bearer error="invalid_token"'})

    return check


def only(rpc: str, edge: Edge) -> Edge:
    """The edge for requests of one method alone, such as "tools/call"."""
    return lambda request: edge(request) if request.rpc == rpc else None


def status(code: int, body: bytes = b"no", type: str = "text/plain") -> Edge:
    return lambda request: Answer(code, body, type)


def html(request: Seen) -> Answer:
    """A login page in front of everything."""
    return Answer(200, b"<!doctype html><title>Sign in</title>", "text/html; charset=utf-8")


def redirect(location: str, code: int = 307) -> Edge:
    return lambda request: Answer(code, b"", "text/plain", {"location": location})


def broken_stream(request: Seen) -> Answer:
    """An event stream that ends before the answer."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b": one moment\n\n"

    return Answer(200, pieces, "text/event-stream")


def too_long_json(request: Seen) -> Answer:
    """A result of 36 MiB. It names no length, so that only counting what arrives can bound it."""

    async def pieces() -> AsyncIterator[bytes]:
        begin = b'{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"'
        yield begin % orjson.dumps(request.message.get("id"))
        for _ in range(_PIECES):
            yield _PIECE
        yield b'"}]}}'

    return Answer(200, pieces)


def too_long_event(request: Seen) -> Answer:
    """The same as an event stream."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"data: "
        for _ in range(_PIECES):
            yield _PIECE
        yield b"\n\n"

    return Answer(200, pieces, "text/event-stream")


def late(request: Seen) -> Answer:
    """An answer whose body comes after a minute, when everyone has left."""

    async def pieces() -> AsyncIterator[bytes]:
        await asyncio.sleep(60)
        yield b"{}"

    return Answer(200, pieces)
