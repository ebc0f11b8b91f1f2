"""gunicorn's settings and hooks; the names are gunicorn's own. Used as `-c python:app.serving`.

What a deployment chooses (address, workers, threads) comes on the command line from `antiphon serve`.
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
from app.arbiter import SteadyArbiter
from app.errors import ConfigurationError
from app.last_good import LastGood
from app.log import JsonLines, speak
from app.settings import DRAIN_RESERVE
from app.web import Gateway

worker_class = "app.gthread.PatientWorker"
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


def configuration() -> LastGood:
    """What this process serves with. The first start is strict: it ends with 78 when that is not good."""
    last = last_good.kept()
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
    """A master that is told to begin anew (SIGUSR2) loads everything again, however this one was begun: that is a first
    start, and when it is refused the old master goes on.
    """
    server.START_CTX["args"] = [sys.executable, "-P", "-m", "gunicorn", *sys.argv[1:]]
    configuration()
    try:
        SteadyArbiter.take_over(server)
    except ConfigurationError as error:
        _refuse(error)


#: What a master tells its workers, or is told itself, to have them end.
_ENDS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})


def pre_fork(server: Any, worker: Any) -> None:
    """Only here are all workers known: the new one gets the core that the fewest have."""
    taken = Counter(other.core for other in server.WORKERS.values())
    cores = _cores()
    # Two gateways on one machine should not begin with the same core.
    first = server.pid % len(cores)
    worker.served = server.served
    worker.core = min(cores[first:] + cores[:first], key=taken.__getitem__)


def post_fork(server: Any, worker: Any) -> None:
    """Until it takes signals itself, the new worker puts them where the master would look for its own."""
    worker.missed = server.SIG_QUEUE
    memory.fix_thresholds()


def when_ready(server: Any) -> None:
    """The master listens, and is about to fork its first worker."""
    server.note_sockets()
    _share()


def _share() -> None:
    """All that is loaded by now is shared with every process forked from here on, for as long as none writes to it. The
    collector would, in every process, as it marks what it walks over. `antiphon serve` has it disabled until now.
    """
    gc.freeze()
    gc.enable()


def post_worker_init(worker: Any) -> None:
    """The worker is about to serve: the running streams learn from it when it has to end."""
    gateway = _gateway(worker)
    _pin(worker, gateway.settings.pin)
    _take_turns()
    gateway.drain.grace = float(max(0, worker.cfg.graceful_timeout - DRAIN_RESERVE))
    gateway.drain.alive = lambda: worker.alive
    gateway.start()
    # What is there now stays: the collector need not walk over it, which would stop every stream for 12 ms.
    gc.collect()
    gc.freeze()
    worker.served[0] = 1
    _heed(worker)


def worker_exit(server: Any, worker: Any) -> None:
    """After the last request: what still waits to be written is written."""
    if getattr(worker, "wsgi", None) is not None:
        _gateway(worker).close()


def _heed(worker: Any) -> None:
    """A worker that was told to end before it could hear it would be waited for, and killed in the end."""
    while not worker.missed.empty():
        if worker.missed.get() in _ENDS:
            worker.alive = False


class logger_class(glogging.Logger):  # type: ignore[misc]
    """gunicorn's lines and ours, on one stream: set up before the first worker, so that all of them speak alike."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        log = configuration().settings.log
        speak(log)
        if log == "json":
            for theirs in self.error_log.handlers:
                theirs.setFormatter(JsonLines())


def _pin(worker: Any, wish: str) -> None:
    """A worker's threads take turns with the interpreter, and each turn that changes cores costs twice as much."""
    if wish == "on" or (wish == "auto" and worker.cfg.workers <= len(_cores())):
        # Not every system has the call, and a sandbox may not allow it.
        with suppress(AttributeError, OSError):
            os.sched_setaffinity(0, {worker.core})


def _take_turns() -> None:
    """A thread that wakes up does not push another one of them aside: that one has the interpreter, so whoever took its
    core would only go back to waiting for it.
    """
    # Not every system has the call, and a sandbox may not allow it.
    with suppress(AttributeError, OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _cores() -> list[int]:
    """Those that this process may use. Not every system tells, or lets itself be told."""
    try:
        return sorted(os.sched_getaffinity(0))
    except AttributeError:
        return list(range(os.cpu_count() or 1))


def _gateway(worker: Any) -> Gateway:
    gateway: Gateway = worker.wsgi.extensions["antiphon"]
    return gateway
