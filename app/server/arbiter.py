"""gunicorn's master. It survives workers that fail to start, and also runs the workers for background responses."""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic, sleep
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from app import last_good
from app.errors import ConfigurationError, StoreUnavailable
from app.gateway import open_measures
from app.last_good import LastGood
from app.metrics import files
from app.metrics.measures import OFF
from app.server import background_worker
from app.server.processes import Backoff, Supervisor
from app.settings import DRAIN_RESERVE, Settings
from app.tools.servers import preload

log = logging.getLogger(__name__)

#: Seconds for which a start waits for others on sockets in the same directory, and between two looks.
_LOCK_WITHIN = 10.0
_LOCK_RETRY = 0.02


class SteadyArbiter(Arbiter):  # type: ignore[misc]
    """After a worker has served once, a later worker that fails to start does not end the gateway: the master retries
    with growing pauses. SIGHUP with a bad configuration leaves the workers as they are.
    """

    supervisor: Supervisor
    metrics_server: Supervisor
    """The process that serves `/metrics` on an address of its own."""
    socket_locks: list[int]
    """Descriptors that are held from the check of the unix sockets until they listen."""
    served: mmap.mmap
    """One byte of shared memory: whether any worker has been ready to serve."""

    @classmethod
    def take_over(cls, server: Any) -> None:
        """Turns gunicorn's own `server` into a SteadyArbiter. Raises ConfigurationError."""
        server.__class__ = cls
        server.served = mmap.mmap(-1, 1)
        server.supervisor = Supervisor("antiphon-worker", server.work_in_background, 0, forget_counts)
        server.metrics_server = Supervisor("antiphon-scrape", server.serve_metrics, 0, forget_counts)
        server.failures = Backoff()
        server.own_files = {}
        server.settle()
        server.socket_locks = []
        if "GUNICORN_FD" not in os.environ:
            for address in server.cfg.address:
                server.socket_locks += lock_directory(address)
                check_unix_socket(address)

    def settle(self) -> None:
        """Values of the command line override the variables."""
        last = self.last
        last.settings = replace(last.settings, workers=self.cfg.workers, threads=self.cfg.threads)
        self.supervisor.size = last.settings.worker_processes
        self.metrics_server.size = int(bool(last.settings.metrics_bind) and prepare_metrics(last.settings))

    @property
    def last(self) -> LastGood:
        last = last_good.current()
        assert last is not None
        return last

    # --- workers

    def manage_workers(self) -> None:
        """Called about once a second."""
        try:
            self.last.table.poll()
            preload(self.last.table.current.tools)
            self.supervisor.start_missing()
            self.metrics_server.start_missing()
        except Exception:
            # The border that must not die: an exception here would end every worker.
            log.exception("the master failed to check its files and processes")
        try:
            super().manage_workers()
        except OSError as error:
            # No memory or no file descriptor for another process; the running workers continue.
            self._failed_to_start(error)

    def spawn_workers(self) -> None:
        if self.failures.over:
            super().spawn_workers()

    def reap_workers(self) -> None:
        self.supervisor.reap()
        self.metrics_server.reap()
        before = dict(self.WORKERS)
        while True:
            try:
                super().reap_workers()
                return
            except HaltServer as error:
                self._failed_to_start(error)
                for pid in before.keys() - self.WORKERS.keys():
                    before[pid].tmp.close()

    def _failed_to_start(self, error: Exception) -> None:
        """Raises `error` while no worker has served yet."""
        if not self.served[0]:
            raise error
        self.failures.add()
        log.error("a worker could not be started: %s; next retry in %.1f s", error, self.failures.pause)

    def work_in_background(self) -> None:
        """The work of a background worker. It closes the listening sockets, or they would accept connections without a
        server.
        """
        for listener in self.LISTENERS:
            listener.close()
        background_worker.work(self.last)

    def serve_metrics(self) -> None:
        """The work of the process that serves `/metrics`."""
        from app.server import metrics_listener

        for listener in self.LISTENERS:
            listener.close()
        metrics_listener.work(self.last.settings.metrics_bind)

    # --- reloading and ending

    def reload(self) -> None:
        try:
            candidate = last_good.load(last_good.check_successor)
        except (ConfigurationError, StoreUnavailable) as error:
            log.error("the configuration is not reloaded, the workers continue with the old one:\n%s", error.message)
            return
        except Exception:
            # The border that must not die: a fault in reading a configuration would end the gateway.
            log.exception("the configuration is not reloaded, the workers continue with the old one")
            return
        before = self.last.settings
        # A new address needs a restart: if it were in use, the old address would be closed already.
        candidate.settings = replace(candidate.settings, bind=before.bind)
        prepare_metrics(candidate.settings)
        last_good.keep(candidate)
        try:
            super().reload()
        except SystemExit:
            if os.getpid() != self.pid:
                # This is a worker that super().reload() has forked.
                raise
            self.app.cfg = self.cfg
            log.error("gunicorn's own configuration cannot be read, the workers continue with the old one")
        self.settle()
        self.supervisor.renew()
        if self.last.settings != before:
            self.metrics_server.renew()

    def stop(self, graceful: bool = True) -> None:
        until = monotonic() + self.cfg.graceful_timeout + DRAIN_RESERVE
        self.supervisor.stop()
        self.metrics_server.stop()
        self.LISTENERS = list(self._still_ours())
        super().stop(graceful)
        # The master ends last: systemd kills the processes that are left when it ends.
        self.supervisor.wait(until - monotonic())
        self.metrics_server.wait(until - monotonic())

    def note_sockets(self) -> None:
        """Remembers the files of the listening unix sockets. Checks by other servers find them in use from now on."""
        while self.socket_locks:
            os.close(self.socket_locks.pop())
        for listener in self.LISTENERS:
            if path := _path(listener):
                self.own_files[path] = _identity(path)

    def _still_ours(self) -> Iterator[Any]:
        """The sockets whose file is still the one of this server. gunicorn removes the file by its name, which may be
        another server's by now; such a socket is only closed.
        """
        for listener in self.LISTENERS:
            path = _path(listener)
            if path and self.own_files.get(path) != _identity(path):
                listener.close()
            else:
                yield listener


