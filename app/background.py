"""A process that makes background responses and serves nobody: `antiphon worker`, or one of those beside a server."""

from __future__ import annotations

import logging
import os
import signal
import threading

from app import memory
from app.composition import build
from app.errors import StoreUnavailable
from app.queue import Consumer
from app.settings import Settings
from app.web import Gateway

_TEND = 1.0


def work(settings: Settings) -> None:
    """Until it is told to stop or its parent has gone; then what runs may finish within the drain."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    memory.fix_thresholds()
    gateway, parent = build(settings), os.getppid()
    gateway.keeper.start()
    gateway.background.start()
    consumer = _consumer(gateway, stopping)
    consumer.start()
    logging.getLogger("app").info("background responses are made here, %d at once", settings.worker_threads)
    while not stopping.wait(_TEND) and os.getppid() == parent:
        consumer.tend()
    consumer.end()
    gateway.background.drain(settings.drain)
    gateway.close()


def _consumer(gateway: Gateway, stopping: threading.Event) -> Consumer:
    """Waits for a database that is away."""
    while True:
        try:
            return gateway.queue.consumer(gateway.background.run, gateway.settings.worker_threads)
        except StoreUnavailable:
            if stopping.wait(_TEND):
                raise
