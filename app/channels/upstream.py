"""One exchange with an upstream over requests: a pool of connections a channel, a body that is read without blocking.

Foreign exceptions end here: whatever requests, urllib3, http.client or the socket raise becomes an UpstreamError.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.client import HTTPException
from time import monotonic
from typing import Any, Protocol

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import Timeout

from app import formats
from app.errors import (
    ClientGone,
    UpstreamBroken,
    UpstreamError,
    UpstreamStalled,
    UpstreamTimeout,
    UpstreamUnreachable,
)

#: An unstreamed answer longer than this is refused.
MAX_BODY = 64 * 1024 * 1024
_PIECE = 65536
#: The longest that TLS gives at once.
_RECORD = 16384
_MAX_STALE = 3
_MAX_HEAD = 65536
_PATIENCE = 60.0
#: Seconds that the end of a body may take after the end of what it says, for the connection to be kept.
_LAST_CHUNK = 0.05
#: What stands before a chunk; extensions say nothing to us.
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")

#: Descriptor of the client that the current thread works for, so that a wait for headers can end with it.
_serving = threading.local()


class Row(Protocol):
    """What of a channel matters on the wire."""

    @property
    def format(self) -> str: ...
    @property
    def base_url(self) -> str | None: ...
    @property
    def api_key(self) -> str | None: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def ca_file(self) -> str | None: ...
    @property
    def retry_unanswered(self) -> bool: ...
    @property
    def timeouts(self) -> Limits: ...


class Limits(Protocol):
    """Seconds."""

    @property
    def connect(self) -> float: ...
    @property
    def first_byte(self) -> float: ...


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

    def __init__(self, row: Row, connections: int) -> None:
        self._row = row
        self._adapter = _PoolAdapter(_tls(row), connections)
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.mount("http://", self._adapter)
        self._session.mount("https://", self._adapter)
        self._prepared: dict[tuple[str, str], requests.PreparedRequest] = {}

    def post(self, path: str, body: bytes, *, accept: str, client: int | None = None) -> Exchange:
        """Sends and waits for the header. Raises UpstreamError, or ClientGone when the client left meanwhile."""
        request = self._template("POST", path).copy()
        request.body = body
        request.headers["Content-Length"] = str(len(body))
        request.headers["Accept"] = accept
        return self._send(request, client)

    def get(self, path: str) -> Exchange:
        return self._send(self._template("GET", path), None)

    def close(self) -> None:
        self._session.close()

    def _template(self, method: str, path: str) -> requests.PreparedRequest:
        found = self._prepared.get((method, path))
        if found is None:
            headers = {
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Content-Type": "application/json",
                "User-Agent": "antiphon",
                **formats.load(self._row.format).headers(self._row.api_key),
                **self._row.headers,
            }
            url = f"{(self._row.base_url or '').rstrip('/')}{path}"
            found = requests.Request(method, url, headers=headers).prepare()
            self._prepared[method, path] = found
        return found

    def _send(self, request: requests.PreparedRequest, client: int | None) -> Exchange:
        limits = self._row.timeouts
        timeout = Timeout(connect=limits.connect, read=limits.first_byte)
        _serving.client = client
        try:
            for _ in range(_MAX_STALE):
                try:
                    return _HttpExchange(self._adapter.exchange(request, timeout), client)
                except _StaleConnection:
                    continue
            raise UpstreamUnreachable("The model's server keeps closing its connections.")
        except (ConnectTimeoutError, NewConnectionError, SSLError) as error:
            raise UpstreamUnreachable("The model's server cannot be reached.") from error
        except ReadTimeoutError as error:
            raise self._unanswered() from error
        except (HTTPError, HTTPException, OSError, ValueError) as error:
            raise UpstreamBroken("The model's server broke off before it answered.") from error
        finally:
            _serving.client = None

    def _unanswered(self) -> UpstreamError:
        kind = UpstreamStalled if self._row.retry_unanswered else UpstreamTimeout
        return kind("The model's server accepted the request and did not answer in time.")


def _tls(row: Row) -> ssl.SSLContext | None:
    """One context a channel: its certificates are read once, not for every connection."""
    if not (row.base_url or "").startswith("https:"):
        return None
    return ssl.create_default_context(cafile=row.ca_file or DEFAULT_CA_BUNDLE_PATH)


# --- connections ------------------------------------------------------------------------------------------------


def _await(descriptor: int, client: int | None, timeout: float) -> None:
    """Until there is something to read. Raises TimeoutError, or ClientGone when the client leaves first."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if client is not None:
        poll.register(client, select.POLLRDHUP)
    ready = dict(poll.poll(timeout * 1000))
    if descriptor not in ready:
        if client in ready:
            raise ClientGone
        raise TimeoutError("timed out")


