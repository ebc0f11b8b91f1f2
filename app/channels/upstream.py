"""One exchange with an upstream: requests says what a request is, and nothing ever blocks, because the thread that
waits for an answer also watches the client.

Foreign exceptions end here: whatever requests, the socket or the answer raise becomes an UpstreamError.
"""

from __future__ import annotations

import errno
import fcntl
import select
import socket
import ssl
import struct
import sys
import termios
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from time import monotonic, time_ns
from typing import Protocol
from urllib.parse import urlsplit

import requests
import urllib3
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from app import formats
from app.channels import http1
from app.channels.connector import ARRIVAL_TIMES, Connector
from app.channels.readiness import Late, Watch, wait_ready
from app.contract.channel import Channel
from app.errors import UpstreamBroken, UpstreamError, UpstreamStalled, UpstreamTimeout, UpstreamUnreachable
from app.memory import Budget, Share

#: What is accepted by those who want a stream.
EVENTS = "text/event-stream"
#: An unstreamed answer longer than this is refused.
MAX_BODY = 64 * 1024 * 1024
_PIECE = 65536
#: Bytes from which on a body is worth counting, and no copy of it is made.
_LARGE = 65536
#: An answer that is read whole exists so often: as it came, as bytes, and as values.
_TIMES = 3
#: The longest that TLS gives at once.
_RECORD = 16384
_MAX_STALE = 3
#: Seconds that the end of a body may take after the end of what it says, for the connection to be kept.
_LAST_CHUNK = 0.05
_TIME = struct.Struct("@qq")
_ANCILLARY = socket.CMSG_SPACE(_TIME.size)


class Exchange(Protocol):
    """A status line and a body that is still to be read. Whoever opened it closes it."""

    status: int
    headers: Mapping[str, str]

    @property
    def descriptor(self) -> int | None:
        """What makes `receive` possible when it becomes readable, while the exchange lives; None where it may block."""
        ...

    def read(self) -> bytes:
        """The whole body, blocking."""
        ...

    def fileno(self) -> int | None:
        """What to poll before `receive`; None when it has to be called without polling, and may block."""
        ...

    def receive(self) -> bytes | None:
        """The next piece of the body: b"" at its end, None when nothing is there yet."""
        ...

    def close(self) -> None: ...


