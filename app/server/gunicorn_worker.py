"""gunicorn's threaded worker; a thread waits a moment for the next request of its connection."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import ssl
import time
from contextlib import suppress
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from app.log import write_at_once

log = logging.getLogger(__name__)

#: The process or the machine has no descriptor or no memory for one more connection.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: Seconds without new connections after such an error. The system holds waiting connections in the meantime.
_ACCEPT_PAUSE = 0.1
#: Seconds between two warnings about it.
_WARNING_INTERVAL = 10.0
#: Milliseconds for which a thread waits for the first request of a connection, before gunicorn's own, slower wait.
_FIRST_REQUEST_MS = 100
#: Milliseconds for which a thread waits for the next request, before it returns the connection to the main thread.
_NEXT_REQUEST_MS = 2
#: Seconds for which a thread drops what a client sends after the last answer: in all, as nginx does, and in silence.
_LINGERING, _LINGERING_SILENCE = 30.0, 2.0
#: Bytes that are dropped at once.
_DROPPED_PIECE = 64 * 1024


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    """After an answer the thread keeps its connection for a moment. Busy clients and proxies send the next request at
    once, and the way through the main thread would cost more than all of Flask.
    """

    _next_warning = 0.0

    def accept(self, listener: socket.socket) -> None:
        """Accepts a connection. gunicorn's own method ends the worker, with all its streams, when there is no free
        descriptor.
        """
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            self._warn(error)
            time.sleep(_ACCEPT_PAUSE)

    def _warn(self, error: OSError) -> None:
        now = time.monotonic()
        if now >= self._next_warning:
            self._next_warning = now + _WARNING_INTERVAL
            log.warning(
                "cannot accept a connection: %s; raise LimitNOFILE of the service (ulimit -n)",
                os.strerror(error.errno or 0),
            )

    def handle_exit(self, sig: int, frame: Any) -> None:
        write_at_once()
        super().handle_exit(sig, frame)

    def handle(self, conn: Any) -> Any:
        if not conn.initialized and not conn.data_ready:
            conn.data_ready = _is_readable(conn.sock, _FIRST_REQUEST_MS)
        keep_alive = super().handle(conn)
        while keep_alive is True and self._has_next_request(conn):
            keep_alive = super().handle(conn)
        if keep_alive is False:
            self._close_gracefully(conn.sock)
        return keep_alive

    def _close_gracefully(self, sock: socket.socket) -> None:
        """Shuts down our side, and drops what the client sends until it closes: a connection that is closed with unread
        bytes is reset, and the client loses the answer. That is how a client which sends all of a too large body first
        reads the refusal. gunicorn does it in the main thread, where a client that does not close would delay all other
        connections, and only for 64 KiB.
        """
        # A duplicate of the descriptor: the main thread still closes the original.
        with suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as twin:
            twin.shutdown(socket.SHUT_WR)
            twin.settimeout(_LINGERING_SILENCE)
            until, dropped = time.monotonic() + _LINGERING, bytearray(_DROPPED_PIECE)
            while self.alive and time.monotonic() < until and twin.recv_into(dropped):
                pass
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    def _has_next_request(self, conn: Any) -> bool:
        # With more connections than threads, no connection keeps its thread.
        if not self.alive or self.nr_conns > self.cfg.threads or isinstance(conn.sock, ssl.SSLSocket):
            return False
        return _is_readable(conn.sock, _NEXT_REQUEST_MS)


def _is_readable(sock: socket.socket, within: int) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(within))
