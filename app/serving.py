"""gunicorn's settings and hooks; the names are gunicorn's own. Used as `-c python:app.serving`.

What a deployment chooses (address, workers, threads) comes on the command line from `antiphon serve`.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from types import FrameType
from typing import Any

from app.settings import load_settings
from app.web import Gateway

worker_class = "gthread"
#: A heartbeat of the worker's main thread, not a limit on requests: those have their own.
timeout = 60
#: Running streams may finish within this; what then still runs is ended by us, with a terminal event, just before.
graceful_timeout = 25
#: Longer than a proxy in front keeps an idle connection, or it would write into one that is being closed.
keepalive = 75
#: Recycling would cut long streams: a worker is replaced by a restart only.
max_requests = 0
preload_app = False
worker_tmp_dir = "/dev/shm"  # noqa: S108 - the heartbeat file must not wait for a disk
control_socket_disable = True
forwarded_allow_ips = "127.0.0.1"
accesslog = None
#: Streams are told to end this many seconds before gunicorn would kill them.
DRAIN_RESERVE = 5


#: The process that keeps the workers for background responses, where there is one. It is a child of the master.
_crew: list[subprocess.Popen[bytes]] = []


def when_ready(server: Any) -> None:
    """The master is about to serve: workers for background responses begin beside it, and are told to stop with it."""
    settings = load_settings()
    if settings.worker_processes == 0:
        return
    command = [sys.executable, "-P", "-m", "app.cli", "worker", "--beside", str(os.getpid())]
    _crew.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))  # noqa: S603 - nothing from outside
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, lambda number, frame: _stop(server, number, frame))


def on_exit(server: Any) -> None:
    """The master ends last: systemd would kill what is left then."""
    for crew in _crew:
        with suppress(subprocess.TimeoutExpired):
            crew.wait(server.cfg.graceful_timeout + DRAIN_RESERVE)


def _stop(server: Any, number: int, frame: FrameType | None) -> None:
    for crew in _crew:
        with suppress(ProcessLookupError):
            crew.send_signal(signal.SIGTERM)
    server.signal(number, frame)


def post_worker_init(worker: Any) -> None:
    """The worker is about to serve: the running streams learn from it when it has to end."""
    speak()
    gateway = _gateway(worker)
    gateway.drain.grace = float(max(0, worker.cfg.graceful_timeout - DRAIN_RESERVE))
    gateway.drain.alive = lambda: worker.alive
    gateway.start()


def worker_exit(server: Any, worker: Any) -> None:
    """After the last request: what still waits to be written is written."""
    if getattr(worker, "wsgi", None) is not None:
        _gateway(worker).close()


def speak() -> None:
    """Our own log beside gunicorn's, on the same stream; of what the queue says only what is wrong."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("[%(asctime)s] [%(process)d] [%(levelname)s] %(name)s: %(message)s"))
    for name, level in (("app", logging.INFO), ("huey", logging.WARNING)):
        log = logging.getLogger(name)
        log.addHandler(handler)
        log.setLevel(level)
        log.propagate = False


def _gateway(worker: Any) -> Gateway:
    gateway: Gateway = worker.wsgi.extensions["antiphon"]
    return gateway