class Upstream:
    """The connections of one channel. Nothing is followed, remembered or repeated: no redirects, cookies, retries."""

    def __init__(self, row: Channel, connections: int, budget: Budget | None = None) -> None:
        """`budget`: of the memory for large bodies, where there is one."""
        self._row = row
        self._budget = budget or Budget(sys.maxsize)
        self._connections = _Connections(row, connections)
        self._heads: dict[tuple[str, str, str], bytes] = {}

    def post(self, path: str, body: bytes, *, accept: str, watch: Watch | None = None) -> Exchange:
        """Sends and waits for the header. Raises UpstreamError, ClientGone when the client left meanwhile, and what the
        watch raises."""
        head = b"%sContent-Length: %d\r\n\r\n" % (self._head("POST", path, accept), len(body))
        # In one piece: a head of its own would be a packet, a system call and a wait for the interpreter more. A large
        # body would be there twice while it is answered.
        return self._send((head + body,) if len(body) < _LARGE else (head, body), self._clock(accept), watch)

    def get(self, path: str) -> Exchange:
        accept = "application/json"
        return self._send((self._head("GET", path, accept) + b"\r\n",), self._clock(accept), None)

    def close(self) -> None:
        self._connections.close()

    def _clock(self, accept: str) -> _Clock:
        """A stream has to begin and to go on; an answer in one piece may take all the time there is."""
        limits, now = self._row.timeouts, monotonic()
        head = limits.first_byte if accept == EVENTS else limits.unstreamed_first_byte
        end = now + limits.total
        return _Clock(end if head is None else min(end, now + head), end, limits.idle, accept == EVENTS)

    def _head(self, method: str, path: str, accept: str) -> bytes:
        """All but the length and the empty line; requests refuses what would not be a header."""
        found = self._heads.get((method, path, accept))
        if found is None:
            headers = {
                "Accept": accept,
                "Accept-Encoding": "identity",
                "Content-Type": "application/json",
                "User-Agent": "antiphon",
                **formats.load(self._row.format).headers(self._row.api_key),
                **self._row.headers,
            }
            url = f"{(self._row.base_url or '').rstrip('/')}{path}"
            request = requests.Request(method, url, headers=headers).prepare()
            found = self._heads[method, path, accept] = _written(request)
        return found

    def _send(self, message: Sequence[bytes], clock: _Clock, watch: Watch | None) -> Exchange:
        try:
            for _ in range(_MAX_STALE):
                wire = self._connect(watch)
                try:
                    return self._request(wire, message, clock, watch)
                except _StaleConnection:
                    # Its server has most likely closed the others as well.
                    self._connections.clear()
            raise UpstreamUnreachable("The model's server keeps closing its connections.")
        except Late as error:
            raise self._unanswered() from error
        except (HTTPException, OSError) as error:
            broken = UpstreamBroken("The model's server broke off before it answered.")
            broken.cause = _reason(error)
            raise broken from error

    def _connect(self, watch: Watch | None) -> _Wire:
        """On a connection that was kept, or on a new one."""
        try:
            if (idle := self._connections.take()) is not None:
                return idle
            return _Wire(self._connections, self._connections.open(self._row.timeouts.connect, watch))
        except (OSError, ValueError, Late) as error:
            unreachable = UpstreamUnreachable("The model's server cannot be reached.")
            unreachable.cause = _reason(error)
            raise unreachable from error

    def _request(self, wire: _Wire, message: Sequence[bytes], clock: _Clock, watch: Watch | None) -> Exchange:
        reader = http1.HeadReader()
        try:
            wire.send(message, clock.head, watch)
            early = wire.read_head(reader, clock.head, watch)
            assert reader.head is not None
            return _HttpExchange(wire, reader.head, early, clock, watch, Share(self._budget))
        except ConnectionError as error:
            wire.drop()
            if wire.reused and not reader.begun:
                raise _StaleConnection from error
            raise
        except BaseException:
            wire.drop()
            raise

    def _unanswered(self) -> UpstreamError:
        kind = UpstreamStalled if self._row.retry_unanswered else UpstreamTimeout
        return kind("The model's server accepted the request and did not answer in time.")


def _reason(error: BaseException) -> str:
    """What the system said of a connection: the error's name, never an address."""
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
        inner = next((one for one in known.args if isinstance(one, BaseException)), None)
        known = known.__cause__ or known.__context__ or inner
    return "errno=ETIMEDOUT" if late else ""


def _written(request: requests.PreparedRequest) -> bytes:
    """The lines of a request's head but for its length, which differs from body to body."""
    headers = {_text(name): _text(value) for name, value in request.headers.items()}
    headers = {name: value for name, value in headers.items() if name.lower() != "content-length"}
    if "Host" not in request.headers:
        headers["Host"] = urlsplit(request.url or "").netloc.rpartition("@")[2]
    lines = [f"{request.method} {request.path_url} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


# --- connections ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Clock:
    """When an answer is given up, and how long a stream's body may be silent."""

    head: float
    end: float
    idle: float
    streams: bool


class _StaleConnection(Exception):
    """A kept-alive connection was closed by the other side before one byte of the answer came."""


class _Connections:
    """Those of one channel: opened to its one address, kept while they can serve again, and used newest first."""

    def __init__(self, row: Channel, most: int) -> None:
        self._connector = _connector(row)
        self._most = most
        self._idle: deque[socket.socket] = deque()
        self._closed = False

    def take(self) -> _Wire | None:
        """One that was kept and on which nothing can be read. Anything else is its end, or bytes that no one has asked
        for: they would become the answer to the next request, which may be another owner's.
        """
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            silent_since = time_ns()
            if _is_silent(connection):
                return _Wire(self, connection, silent_since)
            connection.close()

    def open(self, seconds: float, watch: Watch | None) -> socket.socket:
        return self._connector.connect(seconds, watch)

    def release(self, connection: socket.socket) -> None:
        if self._closed or len(self._idle) >= self._most:
            connection.close()
            return
        # What the other side still holds back until its answer is confirmed comes now, and not behind the next request.
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self._idle.append(connection)

    def clear(self) -> None:
        with suppress(IndexError):
            while True:
                self._idle.pop().close()

    def close(self) -> None:
        self._closed = True
        self.clear()


def _connector(row: Channel) -> Connector:
    url = urllib3.util.parse_url(row.base_url or "")
    host = url.host or "localhost"
    if url.scheme != "https":
        return Connector(host, url.port or 80, None)
    # One context a channel: its certificates are read once, not for every connection.
    tls = ssl.create_default_context(cafile=row.ca_file or DEFAULT_CA_BUNDLE_PATH)
    tls.set_alpn_protocols(["http/1.1"])
    return Connector(host, url.port or 443, tls)


def _is_silent(sock: socket.socket) -> bool:
    """Nothing can be read: no byte, no end, no record of TLS."""
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        return False
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLRDHUP)
    return not poll.poll(0)