class _StaleConnection(Exception):
    """A kept-alive connection was closed by the other side before one byte of the answer came."""


class _Watched:
    """A connection that waits for the header together with the client it works for."""

    sock: Any
    timeout: Any
    answers = 0

    def request(self, *args: Any, **options: Any) -> None:
        try:
            super().request(*args, **options)  # type: ignore[misc]
        except ConnectionError as error:
            raise self._stale(error) from error

    def getresponse(self) -> Any:
        try:
            if self.sock is not None:
                self._await_header(getattr(_serving, "client", None))
            response = super().getresponse()  # type: ignore[misc]
        except (ConnectionError, HTTPException) as error:
            raise self._stale(error) from error
        self.answers += 1
        return response

    def _stale(self, error: Exception) -> Exception:
        """RemoteDisconnected is a ConnectionResetError too: no byte of an answer has come."""
        return _StaleConnection() if self.answers and isinstance(error, ConnectionError) else error

    def _await_header(self, client: int | None) -> None:
        """Until the whole head is there, or will never be. Raises TimeoutError, or ClientGone when the client left.

        A trickle of bytes must not reset the clock, as it does for a blocking read.
        """
        deadline = monotonic() + self.timeout
        _await(self.sock.fileno(), client, self.timeout)
        if isinstance(self.sock, ssl.SSLSocket) or self._has_head():
            return
        try:
            while not self._has_head():
                # Wake up for more than what is there.
                seen = len(self.sock.recv(_MAX_HEAD, socket.MSG_PEEK))
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)
                _await(self.sock.fileno(), client, max(0.0, deadline - monotonic()))
                if len(self.sock.recv(_MAX_HEAD, socket.MSG_PEEK)) == seen:
                    # Readable without a byte more: the other side has closed.
                    return
        finally:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def _has_head(self) -> bool:
        head = self.sock.recv(_MAX_HEAD, socket.MSG_PEEK)
        return head[:5] != b"HTTP/"[: len(head)] or b"\r\n\r\n" in head or len(head) == _MAX_HEAD


class _PlainConnection(_Watched, HTTPConnection):
    pass


class _TlsConnection(_Watched, HTTPSConnection):
    pass


class _PoolAdapter(HTTPAdapter):
    """Hands prepared requests straight to one urllib3 pool: a fifth of what a Session spends on them."""

    def __init__(self, tls: ssl.SSLContext | None, connections: int) -> None:
        self._tls = tls
        self._pool: urllib3.HTTPConnectionPool | None = None
        self._connections = connections
        super().__init__(pool_connections=1, pool_maxsize=connections, max_retries=0, pool_block=False)

    def exchange(self, request: requests.PreparedRequest, timeout: Timeout) -> urllib3.BaseHTTPResponse:
        pool = self._pool or self._open_pool(request.url or "")
        return pool.urlopen(
            request.method or "POST",
            request.path_url,
            body=request.body,
            headers=request.headers,
            retries=False,
            redirect=False,
            assert_same_host=False,
            timeout=timeout,
            preload_content=False,
            decode_content=False,
        )

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
        super().close()

    def _open_pool(self, url: str) -> urllib3.HTTPConnectionPool:
        parsed = urllib3.util.parse_url(url)
        host = parsed.host or ""
        if parsed.scheme == "https":
            pool: urllib3.HTTPConnectionPool = urllib3.HTTPSConnectionPool(
                host, parsed.port, maxsize=self._connections, block=False, ssl_context=self._tls
            )
            pool.ConnectionCls = _TlsConnection
        else:
            pool = urllib3.HTTPConnectionPool(host, parsed.port, maxsize=self._connections, block=False)
            pool.ConnectionCls = _PlainConnection
        self._pool = pool
        return pool


