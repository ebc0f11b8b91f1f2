"""Heartbeat, write timeout and drain of the streams of one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic


def _always() -> bool:
    return True


@dataclass(slots=True)
class Drain:
    """Whether this worker is ending, and how long running streams may still take. `grace` in seconds."""

    grace: float = 20.0
    alive: Callable[[], bool] = _always
    """False from the moment that the worker was told to stop."""
    _since: float | None = field(default=None)

    @property
    def begun(self) -> bool:
        if self._since is None and not self.alive():
            self._since = monotonic()
        return self._since is not None

    @property
    def expired(self) -> bool:
        return self.begun and self._since is not None and monotonic() - self._since >= self.grace


@dataclass(frozen=True, slots=True)
class StreamTiming:
    """Seconds: a comment after `heartbeat` of silence towards the client, who may take nothing for
    `client_write_timeout`. The head of a stream leaves after `header_timeout`, if no upstream has accepted by then."""

    heartbeat: float
    drain: Drain
    client_write_timeout: float = 60.0
    header_timeout: float = 10.0