class _Wire:
    """A connection while one request has it. Its socket never blocks: whoever waits also watches the client."""

    __slots__ = (
        "_connections",
        "_premature",
        "_silent_since",
        "_socket",
        "_tls",
        "descriptor",
        "more",
        "reused",
    )

    def __init__(self, connections: _Connections, connection: socket.socket, silent_since: int | None = None) -> None:
        """`silent_since`: when a connection that was kept had nothing to read, in nanoseconds of the wall clock."""
        self._connections = connections
        self._socket = connection
        self._tls = self._socket if isinstance(self._socket, ssl.SSLSocket) else None
        self.descriptor = self._socket.fileno()
        self._silent_since = silent_since
        self._premature = False
        self.reused = silent_since is not None
        self.more = self._tls is not None
        """TLS may hold what the socket no longer shows."""

    def send(self, message: Sequence[bytes], deadline: float, watch: Watch | None) -> None:
        began = time_ns()
        for piece in message:
            self._write(memoryview(piece), deadline, watch)
        if self._silent_since is not None:
            self._premature = self._has_premature(self._silent_since, began, sum(map(len, message)))

    def _has_premature(self, looked: int, began: int, length: int) -> bool:
        """Whether bytes have come that answer no request: between the look at the silent connection and the sending,
        or before the other side has confirmed that it has a byte of the request.
        """
        try:
            _, ancillary, _, _ = socket.socket.recvmsg(self._socket, 1, _ANCILLARY, socket.MSG_PEEK)
        except OSError:
            return False
        return looked <= _arrival(ancillary) < began or _unconfirmed(self.descriptor) >= length

    def _write(self, left: memoryview, deadline: float, watch: Watch | None) -> None:
        while left:
            events = select.POLLOUT
            try:
                left = left[self._socket.send(left) :]
                continue
            except (BlockingIOError, ssl.SSLWantWriteError):
                pass
            except ssl.SSLWantReadError:
                events = select.POLLIN
            except BrokenPipeError:
                # It has heard enough, and may have said why.
                return
            wait_ready(self.descriptor, watch, deadline - monotonic(), events)

    def read_head(self, reader: http1.HeadReader, deadline: float, watch: Watch | None) -> bytes:
        """Until the whole head is there, and what came with it: a trickle of bytes does not reset the clock."""
        while True:
            if not self.more:
                wait_ready(self.descriptor, watch, deadline - monotonic())
            data = self.receive()
            if data and self._premature:
                raise HTTPException("bytes came before the request had left")
            # The end of the connection is no answer, nor is what TLS has to say of itself.
            self._premature = False
            if data:
                early = reader.feed(data)
                if reader.head is not None:
                    return early
            elif data is not None:
                raise HTTPException("half a head") if reader.begun else ConnectionResetError("closed without an answer")

    def receive(self) -> bytes | None:
        """What has arrived; b"" at the end, None when nothing has."""
        if self._tls is not None:
            return self._records(self._tls)
        try:
            return self._socket.recv(_PIECE)
        except BlockingIOError:
            return None

    def _records(self, tls: ssl.SSLSocket) -> bytes | None:
        """What has arrived, joined: upstreams send a record an event, and each would cost what a whole piece costs."""
        records: list[bytes] = []
        length = 0
        self.more = False
        while length < _PIECE:
            try:
                record = tls.recv(_RECORD)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except OSError:
                if not records:
                    raise
                record = b""
            if not record:
                # The end, proper or not, is met again once what came before it has been taken.
                self.more = bool(records)
                return b"".join(records)
            records.append(record)
            length += len(record)
        else:
            self.more = True
        return b"".join(records) if records else None

    def release(self) -> None:
        self._connections.release(self._socket)

    def drop(self) -> None:
        self._socket.close()


