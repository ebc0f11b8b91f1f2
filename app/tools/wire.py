"""HTTP as it is spoken to tool servers: straight to the server's own origin, past every proxy, with bounded answers.

The SDK hides what went wrong on the wire, so that the transport notes it for the call that it carries.
"""

from __future__ import annotations

import contextvars
import errno
import select
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import anyio
import certifi
import httpcore2
import httpx2

from app import trace_context
from app.contract.tools import ToolServer
from app.tools.addresses import is_public

#: Most bytes of an answer beside the text of its result: pictures, structured content, progress of an event stream.
_BESIDE_RESULT = 16 * 1024 * 1024

#: Seconds to connect, of those that the opening of a session may take.
_CONNECT = 5.0
#: Seconds by which HTTP waits longer than a call. Its own timeout would end the session and all calls on it.
_LONGER = 10.0
#: Seconds that an idle connection is used again. Common servers close theirs after 5.
_IDLE = 4.0
_MOST_CONNECTIONS = 1000
_SESSION = "mcp-session-id"


@dataclass(slots=True)
class Post:
    """A POST and what came of it."""

    with_session: bool
    """It carried a session id."""
    status: int | None = None
    received: int = 0
    """Bytes of the answer's body."""
    too_large: bool = False
    encoded: bool = False
    """The answer was compressed, unasked."""
    failure: Exception | None = None


@dataclass(slots=True)
class Wire:
    """What has happened on the wire for one call, or for the opening of one session."""

    posts: list[Post] = field(default_factory=list)
    not_public: bool = False
    """The server's address is not public, as it would have to be."""

    @property
    def last(self) -> Post | None:
        return self.posts[-1] if self.posts else None

    @property
    def status(self) -> int | None:
        return self.last.status if self.last else None

    @property
    def received(self) -> int:
        return sum(post.received for post in self.posts)

    @property
    def unsent(self) -> bool:
        """No request has left: there is none, or no connection for it."""
        return self.last is None or isinstance(self.last.failure, _UNSENT)


_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)

_current: contextvars.ContextVar[Wire | None] = contextvars.ContextVar("wire", default=None)


def note() -> Wire:
    """Notes from now on what this task, and what it starts, sends. The SDK sends a request in its caller's context."""
    wire = Wire()
    _current.set(wire)
    return wire


class TooLarge(httpx2.StreamError):
    """The answer exceeds its limit. The SDK turns errors of this kind into the error of one call."""


def open_client(server: ToolServer) -> httpx2.AsyncClient:
    """The client for all sessions with a server. It stores no cookies: they would reach other owners."""
    headers = {"accept-encoding": "identity", "user-agent": "antiphon", **server.headers}
    return httpx2.AsyncClient(
        headers=headers,
        transport=_Transport(server),
        trust_env=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        timeout=httpx2.Timeout(server.call_timeout + _LONGER, connect=min(_CONNECT, server.open_timeout)),
    )


def most_of_answer(server: ToolServer) -> int:
    """Most bytes of an answer, of a JSON body as well as of an event stream. JSON may write a byte as six."""
    return _BESIDE_RESULT + 6 * server.max_result


class _Transport(httpx2.AsyncBaseTransport):
    """Sends requests to one origin."""

    def __init__(self, server: ToolServer) -> None:
        self._limit = most_of_answer(server)
        self._is_operators = not server.from_client
        self._origin = _origin(httpx2.URL(server.url))
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=_tls(server.ca_file) if self._origin[0] == "https" else None,
            max_connections=_MOST_CONNECTIONS,
            max_keepalive_connections=_MOST_CONNECTIONS,
            keepalive_expiry=_IDLE,
            network_backend=_Network() if server.private else PublicNetwork(),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        post = self._noted(request)
        with _translated(post):
            if _origin(request.url) != self._origin:
                raise httpcore2.UnsupportedProtocol("the server redirects to another origin")
            # A server that a client has named is a stranger's.
            if self._is_operators and (trace := trace_context.current()) is not None:
                request.headers.update(trace.headers())
            answer = await self._pool.handle_async_request(_request(request))
        post.status = answer.status
        body = _Body(answer.stream, post, self._limit)
        response = httpx2.Response(answer.status, headers=answer.headers, stream=body, extensions=answer.extensions)
        if response.headers.get("content-encoding", "identity") != "identity":
            # Decoded, a small answer could be of any size.
            post.encoded = True
            await body.aclose()
            raise httpx2.RemoteProtocolError("the server has compressed its answer, unasked", request=request)
        return response

    def _noted(self, request: httpx2.Request) -> Post:
        post = Post(with_session=_SESSION in request.headers)
        wire = _current.get()
        if wire is not None and request.method == "POST":
            wire.posts.append(post)
        return post

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx2.AsyncByteStream):
    """The body of an answer, counted while it arrives."""

    def __init__(self, stream: Any, post: Post, limit: int) -> None:
        self._stream = stream
        self._post = post
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _translated(self._post):
            async for piece in self._stream:
                self._post.received += len(piece)
                if self._post.received > self._limit:
                    self._post.too_large = True
                    raise TooLarge("the answer is too large")
                yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    """Scheme, host, and the port unless it is the usual one."""
    return url.scheme, url.host, url.port


