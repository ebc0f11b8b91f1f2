"""Connections to the upstream of one channel: the idle ones, and one in use by a request. Bytes that answer no request
are never read as an answer, which might reach another owner.
"""

from __future__ import annotations

import fcntl
import select
import socket
import ssl
import struct
import termios
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException
from time import monotonic, time_ns

from app.channels.connector import ARRIVAL_TIMES, Connector
from app.channels.http1 import HeadReader
from app.request_watch import Watch, wait_ready

_PIECE = 65536
#: Most bytes of a TLS record.
_RECORD = 16384
#: Linux's SO_MEMINFO: numbers about a socket's memory. The first is the size of what has arrived and was not read.
_MEMORY = 55
_UNUSED = bytes(4)
#: The first byte of TCP_INFO, the state of the connection.
_ESTABLISHED = b"\x01"
_TIME = struct.Struct("@qq")
_ANCILLARY = socket.CMSG_SPACE(_TIME.size)


class Connections:
    """The idle connections of one channel, and the opening of new ones. The newest idle connection is used first."""

    def __init__(self, connector: Connector, max_idle: int) -> None:
        self._connector = connector
        self._max_idle = max_idle
        self._idle: deque[socket.socket] = deque()
        self._closed = False

    def take(self) -> ActiveConnection | None:
        """An idle connection with nothing to read. A readable one has ended, or holds bytes that answer no request:
        they would be read as the answer to the next request, which may be another owner's.
        """
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            silent_since = time_ns()
            if _is_silent(connection):
                return ActiveConnection(self, connection, silent_since)
            connection.close()

    def open(self, seconds: float, watch: Watch | None) -> ActiveConnection:
        """A new one. Raises what `Connector.connect` raises."""
        return ActiveConnection(self, self._connector.connect(seconds, watch))

    def release(self, connection: socket.socket) -> None:
        if self._closed or len(self._idle) >= self._max_idle:
            connection.close()
            return
        # An acknowledgement now makes the upstream send any bytes that it still holds back. They must not follow the
        # next request.
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


def _is_silent(sock: socket.socket) -> bool:
    """Whether the connection is open and nothing can be read: no byte, no TLS record."""
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        return False
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == _ESTABLISHED and not _has_unread(sock)


def _has_unread(sock: socket.socket) -> bool:
    """Whether bytes have arrived and were not read. Unlike poll and recv, getsockopt keeps the interpreter's lock, for
    which a busy process waits longer than for the call itself."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _MEMORY, len(_UNUSED)) != _UNUSED
    except OSError:
        # A kernel that does not show the memory of a socket.
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))


class ActiveConnection:
    """A connection in use by one request. Its socket does not block, so that the waiting thread can also watch the
    client."""

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

    def __init__(self, connections: Connections, connection: socket.socket, silent_since: int | None = None) -> None:
        """`silent_since`: the time when an idle connection had nothing to read, in nanoseconds of the wall clock; None
        for a new one."""
        self._connections = connections
        self._socket = connection
        self._tls = self._socket if isinstance(self._socket, ssl.SSLSocket) else None
        self.descriptor = self._socket.fileno()
        self._silent_since = silent_since
        self._premature = False
        self.reused = silent_since is not None
        self.more = self._tls is not None
        """TLS may hold decrypted bytes, which a poll of the socket does not show."""

    def send(self, message: Sequence[bytes], deadline: float, watch: Watch | None) -> None:
        began = time_ns()
        for piece in message:
            self._write(memoryview(piece), deadline, watch)
        if self._silent_since is not None and _has_unread(self._socket):
            self._premature = self._has_premature(self._silent_since, began, sum(map(len, message)))

    def _has_premature(self, silent_since: int, began: int, length: int) -> bool:
        """Whether bytes have come that answer no request: between the check of the idle connection and the sending, or
        before the upstream has acknowledged a byte of the request.
        """
        try:
            _, ancillary, _, _ = socket.socket.recvmsg(self._socket, 1, _ANCILLARY, socket.MSG_PEEK)
        except OSError:
            return False
        return silent_since <= _arrival(ancillary) < began or _unacknowledged(self.descriptor) >= length

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
                # The upstream has stopped reading, and may have answered already.
                return
            wait_ready(self.descriptor, watch, deadline - monotonic(), events)

    def read_head(self, reader: HeadReader, deadline: float, watch: Watch | None) -> bytes:
        """Waits for the whole head and returns the first bytes of the body. Single bytes do not reset the deadline."""
        while True:
            if not self.more:
                wait_ready(self.descriptor, watch, deadline - monotonic())
            data = self.receive()
            if data and self._premature:
                raise HTTPException("bytes came before the request had left")
            # The premature bytes were the end of the connection or a TLS record without data, and no answer.
            self._premature = False
            if data:
                early = reader.feed(data)
                if reader.head is not None:
                    return early
            elif data is not None:
                raise (
                    HTTPException("the head is incomplete")
                    if reader.begun
                    else ConnectionResetError("closed without an answer")
                )

    def receive(self) -> bytes | None:
        """The bytes that have arrived; b"" at the end, None when there are none yet."""
        if self._tls is not None:
            return self._records(self._tls)
        try:
            return self._socket.recv(_PIECE)
        except BlockingIOError:
            return None

    def _records(self, tls: ssl.SSLSocket) -> bytes | None:
        """The records that have arrived, joined: upstreams send a record per event, and each piece has a fixed cost."""
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
                # The next call meets the end again, clean or not, once the caller has these records.
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
    """The arrival time of the received bytes, in nanoseconds of the wall clock; 0 when the kernel reports none."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, ARRIVAL_TIMES) and len(data) == _TIME.size:
            seconds, nanoseconds = _TIME.unpack(data)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return 0


def _unacknowledged(descriptor: int) -> int:
    """The number of sent bytes that the other side has not acknowledged."""
    return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0" * 4))[0])
