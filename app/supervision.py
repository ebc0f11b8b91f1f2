"""Forks processes and keeps some at work beside their parent: they end with it, and one that crashes is replaced, ever
more slowly when it crashes again and again. It knows nothing of what they do.
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
_HEARD = _STOP | {signal.SIGCHLD}
#: Seconds between two looks whether processes that were told to stop have ended.
_GLANCE = 0.05
#: Seconds before the next try after a failure: at first, and at most.
_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
#: Seconds without a failure after which the next one counts as the first.
_STEADY = 60.0
#: The exit code of a process whose end was seen elsewhere.
_UNKNOWN = -1


class Child:
    """A process that shares with its parent what was in memory when it began, until one of them writes to it."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        """It does `work` and ends with it. `name` is what `top` shows."""
        # No signal reaches it while it has the parent's way of taking them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        self.pid = os.fork()
        if self.pid == 0:
            _begin(name, work)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def ended(self) -> int | None:
        """How it has ended: its exit code, below 0 the signal that killed it; None while it is there."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            # Whoever else waits for children of this process has taken the answer.
            return _UNKNOWN
        return os.waitstatus_to_exitcode(status) if pid else None


class Backoff:
    """How long to wait after a failure: ever longer while failures follow one another."""

    def __init__(self) -> None:
        self.pause = _PAUSE
        self._last = -_STEADY
        self._until = 0.0

    @property
    def over(self) -> bool:
        return monotonic() >= self._until

    def add(self) -> None:
        now = monotonic()
        steady = now - self._last >= _STEADY
        self.pause = _PAUSE if steady else min(_LONGEST_PAUSE, self.pause * 2)
        self._last, self._until = now, now + self.pause


class Crew:
    """Some processes of one kind, children of this one; each calls `work` and ends with it."""

    def __init__(self, name: str, work: Callable[[], None], size: int) -> None:
        self.size = size
        self._name = name
        self._work = work
        self._children: list[Child] = []
        self._leaving: list[Child] = []
        """Those that were told to end and have not done so yet."""
        self._crashes = Backoff()

    def tend(self) -> None:
        """Replaces those that have ended; due about once a second."""
        self.bury()
        while len(self._children) < self.size and self._crashes.over:
            self._children.append(Child(self._name, self._work))

    def bury(self) -> None:
        """Takes note of those that have ended."""
        self._leaving = [child for child in self._leaving if child.ended() is None]
        for child in list(self._children):
            code = child.ended()
            if code is not None:
                self._children.remove(child)
                self._crashes.add()
                log.warning("worker %d has ended with status %d", child.pid, code)

    def renew(self) -> None:
        """Those that are there end; others begin at once."""
        for child in self._children:
            child.stop()
        self._leaving += self._children
        self._children = []

    def stop(self) -> None:
        """All of them end, and none follows."""
        self.size = 0
        self.renew()

    def wait(self, seconds: float) -> None:
        """Until those that were told to end have done so, if that is soon enough."""
        until = monotonic() + seconds
        while self._leaving and monotonic() < until:
            sleep(_GLANCE)
            self.bury()


def _begin(name: str, work: Callable[[], None]) -> None:
    """In the new process, which must never get back into what the old one was at."""
    # Not every system has the file.
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        # The last to hear of it: behind this border there is nothing but the exit code.
        log.exception("process %d has crashed", os.getpid())
    finally:
        logging.shutdown()
        os._exit(code)
