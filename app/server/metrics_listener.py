"""A process that serves `/metrics` on an address of its own, and nothing else. It survives the workers whose metrics it
shows.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep
from typing import Any

from app.metrics.exposition import CONTENT_TYPE, exposition

log = logging.getLogger(__name__)

#: Seconds for which a client may send or read nothing.
_PATIENCE = 10.0
#: Scrapes at once. More than a few are no Prometheus.
_MOST_SCRAPES = 4
#: Seconds between two attempts to listen: the master before this one may still have the address.
_RETRY_SECONDS = 1.0
_LOOK_SECONDS = 1.0


def work(address: str) -> None:
    """Serves until a stop signal or until the parent has ended. `address`: host and port."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    parent = os.getppid()
    server = _listening(address, parent)
    if server is None:
        return
    log.info("metrics are served at http://%s/metrics", address)
    threading.Thread(target=server.serve_forever, name="scrapes", daemon=True).start()
    while os.getppid() == parent:
        sleep(_LOOK_SECONDS)


def _listening(address: str, parent: int) -> _Server | None:
    """The server, once it has the address; None when the parent has ended meanwhile."""
    host, _, port = address.rpartition(":")
    warned = False
    while os.getppid() == parent:
        try:
            return _Server((host.strip("[]"), int(port)))
        except OSError as error:
            if not warned:
                log.error("metrics cannot be served at %s: %s; trying again", address, error.strerror or error)
                warned = True
            sleep(_RETRY_SECONDS)
    return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._free = threading.BoundedSemaphore(_MOST_SCRAPES)
        super().__init__(address, _Scrape)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up early is no fault of ours."""


class _Scrape(BaseHTTPRequestHandler):
    """One request a connection."""

    timeout = _PATIENCE
    server_version = "antiphon"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"There is only /metrics here.\n")
            return
        try:
            body = exposition()
        except (OSError, ValueError) as error:
            log.error("the metrics cannot be read: %s", error)
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"The metrics cannot be read.\n")
            return
        self._answer(HTTPStatus.OK, CONTENT_TYPE, body)

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes get no line in the log."""
