"""gunicorn's threaded worker, a little more patient with a client that has more to ask."""

from __future__ import annotations

import os
import select
import socket
import ssl
from contextlib import suppress
from typing import Any

from gunicorn.util import close_graceful
from gunicorn.workers.gthread import ThreadWorker

from app.log import write_at_once

#: Milliseconds for which a thread waits for a new connection's request before it does so as gunicorn does, with a
#: selector of its own.
_WELCOME = 100
#: Milliseconds for which it waits for the next request before it hands the connection back.
_STAY = 2


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    """After an answer the thread stays with its connection for a moment. Busy clients and proxies ask again at once;
    the way back over the main thread would cost them more than all that Flask does.
    """

    def handle_exit(self, sig: int, frame: Any) -> None:
        write_at_once()
        super().handle_exit(sig, frame)

    def handle(self, conn: Any) -> Any:
        if not conn.initialized and not conn.data_ready:
            conn.data_ready = _asks(conn.sock, _WELCOME)
        goes_on = super().handle(conn)
        while goes_on is True and self._asks_again(conn):
            goes_on = super().handle(conn)
        if goes_on is False:
            _part(conn.sock)
        return goes_on

    def _asks_again(self, conn: Any) -> bool:
        # While there are more connections than threads, nobody keeps one to himself.
        if not self.alive or self.nr_conns > self.cfg.threads or isinstance(conn.sock, ssl.SSLSocket):
            return False
        return _asks(conn.sock, _STAY)


def _part(sock: socket.socket) -> None:
    """Ends our side and waits until the other has ended its own, so that the last words arrive. gunicorn does it in the
    main thread, where a client that does not close would keep everybody else waiting; here nothing is left to wait for.
    """
    with suppress(OSError):
        # Another descriptor of the same connection: this one is still the main thread's to close.
        close_graceful(socket.socket(fileno=os.dup(sock.fileno())))
        sock.shutdown(socket.SHUT_RDWR)


def _asks(sock: socket.socket, within: int) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(within))
