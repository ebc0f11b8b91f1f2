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
#: Seconds between two looks whether the process beside is still there.
_LOOK = 1.0
#: Seconds between two looks whether a process that was told to stop has ended.
_GLANCE = 0.05
#: Seconds before a crashed process is replaced: at first, and at most.
_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
#: Seconds after which one that crashed is taken for one that had worked.
_STEADY = 60.0


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
        if self._is_there():
            os.kill(self.pid, signal.SIGTERM)

    def wait(self, seconds: float) -> None:
        """Until it has ended, if that is soon enough."""
        until = monotonic() + seconds
        while self._is_there() and monotonic() < until:
            sleep(_GLANCE)

    def _is_there(self) -> bool:
        """As far as its parent may know; somebody else may have asked for how it ended."""
        try:
            return os.waitpid(self.pid, os.WNOHANG)[0] == 0
        except ChildProcessError:
            return False


class Crew:
    """Some processes of one kind; each calls `work` and ends with it."""

    def __init__(self, name: str, work: Callable[[], None], size: int) -> None:
        self._name = name
        self._work = work
        self._size = size
        self._started: dict[int, float] = {}
        self._pause = _PAUSE
        self._resume = 0.0
        self._stopping = False

    def keep(self, beside: int) -> None:
        """Until it is told to stop, or the parent `beside` has gone, without which they are of no use. Returns when all
        have ended.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        while os.getppid() == beside:
            self._fill()
            heard = signal.sigtimedwait(_HEARD, _LOOK)
            self._bury()
            if heard is not None and heard.si_signo in _STOP:
                break
        self._stopping = True
        for pid in self._started:
            os.kill(pid, signal.SIGTERM)
        while self._started:
            self._bury(os.waitpid(-1, 0))

    def _fill(self) -> None:
        while len(self._started) < self._size and monotonic() >= self._resume:
            self._started[Child(self._name, self._work).pid] = monotonic()

    def _bury(self, first: tuple[int, int] | None = None) -> None:
        pid, status = first or _ended()
        while pid:
            lasted = monotonic() - self._started.pop(pid, 0.0)
            self._pause = _PAUSE if lasted >= _STEADY else min(_LONGEST_PAUSE, self._pause * 2)
            self._resume = monotonic() + self._pause
            if not self._stopping:
                log.warning("worker %d has ended with status %d", pid, os.waitstatus_to_exitcode(status))
            pid, status = _ended()


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


def _ended() -> tuple[int, int]:
    """Process id and status of a child that has ended; 0 when there is none."""
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0, 0
