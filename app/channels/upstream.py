"""One exchange with an upstream. `requests` prepares the head. The sockets do not block, because the thread that waits
for an answer also watches the client.

Exceptions of other libraries end here: the errors of requests, of the socket and of the parser become UpstreamErrors.
"""

from __future__ import annotations

import errno
import socket
import ssl
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from time import monotonic
from typing import Protocol
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from app import formats
from app.channels import http1
from app.channels.connections import ActiveConnection, Connections
from app.channels.connector import Connector
from app.contract.channel import Channel
from app.errors import UpstreamBroken, UpstreamError, UpstreamStalled, UpstreamTimeout, UpstreamUnreachable
from app.memory import Budget, Share
from app.request_watch import Late, Watch, wait_ready

#: The Accept header of a request for a stream.
EVENTS = "text/event-stream"
#: Most bytes of an unstreamed answer.
MAX_BODY = 64 * 1024 * 1024
#: Bytes from which a body counts against the memory budget and is not copied.
_LARGE = 65536
#: Copies of an unstreamed answer in memory: the buffer, the bytes, and the parsed values.
_COPIES = 3
_MAX_STALE = 3
_MAX_HEADS = 64
#: Seconds to wait for the last chunk after the payload, so that the connection can be reused.
_LAST_CHUNK = 0.05


class Exchange(Protocol):
    """The answer of an upstream: its status and headers, and a body that is still to be read. The caller closes it."""

    status: int
    headers: Mapping[str, str]

    @property
    def descriptor(self) -> int | None:
        """The descriptor of the connection, until `close`; None for an exchange without one, where `receive` may
        block."""
        ...

    def read(self) -> bytes:
        """Waits for the whole body."""
        ...

    def fileno(self) -> int | None:
        """The descriptor to poll before `receive`; None when a poll would wait in vain and `receive` is due now."""
        ...

    def receive(self) -> bytes | None:
        """The next piece of the body: b"" at its end, None when no bytes have arrived yet."""
        ...

    def close(self) -> None: ...


class Upstream:
    """The connections of one channel. It follows no redirects, stores no cookies and makes no retries."""

    def __init__(self, row: Channel, connections: int, budget: Budget | None = None) -> None:
        """`budget`: the memory budget for large bodies; None for no limit."""
        self._row = row
        self._budget = budget or Budget(sys.maxsize)
        self._connections = Connections(_connector(row), connections)
        #: Limited, because a path may hold the name of a model, which a client can choose.
        self._head = lru_cache(_MAX_HEADS)(self._written_head)

    def post(self, path: str, body: bytes, *, accept: str, watch: Watch | None = None, trace: bytes = b"") -> Exchange:
        """Sends the request and waits for the head of the answer. `trace`: more lines of its head. Raises
        UpstreamError, ClientGone when the client disconnects meanwhile, and the errors of the watch."""
        head = b"%s%sContent-Length: %d\r\n\r\n" % (self._head("POST", path, accept), trace, len(body))
        # Head and body in one piece save a packet, a system call and a wait for the interpreter's lock. For a large
        # body the second copy in memory would cost more.
        return self._send((head + body,) if len(body) < _LARGE else (head, body), self._clock(accept), watch)

    def get(self, path: str) -> Exchange:
        """`path` may begin with `/../`, which leaves out the last part of the base URL."""
        accept = "application/json"
        return self._send((self._head("GET", path, accept) + b"\r\n",), self._clock(accept), None)

    def close(self) -> None:
        self._connections.close()

    def _clock(self, accept: str) -> _Clock:
        """The deadlines from now on. A stream must begin and continue in time; an unstreamed answer may use the whole
        timeout."""
        limits, now = self._row.timeouts, monotonic()
        head = limits.first_byte if accept == EVENTS else limits.unstreamed_first_byte
        end = now + limits.total
        return _Clock(end if head is None else min(end, now + head), end, limits.idle, accept == EVENTS)

    def _written_head(self, method: str, path: str, accept: str) -> bytes:
        """The head without its length and the blank line. `requests` refuses invalid headers."""
        headers = {
            "Accept": accept,
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": "antiphon",
            **formats.load(self._row.format).headers(self._row.api_key),
            **self._row.headers,
        }
        return _written(requests.Request(method, _url(self._row.base_url or "", path), headers=headers).prepare())

    def _send(self, message: Sequence[bytes], clock: _Clock, watch: Watch | None) -> Exchange:
        try:
            for _ in range(_MAX_STALE):
                connection = self._connect(watch)
                try:
                    return self._request(connection, message, clock, watch)
                except _StaleConnection:
                    # The server has probably closed the other idle connections as well.
                    self._connections.clear()
            raise UpstreamUnreachable("The model's server keeps closing its connections.")
        except Late as error:
            raise self._unanswered() from error
        except (HTTPException, OSError) as error:
            broken = UpstreamBroken("The model's server broke off before it answered.")
            broken.cause = _reason(error)
            raise broken from error

    def _connect(self, watch: Watch | None) -> ActiveConnection:
        """An idle connection, or a new one."""
        try:
            if (idle := self._connections.take()) is not None:
                return idle
            return self._connections.open(self._row.timeouts.connect, watch)
        except (OSError, ValueError, Late) as error:
            unreachable = UpstreamUnreachable("The model's server cannot be reached.")
            unreachable.cause = _reason(error)
            raise unreachable from error

    def _request(
        self, connection: ActiveConnection, message: Sequence[bytes], clock: _Clock, watch: Watch | None
    ) -> Exchange:
        reader = http1.HeadReader()
        try:
            connection.send(message, clock.head, watch)
            early = connection.read_head(reader, clock.head, watch)
            assert reader.head is not None
            return _HttpExchange(connection, reader.head, early, clock, watch, Share(self._budget))
        except ConnectionError as error:
            connection.drop()
            if connection.reused and not reader.begun:
                raise _StaleConnection from error
            raise
        except BaseException:
            connection.drop()
            raise

    def _unanswered(self) -> UpstreamError:
        kind = UpstreamStalled if self._row.retry_unanswered else UpstreamTimeout
        return kind("The model's server accepted the request and did not answer in time.")