# --- metrics ----------------------------------------------------------------------------------------------------


def prepare_metrics(settings: Settings) -> bool:
    """Makes the directory of the metrics, and imports their library, before any process is forked that needs them.
    Whether metrics are on.
    """
    return open_measures(settings) is not OFF


def forget_counts(pid: int) -> None:
    """Keeps what an ended process has counted."""
    files.forget(pid)


# --- unix sockets -----------------------------------------------------------------------------------------------


def check_unix_socket(address: object) -> None:
    """Raises ConfigurationError when a server listens there already. The file of a dead server does not matter."""
    if not isinstance(address, str):
        return
    if not address.startswith("\0") and (mode := _mode(address)) and not stat.S_ISSOCK(mode):
        raise ConfigurationError(f"{address} exists and is not a socket", "choose another path for the socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        if probe.connect_ex(address) not in (0, errno.EAGAIN):
            return
    shown = address.replace("\0", "@")
    raise ConfigurationError(f"unix:{shown} is in use", "stop the program that listens there, or choose another path")


def lock_directory(address: object) -> list[int]:
    """A descriptor that locks the directory of a unix socket, so that of several servers which start at the same moment
    only one creates the socket. A directory that cannot be locked is no reason not to start.
    """
    if not isinstance(address, str) or address.startswith("\0"):
        return []
    try:
        directory = os.open(os.path.dirname(os.path.abspath(address)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return []
    until = monotonic() + _LOCK_WITHIN
    while not _locked(directory) and monotonic() < until:
        sleep(_LOCK_RETRY)
    return [directory]


def _locked(directory: int) -> bool:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _mode(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"cannot listen on unix:{path}: {error.strerror}", "check --bind") from error


def _path(listener: Any) -> str | None:
    """The path of a unix socket; None for other sockets."""
    name = listener.getsockname()
    return name if isinstance(name, str) and name and not name.startswith("\0") else None


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