def _request(request: httpx2.Request) -> httpcore2.Request:
    url = request.url
    return httpcore2.Request(
        method=request.method,
        url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


@contextmanager
def _translated(post: Post) -> Iterator[None]:
    """Raises the errors of httpcore2 as those of httpx2, which have the same names, and notes them."""
    try:
        yield
    except _ERRORS as error:
        names = (kind.__name__ for kind in type(error).__mro__)
        translated: type[httpx2.TransportError] = next(getattr(httpx2, name) for name in names if hasattr(httpx2, name))
        post.failure = translated(str(error))
        raise post.failure from error


_ERRORS = (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol)


class _Network(httpcore2.AsyncNetworkBackend):
    """Connects as usual, to streams that confirm at once."""

    def __init__(self) -> None:
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        stream = await self._network.connect_tcp(host, port, timeout, local_address, socket_options)
        return _PromptStream(stream, stream.get_extra_info("socket"))

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


class _PromptStream(httpcore2.AsyncNetworkStream):
    """After each write, what arrives next is confirmed at once. Many servers hold the body of an answer back until its
    head is confirmed, for which the kernel would take 40 ms.
    """

    def __init__(self, stream: httpcore2.AsyncNetworkStream, connection: socket.socket) -> None:
        self._stream = stream
        self._socket = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)
        # The connection may have ended meanwhile, which the next read reports.
        with suppress(OSError):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        return _PromptStream(await self._stream.start_tls(ssl_context, server_hostname, timeout), self._socket)

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            # The pool asks this of each idle connection with each request, and with the end of each answer.
            return self._socket.fileno() < 0 or bool(self._poll.poll(0))
        return self._stream.get_extra_info(info)


class PublicNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to public addresses alone. It connects to the very address that it has checked, so that a name which
    changes its address in between gains nothing."""

    def __init__(self, network: httpcore2.AsyncNetworkBackend | None = None) -> None:
        self._network = network or _Network()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = [address for address in await _resolved(host, port, timeout) if is_public(address)]
        if not addresses:
            if (wire := _current.get()) is not None:
                wire.not_public = True
            raise httpcore2.ConnectError("the address is not public")
        share = None if timeout is None else timeout / len(addresses)
        for address in addresses[:-1]:
            try:
                return await self._network.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await self._network.connect_tcp(addresses[-1], port, share, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


async def _resolved(host: str, port: int, timeout: float | None) -> list[str]:
    """The addresses of a name, without those that stand twice."""
    try:
        with anyio.fail_after(timeout):
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError as late:
        raise httpcore2.ConnectTimeout("the name was not resolved in time") from late
    except (OSError, UnicodeError) as error:
        raise httpcore2.ConnectError("the name cannot be resolved") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@lru_cache(maxsize=32)
def _tls(ca_file: str | None) -> ssl.SSLContext:
    """Making one takes 24 ms of CPU."""
    return ssl.create_default_context(cafile=ca_file or certifi.where())


#: What an error of the operating system says, in our words.
_CAUSES: Mapping[int, str] = {
    errno.ECONNREFUSED: "it refuses connections",
    errno.EHOSTUNREACH: "there is no way to its host",
    errno.ENETUNREACH: "there is no way to its network",
    errno.ECONNRESET: "it has reset the connection",
}


def cause_of(error: BaseException | None) -> str:
    """Why there is no connection, in words that name no address."""
    for one in _chain(error):
        if isinstance(one, ssl.SSLError):
            return f"TLS has failed ({one.reason or 'no reason given'})"
        if isinstance(one, socket.gaierror):
            return "its name cannot be resolved"
        if isinstance(one, OSError) and (known := _CAUSES.get(one.errno or 0)):
            return known
        if isinstance(one, httpcore2.TimeoutException | httpx2.TimeoutException | TimeoutError):
            return "it does not answer in time"
    return "there is no connection to it"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, its causes, and those inside groups; at most a few, as chains may be circles."""
    waiting = [error] if error is not None else []
    for _ in range(32):
        if not waiting:
            return
        one = waiting.pop(0)
        yield one
        if isinstance(one, BaseExceptionGroup):
            waiting.extend(one.exceptions)
        waiting.extend(inner for inner in (one.__cause__, one.__context__) if inner is not None)
