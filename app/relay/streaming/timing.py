"""Heartbeat, write timeout and drain of the streams of one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic


def _always() -> bool:
    return True


@dataclass(slots=True)
class Drain:
    """Whether this worker is shutting down, and whether running streams may still continue. `grace` in seconds."""

    grace: float = 20.0
    alive: Callable[[], bool] = _always
    """Returns False once the worker has received its stop signal."""
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
    """Timeouts of streams, in seconds. `heartbeat`: silence towards the client before a comment is sent.
    `client_write_timeout`: how long the client may read nothing. `header_timeout`: how long the head waits for an
    upstream to accept."""

    heartbeat: float
    drain: Drain
    client_write_timeout: float = 60.0
    header_timeout: float = 10.0