def _url(base: str, path: str) -> str:
    base = base.rstrip("/")
    return urljoin(f"{base}/", path[1:]) if path.startswith("/../") else f"{base}{path}"


def _reason(error: BaseException) -> str:
    """The system's name for a connection error, without any address."""
    known: BaseException | None = error
    late = False
    while known is not None:
        if isinstance(known, ssl.SSLError) and known.reason:
            return f"tls={known.reason}"
        if isinstance(known, socket.gaierror):
            return "errno=EAI"
        if isinstance(known, OSError) and known.errno is not None and known.errno in errno.errorcode:
            return f"errno={errno.errorcode[known.errno]}"
        late = late or isinstance(known, TimeoutError | Late)
        inner = next((argument for argument in known.args if isinstance(argument, BaseException)), None)
        known = known.__cause__ or known.__context__ or inner
    return "errno=ETIMEDOUT" if late else ""


def _written(request: requests.PreparedRequest) -> bytes:
    """The lines of a request's head without its Content-Length, which each body sets."""
    headers = {_text(name): _text(value) for name, value in request.headers.items()}
    headers = {name: value for name, value in headers.items() if name.lower() != "content-length"}
    if "Host" not in request.headers:
        headers["Host"] = urlsplit(request.url or "").netloc.rpartition("@")[2]
    lines = [f"{request.method} {request.path_url} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


@dataclass(frozen=True, slots=True)
class _Clock:
    """The deadlines of an answer's head and of its end, and the idle timeout of its body."""

    head: float
    end: float
    idle: float
    streams: bool


class _StaleConnection(Exception):
    """The upstream closed a reused connection before it sent a byte of the answer."""


def _connector(row: Channel) -> Connector:
    url = urllib3.util.parse_url(row.base_url or "")
    host = url.host or "localhost"
    if url.scheme != "https":
        return Connector(host, url.port or 80, None)
    # One context for the channel, so that the certificates are not read again for each connection.
    tls = ssl.create_default_context(cafile=row.ca_file or DEFAULT_CA_BUNDLE_PATH)
    tls.set_alpn_protocols(["http/1.1"])
    return Connector(host, url.port or 443, tls)


# --- bodies -----------------------------------------------------------------------------------------------------


class _HttpExchange:
    """An answer over HTTP. Its body is read whole, or piece by piece without blocking."""

    __slots__ = (
        "_body",
        "_clock",
        "_coding",
        "_connection",
        "_early",
        "_persistent",
        "_share",
        "_watch",
        "headers",
        "status",
    )

    def __init__(
        self,
        connection: ActiveConnection,
        head: http1.Head,
        early: bytes,
        clock: _Clock,
        watch: Watch | None,
        share: Share,
    ) -> None:
        """`share`: the memory of a body that is read whole, until `close`."""
        self.status = head.status
        self.headers = head.headers
        self._connection: ActiveConnection | None = connection
        self._early = early
        self._body = http1.body_of(head)
        self._coding = http1.coding_of(head)
        self._persistent = head.persistent
        self._clock = clock
        self._watch = watch
        self._share = share

    def read(self) -> bytes:
        body = bytearray()
        while piece := self._await_piece():
            body += piece
            if len(body) >= _LARGE:
                self._share.grow(_COPIES * len(body) - self._share.size)
            if len(body) > MAX_BODY:
                raise UpstreamBroken("The model's server sent an answer that is too long.")
        return bytes(body)

    def _await_piece(self) -> bytes:
        """The next piece, b"" at the end. Raises ClientGone, UpstreamTimeout, UpstreamBroken."""
        while True:
            descriptor = self.fileno()
            if descriptor is not None:
                try:
                    wait_ready(descriptor, self._watch, self._timeout())
                except Late as error:
                    raise UpstreamTimeout("The model's server stopped in the middle of its answer.") from error
            if (piece := self.receive()) is not None:
                return piece

    def _timeout(self) -> float:
        """Seconds that the next piece may take. Only an unstreamed answer with status 200 may use the whole timeout:
        errors are short."""
        left = self._clock.end - monotonic()
        return min(left, self._clock.idle) if self._clock.streams or self.status != 200 else left

    @property
    def descriptor(self) -> int | None:
        return self._connection.descriptor if self._connection else None

    def fileno(self) -> int | None:
        """None while `receive` is due without a poll: for buffered bytes, or the end of a reusable body."""
        connection = self._connection
        if connection is None or self._early or connection.more or self._body.ended:
            return None
        return None if self._coding is not None and self._coding.pending else connection.descriptor

    def receive(self) -> bytes | None:
        try:
            if self._coding is not None and self._coding.pending:
                return self._coding.feed(b"")
            if self._body.ended or self._connection is None:
                return b""
            return self._next(self._connection)
        except (HTTPException, OSError) as error:
            broken = UpstreamBroken("The model's server broke off in the middle of its answer.")
            broken.cause = _reason(error)
            raise broken from error

    def _next(self, connection: ActiveConnection) -> bytes | None:
        data = self._early or connection.receive()
        self._early = b""
        if data is None:
            return None
        if not data:
            self._body.close()
            return b""
        payload = self._body.feed(data)
        if self._coding is not None:
            payload = self._coding.feed(payload)
        return payload if payload or self._body.ended else None

    def close(self) -> None:
        self._share.close()
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._persistent and self._finished(connection):
            connection.release()
        else:
            connection.drop()

    def _finished(self, connection: ActiveConnection) -> bool:
        """Whether the body ended by its framing, with no byte after it."""
        if not self._body.ended:
            # The last chunk has no payload, so the stream may have ended without reading it.
            with suppress(HTTPException, OSError, Late):
                if not (self._early or connection.more):
                    wait_ready(connection.descriptor, None, _LAST_CHUNK)
                self._next(connection)
        return self._body.clean and not self._early


class LocalExchange:
    """The answer of a format that generates it in this process, without a socket."""

    def __init__(self, status: int, pieces: Iterator[bytes]) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {}
        self._pieces = pieces

    @property
    def descriptor(self) -> None:
        return None

    def read(self) -> bytes:
        return b"".join(self._pieces)

    def fileno(self) -> int | None:
        return None

    def receive(self) -> bytes | None:
        return next(self._pieces, b"")

    def close(self) -> None:
        self._pieces = iter(())
