"""Keeps processes at work beside another one: they end with it, and one that crashes is replaced, ever more slowly when
it crashes again and again. It knows nothing of what they do.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from time import monotonic

log = logging.getLogger(__name__)

_STOP = frozenset({signal.SIGTERM, signal.SIGINT})
_HEARD = _STOP | {signal.SIGCHLD}
#: Seconds between two looks whether the process beside is still there.
_LOOK = 1.0
#: Seconds before a crashed process is replaced: at first, and at most.
_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
#: Seconds after which one that crashed is taken for one that had worked.
_STEADY = 60.0


class Crew:
    """Some processes of one kind; each calls `work` and ends with it."""

    def __init__(self, work: Callable[[], None], size: int, beside: int) -> None:
        """`beside`: the parent process without which they are of no use."""
        self._work = work
        self._size = size
        self._beside = beside
        self._started: dict[int, float] = {}
        self._pause = _PAUSE
        self._resume = 0.0
        self._stopping = False

    def keep(self) -> None:
        """Until it is told to stop, or the process beside has gone. Returns when all have ended."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        while os.getppid() == self._beside:
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
            pid = os.fork()
            if pid == 0:
                self._begin()
            self._started[pid] = monotonic()

    def _begin(self) -> None:
        """In the new process, which must never get back into the loop of the old one."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
        code = 1
        try:
            self._work()
            code = 0
        except BaseException:
            # The last to hear of it: behind this border there is nothing but the exit code.
            log.exception("worker %d has crashed", os.getpid())
        finally:
            logging.shutdown()
            os._exit(code)

    def _bury(self, first: tuple[int, int] | None = None) -> None:
        pid, status = first or _ended()
        while pid:
            lasted = monotonic() - self._started.pop(pid, 0.0)
            self._pause = _PAUSE if lasted >= _STEADY else min(_LONGEST_PAUSE, self._pause * 2)
            self._resume = monotonic() + self._pause
            if not self._stopping:
                log.warning("worker %d has ended with status %d", pid, os.waitstatus_to_exitcode(status))
            pid, status = _ended()


def _ended() -> tuple[int, int]:
    """Process id and status of a child that has ended; 0 when there is none."""
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0, 0
