"""Forks child processes and replaces those that end, with growing pauses while they crash. The children end with their
parent. This module does not know what they do.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

log = logging.getLogger(__name__)

_STOP = frozenset({signal.SIGTERM, signal.SIGINT})
_WATCHED_SIGNALS = _STOP | {signal.SIGCHLD}
#: Seconds between two checks whether stopped processes have ended.
_POLL_SECONDS = 0.05
#: Seconds before the retry after a failure: the first pause, and the longest.
_RESTART_DELAY, _LONGEST_RESTART_DELAY = 0.5, 30.0
#: Seconds without a failure after which the next one counts as the first.
_STEADY_SECONDS = 60.0
#: The exit code of a process that another part of the program has waited for.
_UNKNOWN = -1


class Child:
    """A forked process. It shares the parent's memory until one of them writes to a page."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        """The process calls `work` and ends when it returns. `name` is the name that `top` shows."""
        # The child must get no signal while it still has the parent's handlers.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED_SIGNALS)
        self.pid = os.fork()
        if self.pid == 0:
            _begin(name, work)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def ended(self) -> int | None:
        """The exit code; below 0 the signal that killed the process; None while it runs."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            # Another part of this process waits for children as well, and has taken the status.
            return _UNKNOWN
        return os.waitstatus_to_exitcode(status) if pid else None


class Backoff:
    """The pause after a failure. It doubles while failures follow one another."""

    def __init__(self) -> None:
        self.pause = _RESTART_DELAY
        self._last = -_STEADY_SECONDS
        self._until = 0.0

    @property
    def over(self) -> bool:
        return monotonic() >= self._until

    def add(self) -> None:
        now = monotonic()
        steady = now - self._last >= _STEADY_SECONDS
        self.pause = _RESTART_DELAY if steady else min(_LONGEST_RESTART_DELAY, self.pause * 2)
        self._last, self._until = now, now + self.pause


class Supervisor:
    """`size` child processes of one kind; each calls `work`."""

    def __init__(
        self, name: str, work: Callable[[], None], size: int, on_end: Callable[[int], None] | None = None
    ) -> None:
        """`on_end` is called with the process id of each child that has ended."""
        self.size = size
        self._on_end = on_end
        self._name = name
        self._work = work
        self._children: list[Child] = []
        self._leaving: list[Child] = []
        """Stopped children that have not ended yet."""
        self._crashes = Backoff()

    def start_missing(self) -> None:
        """Replaces children that have ended. Call it about once a second."""
        self.reap()
        while len(self._children) < self.size and self._crashes.over:
            self._children.append(Child(self._name, self._work))

    def reap(self) -> None:
        """Removes children that have ended from the lists, and logs them."""
        for child in list(self._leaving):
            if child.ended() is not None:
                self._leaving.remove(child)
                self._ended(child)
        for child in list(self._children):
            code = child.ended()
            if code is not None:
                self._children.remove(child)
                self._ended(child)
                self._crashes.add()
                log.warning("worker %d has ended with status %d", child.pid, code)

    def _ended(self, child: Child) -> None:
        if self._on_end is not None:
            self._on_end(child.pid)

    def renew(self) -> None:
        """Stops the present children. `start_missing` starts new ones at once."""
        for child in self._children:
            child.stop()
        self._leaving += self._children
        self._children = []

    def stop(self) -> None:
        """Stops all children and starts no others."""
        self.size = 0
        self.renew()

    def wait(self, seconds: float) -> None:
        """Waits until all stopped children have ended, at most so many seconds."""
        deadline = monotonic() + seconds
        while self._leaving and monotonic() < deadline:
            sleep(_POLL_SECONDS)
            self.reap()


def _begin(name: str, work: Callable[[], None]) -> None:
    """Runs in the child, which must never return into the parent's code."""
    # Not every system has the file.
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED_SIGNALS)
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        # The last border of the process: after it there is only the exit code.
        log.exception("process %d has crashed", os.getpid())
    finally:
        logging.shutdown()
        os._exit(code)