def _arrival(ancillary: Sequence[tuple[int, int, bytes]]) -> int:
    """When what was looked at had come, in nanoseconds of the wall clock; 0 where the kernel does not say."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, ARRIVAL_TIMES) and len(data) == _TIME.size:
            seconds, nanoseconds = _TIME.unpack(data)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return 0


def _unconfirmed(descriptor: int) -> int:
    """Bytes that the other side has not confirmed."""
    return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0" * 4))[0])


# --- bodies -----------------------------------------------------------------------------------------------------


class _HttpExchange:
    """The body of an HTTP answer, either whole or piece by piece without blocking."""

    __slots__ = (
        "_body",
        "_clock",
        "_coding",
        "_early",
        "_persistent",
        "_share",
        "_watch",
        "_wire",
        "headers",
        "status",
    )

    def __init__(
        self, wire: _Wire, head: http1.Head, early: bytes, clock: _Clock, watch: Watch | None, share: Share
    ) -> None:
        """`share`: what a body that is read whole has of the memory for large bodies, until the exchange is closed."""
        self.status = head.status
        self.headers = head.headers
        self._wire: _Wire | None = wire
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
                self._share.grow(_TIMES * len(body) - self._share.size)
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
        """Seconds that the next piece may take. A refusal is short: only an answer may take all the time."""
        left = self._clock.end - monotonic()
        return min(left, self._clock.idle) if self._clock.streams or self.status != 200 else left

    @property
    def descriptor(self) -> int | None:
        return self._wire.descriptor if self._wire else None

    def fileno(self) -> int | None:
        """None while something waits that no poll would show: early bytes, or the end of a body on a kept socket."""
        wire = self._wire
        if wire is None or self._early or wire.more or self._body.ended:
            return None
        return None if self._coding is not None and self._coding.pending else wire.descriptor

    def receive(self) -> bytes | None:
        try:
            if self._coding is not None and self._coding.pending:
                return self._coding.feed(b"")
            if self._body.ended or self._wire is None:
                return b""
            return self._next(self._wire)
        except (HTTPException, OSError) as error:
            broken = UpstreamBroken("The model's server broke off in the middle of its answer.")
            broken.cause = _reason(error)
            raise broken from error

    def _next(self, wire: _Wire) -> bytes | None:
        data = self._early or wire.receive()
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
        wire, self._wire = self._wire, None
        if wire is None:
            return
        if self._persistent and self._finished(wire):
            wire.release()
        else:
            wire.drop()

    def _finished(self, wire: _Wire) -> bool:
        """Whether the body ended where its framing said, with nothing behind it."""
        if not self._body.ended:
            # The last chunk says nothing, and nobody has waited for it.
            with suppress(HTTPException, OSError, Late):
                if not (self._early or wire.more):
                    wait_ready(wire.descriptor, None, _LAST_CHUNK)
                self._next(wire)
        return self._body.clean and not self._early


class LocalExchange:
    """The answer of a format that serves itself: the same face, no socket."""

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
