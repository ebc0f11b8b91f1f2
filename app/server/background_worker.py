"""A process that generates background responses and serves no requests: `antiphon worker`, or one beside a server."""

from __future__ import annotations

import logging
import os
import signal

from app import memory
from app.errors import StoreUnavailable
from app.gateway import Gateway, build
from app.last_good import LastGood
from app.server.job_queue import Consumer
from app.tools.servers import preload

_CHECK_SECONDS = 1.0
_STOP = frozenset({signal.SIGTERM, signal.SIGINT})


def work(last: LastGood) -> None:
    """Runs until a stop signal, or until the parent has ended. Running responses may then finish within the drain."""
    # Blocked in all threads, and waited for below: a signal handler could need locks that are held.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    memory.fix_thresholds()
    preload(last.table.current.tools)
    gateway, settings, parent = build(last), last.settings, os.getppid()
    gateway.store.leases.make_background()
    gateway.lease_keeper.start()
    gateway.measures.start(gateway.state)
    gateway.alerts.start()
    gateway.background.start()
    consumer = _consumer(gateway)
    consumer.start()
    logging.getLogger("app").info("this process runs background responses, %d at once", settings.worker_threads)
    while not _must_stop() and os.getppid() == parent:
        consumer.check_threads()
    consumer.end()
    gateway.background.drain(settings.drain)
    gateway.close()


def _must_stop() -> bool:
    """Whether a stop signal has come; waits up to `_CHECK_SECONDS` seconds for one."""
    return signal.sigtimedwait(_STOP, _CHECK_SECONDS) is not None


def _consumer(gateway: Gateway) -> Consumer:
    """Retries while the database does not answer."""
    while True:
        try:
            return gateway.queue.consumer(gateway.background.run, gateway.settings.worker_threads)
        except StoreUnavailable:
            if _must_stop():
                raise