# --- bodies -----------------------------------------------------------------------------------------------------


class _HttpExchange:
    """The body of an HTTP answer, either whole or piece by piece without blocking.

    The first `receive` takes the socket from http.client, with what it had already buffered, and undoes the chunks
    itself: a blocked read could neither send heartbeats nor notice that the client has left.
    """

    def __init__(self, raw: urllib3.BaseHTTPResponse, client: int | None) -> None:
        self._client = client
        self.status = raw.status
        self.headers: Mapping[str, str] = raw.headers
        self._raw = raw
        self._patience = _timeout_of(raw)
        self._wire: _Wire | None = None
        self._blocking = bool(raw.headers.get("content-encoding", "identity").strip().lower() != "identity")

    def read(self) -> bytes:
        body = bytearray()
        while piece := self._await_piece():
            body += piece
            if len(body) > MAX_BODY:
                raise UpstreamBroken("The model's server sent an answer that is too long.")
        return bytes(body)

    def _await_piece(self) -> bytes:
        """The next piece, b"" at the end. Raises ClientGone, UpstreamTimeout, UpstreamBroken."""
        while True:
            descriptor = self.fileno()
            if descriptor is not None:
                try:
                    _await(descriptor, self._client, self._patience)
                except TimeoutError as error:
                    raise UpstreamTimeout("The model's server stopped in the middle of its answer.") from error
            if (piece := self.receive()) is not None:
                return piece

    @property
    def descriptor(self) -> int | None:
        return self._wire.descriptor if self._wire else None

    def fileno(self) -> int | None:
        try:
            wire = self._take_over()
        except OSError:
            # `receive` meets it again and says so.
            return None
        return wire.fileno() if wire else None

    def receive(self) -> bytes | None:
        try:
            wire = self._take_over()
            if wire is None:
                return self._raw.read1(_PIECE, decode_content=True)
            return wire.receive()
        except ReadTimeoutError as error:
            raise UpstreamTimeout("The model's server stopped in the middle of its answer.") from error
        except (HTTPError, HTTPException, OSError) as error:
            raise UpstreamBroken("The model's server broke off in the middle of its answer.") from error

    def close(self) -> None:
        if self._wire is not None and self._wire.finished():
            self._wire.give_back()
        else:
            self._raw.close()
        self._raw.release_conn()

    def _take_over(self) -> _Wire | None:
        if self._wire is None and not self._blocking:
            try:
                self._wire = _Wire(self._raw)
            except AttributeError:
                self._blocking = True
        return self._wire


def _timeout_of(raw: urllib3.BaseHTTPResponse) -> float:
    """Seconds for which the connection would have waited for its next bytes."""
    connection = getattr(raw, "connection", None)
    return float(getattr(connection, "timeout", None) or _PATIENCE)


