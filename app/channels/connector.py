"""Opens connections to the upstream of a channel. Nothing here blocks: while the name is looked up, the connection
opened and the TLS handshake made, the client and the deadlines of the request are watched too.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from app.request_watch import Late, Watch, wait_ready

#: Linux's SO_TIMESTAMPNS: the kernel records the arrival time of each segment and returns it with the bytes.
ARRIVAL_TIMES = 35
#: Seconds without any TCP acknowledgement until a connection counts as dead: the first probe goes out after
#: `_PROBE_AFTER`, then one every `_PROBE_EVERY`.
_DEAD_AFTER = 50
_PROBE_AFTER = 20
_PROBE_EVERY = 10
_SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_AFTER),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_EVERY),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, (_DEAD_AFTER - _PROBE_AFTER) // _PROBE_EVERY),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_AFTER * 1000),
    (socket.SOL_SOCKET, ARRIVAL_TIMES, 1),
)

#: One result of getaddrinfo: family, type, protocol, canonical name, address.
Address = tuple[Any, Any, int, str, Any]


class Connector:
    """There is one for each channel. Its methods raise OSError or UnicodeError when the server cannot be reached,
    Late when the deadline passes first, and the errors of the watch.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self._host = host.strip("[]")
        self._port = port
        self._tls = tls
        self._lookup: _Lookup | None = None
        self._lock = threading.Lock()

    def connect(self, seconds: float, watch: Watch | None) -> socket.socket:
        """A connected non-blocking socket."""
        deadline = monotonic() + seconds
        sock = self._reach(self._addresses(deadline, watch), deadline, watch)
        return sock if self._tls is None else _secured(self._tls, sock, self._host, deadline, watch)

    def _addresses(self, deadline: float, watch: Watch | None) -> Sequence[Address]:
        # An IP address needs no resolver.
        with suppress(socket.gaierror, UnicodeError):
            return _resolve(self._host, self._port, socket.AI_NUMERICHOST)
        return self._current_lookup().result(deadline, watch)

    def _current_lookup(self) -> _Lookup:
        """The running lookup, or a new one. A resolver that hangs holds one thread per channel, not one per request."""
        with self._lock:
            if self._lookup is None or self._lookup.done:
                self._lookup = _Lookup(self._host, self._port)
            return self._lookup

    def _reach(self, addresses: Sequence[Address], deadline: float, watch: Watch | None) -> socket.socket:
        """Connects to the first address that answers. Each gets a share of the time, so that a dead one cannot use it
        up."""
        for left in range(len(addresses), 1, -1):
            now = monotonic()
            with suppress(OSError, Late):
                return _connected(addresses[-left], now + (deadline - now) / left, watch)
        return _connected(addresses[-1], deadline, watch)


class _Lookup:
    """One call of getaddrinfo in its own thread. Any number of requests can wait for the result."""

    def __init__(self, host: str, port: int) -> None:
        self.done = False
        self._host = host
        self._port = port
        self._addresses: Sequence[Address] = ()
        self._error: OSError | UnicodeError | None = None
        self._waiting: set[int] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="resolver", daemon=True).start()

    def _run(self) -> None:
        try:
            self._addresses = _resolve(self._host, self._port)
        except (OSError, UnicodeError) as error:
            self._error = error
        with self._lock:
            self.done = True
            for event in self._waiting:
                os.eventfd_write(event, 1)

    def result(self, deadline: float, watch: Watch | None) -> Sequence[Address]:
        event = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            with self._lock:
                self._waiting.add(event)
                done = self.done
            if not done:
                wait_ready(event, watch, deadline - monotonic())
        finally:
            with self._lock:
                self._waiting.discard(event)
            os.close(event)
        if self._error is not None:
            raise OSError("the name cannot be resolved") from self._error
        return self._addresses


def _resolve(host: str, port: int, flags: int = 0) -> Sequence[Address]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)


def _connected(address: Address, deadline: float, watch: Watch | None) -> socket.socket:
    family, kind, protocol, _, endpoint = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        for option in _SOCKET_OPTIONS:
            # The connection also works on a kernel that lacks one of these options.
            with suppress(OSError):
                sock.setsockopt(*option)
        code = sock.connect_ex(endpoint)
        if code == errno.EINPROGRESS:
            wait_ready(sock.fileno(), watch, deadline - monotonic(), select.POLLOUT)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        return sock
    except BaseException:
        sock.close()
        raise


def _secured(
    tls: ssl.SSLContext, plain: socket.socket, host: str, deadline: float, watch: Watch | None
) -> ssl.SSLSocket:
    name = host.partition("%")[0].rstrip(".")
    try:
        sock = tls.wrap_socket(plain, server_hostname=name, do_handshake_on_connect=False)
    except BaseException:
        plain.close()
        raise
    try:
        _shake_hands(sock, deadline, watch)
        return sock
    except BaseException:
        sock.close()
        raise


def _shake_hands(sock: ssl.SSLSocket, deadline: float, watch: Watch | None) -> None:
    while True:
        try:
            sock.do_handshake()
            return
        except ssl.SSLWantReadError:
            events = select.POLLIN
        except ssl.SSLWantWriteError:
            events = select.POLLOUT
        wait_ready(sock.fileno(), watch, deadline - monotonic(), events)
