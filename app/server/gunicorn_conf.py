"""gunicorn's settings and hooks; the names are gunicorn's own. Used as `-c python:app.server.gunicorn_conf`.

`antiphon serve` passes the address, the workers and the threads of a deployment on the command line.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections import Counter
from contextlib import suppress
from typing import Any, NoReturn

from gunicorn import glogging

from app import last_good, memory
from app.errors import ConfigurationError
from app.gateway import Gateway
from app.last_good import LastGood
from app.log import JsonLines, configure_logging
from app.metrics import files
from app.server.arbiter import SteadyArbiter, forget_counts, prepare_metrics
from app.settings import DRAIN_RESERVE
from app.tools.servers import preload

worker_class = "app.server.gunicorn_worker.PatientWorker"
#: Seconds without a heartbeat of a worker's main thread. It does not limit requests, which have their own timeouts.
timeout = 60
#: Seconds for running requests to finish. The gateway ends the rest just before, with a terminal event.
graceful_timeout = 25
#: Longer than the idle timeout of a proxy in front, which could otherwise write into a connection being closed.
keepalive = 75
#: No recycling, which would cut long streams: only a restart replaces a worker.
max_requests = 0
preload_app = False
worker_tmp_dir = "/dev/shm"  # noqa: S108 - the heartbeat file must not wait for a disk
control_socket_disable = True
forwarded_allow_ips = "127.0.0.1"
#: Header names with an underscore that gunicorn does not drop when they come from this machine. Older versions of Codex
#: name their session with this one, which grants nothing. gunicorn's own default would let clients set `PATH_INFO`.
forwarder_headers = "SESSION_ID"
accesslog = None


def configuration() -> LastGood:
    """The last good configuration of this process. The first start is strict: a bad one ends it with exit code 78."""
    last = last_good.current()
    if last is None:
        try:
            last = last_good.load(last_good.check_first)
        except ConfigurationError as error:
            _refuse(error)
        last_good.keep(last)
    return last


def _refuse(error: ConfigurationError) -> NoReturn:
    print(f"antiphon: {error.message}\n  {error.fix}", file=sys.stderr)
    sys.exit(error.exit_code)


def on_starting(server: Any) -> None:
    """Sets the command for SIGUSR2, with which the new master loads everything again, like a first start. When the new
    master refuses its configuration, the old one continues.
    """
    server.START_CTX["args"] = [sys.executable, "-P", "-m", "gunicorn", *sys.argv[1:]]
    preload(configuration().table.current.tools)
    prepare_metrics(configuration().settings)
    try:
        SteadyArbiter.take_over(server)
    except ConfigurationError as error:
        _refuse(error)


#: The signals that end a worker.
_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})


def pre_fork(server: Any, worker: Any) -> None:
    """Gives the new worker the core that the fewest workers have. Only the master knows them all."""
    taken = Counter(other.core for other in server.WORKERS.values())
    cores = _cores()
    # Two gateways on one machine should start with different cores.
    first = server.pid % len(cores)
    worker.served = server.served
    worker.core = min(cores[first:] + cores[:first], key=taken.__getitem__)


def post_fork(server: Any, worker: Any) -> None:
    """The new worker still has the master's signal handlers: its first signals land in the master's queue."""
    worker.missed = server.SIG_QUEUE
    memory.fix_thresholds()


def when_ready(server: Any) -> None:
    """The master listens and will fork its first worker next."""
    server.note_sockets()
    _freeze_heap()


def _freeze_heap() -> None:
    """Keeps the imported modules in memory that all forked processes share. Without the freeze, the garbage collector
    of each process would write into these pages. `antiphon serve` has disabled the collector until now.
    """
    gc.freeze()
    gc.enable()


def post_worker_init(worker: Any) -> None:
    """The worker will serve next. Its streams learn from `drain` when it has to end."""
    gateway = _gateway(worker)
    _pin(worker, gateway.settings.pin)
    _use_batch_scheduling()
    gateway.drain.grace = float(max(0, worker.cfg.graceful_timeout - DRAIN_RESERVE))
    gateway.drain.alive = lambda: worker.alive
    gateway.start()
    # These objects live as long as the worker. A collection that walks over them would stop every stream for 12 ms.
    gc.collect()
    gc.freeze()
    worker.served[0] = 1
    _take_missed_signals(worker)


def child_exit(server: Any, worker: Any) -> None:
    """The master has waited for an ended worker."""
    forget_counts(worker.pid)


def on_exit(server: Any) -> None:
    """The master ends."""
    files.remove()


def worker_exit(server: Any, worker: Any) -> None:
    """After the last request: writes the rows that still wait."""
    if getattr(worker, "wsgi", None) is not None:
        _gateway(worker).close()


def _take_missed_signals(worker: Any) -> None:
    """Obeys a stop signal that came before the worker had its own handlers; the master would wait, then kill it."""
    while not worker.missed.empty():
        if worker.missed.get() in _STOP_SIGNALS:
            worker.alive = False


class logger_class(glogging.Logger):  # type: ignore[misc]
    """Puts gunicorn's lines and ours on one stream, in one form. The master sets it up before the first worker."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        log = configuration().settings.log
        configure_logging(log)
        if log == "json":
            for handler in self.error_log.handlers:
                handler.setFormatter(JsonLines())


def _pin(worker: Any, mode: str) -> None:
    """Binds the worker to its core. Its threads take turns with the interpreter, and a turn on another core costs twice
    as much.
    """
    if mode == "on" or (mode == "auto" and worker.cfg.workers <= len(_cores())):
        # Not every system has the call, and a sandbox may not allow it.
        with suppress(AttributeError, OSError):
            os.sched_setaffinity(0, {worker.core})


def _use_batch_scheduling() -> None:
    """A thread that wakes up does not preempt a running thread of this process: that one holds the interpreter, so the
    new one could only wait for it.
    """
    # Not every system has the call, and a sandbox may not allow it.
    with suppress(AttributeError, OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _cores() -> list[int]:
    """The cores that this process may use. Not every system has the call."""
    try:
        return sorted(os.sched_getaffinity(0))
    except AttributeError:
        return list(range(os.cpu_count() or 1))


def _gateway(worker: Any) -> Gateway:
    gateway: Gateway = worker.wsgi.extensions["antiphon"]
    return gateway