class _Wire:
    """The socket under an urllib3 response, read directly. Raises AttributeError where that cannot be had."""

    def __init__(self, raw: urllib3.BaseHTTPResponse) -> None:
        self._http = raw._fp  # type: ignore[attr-defined]
        self._socket: socket.socket = self._http.fp.raw._sock
        self._tls = self._socket if isinstance(self._socket, ssl.SSLSocket) else None
        self._more = self._tls is not None
        """TLS may hold what the socket no longer shows."""
        self._timeout = self._socket.gettimeout()
        self._chunks = _Chunks() if self._http.chunked else None
        self._left: int | None = None if self._chunks else self._http.length
        self._ended = self._left == 0
        self._socket.setblocking(False)
        self._early = self._buffered()

    @property
    def descriptor(self) -> int:
        return self._socket.fileno()

    def fileno(self) -> int | None:
        """None while something waits that no poll would show: buffered bytes, or the end of a body on a kept socket."""
        if self._early or self._ended or self._more:
            return None
        return self._socket.fileno()

    def finished(self) -> bool:
        """Whether the body ended where its framing said, with nothing behind it: the connection can serve again."""
        if not self._ended:
            # The last chunk says nothing, and nobody has waited for it.
            with suppress(HTTPException, OSError):
                if (descriptor := self.fileno()) is not None:
                    _await(descriptor, None, _LAST_CHUNK)
                self.receive()
        if self._chunks is not None:
            return self._chunks.ended and not self._chunks.rest
        return self._left == 0

    def receive(self) -> bytes | None:
        if self._ended:
            return b""
        data = self._early or self._recv()
        self._early = b""
        if data is None:
            return None
        if self._chunks is not None:
            return self._unchunked(data)
        if self._left is None:
            self._ended = not data
            return data
        if not data and self._left:
            raise HTTPException("the body is shorter than its length")
        self._left -= len(data)
        self._ended = self._left <= 0
        return data

    def give_back(self) -> None:
        """Makes the connection ready for the next request."""
        self._socket.settimeout(self._timeout)
        self._http._close_conn()

    def _unchunked(self, data: bytes) -> bytes | None:
        assert self._chunks is not None
        if not data:
            raise HTTPException("the body ended inside a chunk")
        payload = self._chunks.feed(data)
        self._ended = self._chunks.ended
        if payload or self._ended:
            return payload
        return None

    def _buffered(self) -> bytes:
        """What http.client read ahead with the header. Asked once: an empty buffer would be filled from the socket."""
        file = self._http.fp
        try:
            ahead = file.peek()
        except ssl.SSLWantReadError:
            ahead = b""
        early = bytes(file.read(len(ahead))) if ahead else b""
        # Its buffer is of no use any more, and every open stream would keep one.
        self._http.fp = file.detach()
        return early

    def _recv(self) -> bytes | None:
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
        self._more = False
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
                self._more = bool(records)
                return b"".join(records)
            records.append(record)
            length += len(record)
        else:
            self._more = True
        return b"".join(records) if records else None


class _Chunks:
    """Undoes chunked framing, however the bytes were split."""

    MAX_LINE = 4096

    def __init__(self) -> None:
        self.ended = False
        self.rest = b""
        self._need = 0
        """Bytes of the chunk at work that are still to come, with the two behind it."""
        self._trailer = False

    def feed(self, data: bytes) -> bytes:
        if self.rest:
            data = self.rest + data
        at = self._need
        out = [data[: at - 2]] if at > 2 else []
        while at < len(data) and not self._trailer:
            line = _SIZE.match(data, at)
            if line is None:
                self._check_unended(data, at)
                break
            start, size = line.end(), int(line[1], 16)
            if size:
                out.append(data[start : start + size])
                at = start + size + 2
            else:
                self._trailer, at = True, start
        if self._trailer:
            at = self._skip_trailer(data, at)
        self._need = max(0, at - len(data))
        self.rest = data[at:]
        return out[0] if len(out) == 1 else b"".join(out)

    def _skip_trailer(self, data: bytes, at: int) -> int:
        while not self.ended:
            end = data.find(b"\r\n", at)
            if end < 0:
                self._check_unended(data, at)
                break
            self.ended = end == at
            at = end + 2
        return at

    def _check_unended(self, data: bytes, at: int) -> None:
        """A line that has no end yet may get one; a whole one that is wrong does not become right."""
        if data.find(b"\r\n", at) >= 0:
            raise HTTPException("the size line of a chunk is not a number")
        if len(data) - at > self.MAX_LINE:
            raise HTTPException("the size line of a chunk has no end")


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
