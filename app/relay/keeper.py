"""What a worker does beside its requests: it says that it lives and how its channels fare, ends what dead workers left,
and hears of cancels.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Collection, Sequence
from time import monotonic
from typing import Protocol

from app.errors import StoreUnavailable
from app.records import ChannelStatus

log = logging.getLogger(__name__)

#: How often running streams are compared with their rows: within this, one that was ended elsewhere stops, and what
#: has changed with a channel is told.
LOOK_SECONDS = 1.0
#: How long a worker that ends waits for the ends that are still to be written.
LAST_TRY = 2.0


class Leases(Protocol):
    @property
    def lease(self) -> int:
        """Seconds for which a worker is believed to live after it last said so."""
        ...

    def renew_lease(self, status: Sequence[ChannelStatus]) -> None: ...

    def end_lease(self) -> None: ...

    def reap(self) -> int:
        """Fails the responses of workers whose lease has ended; how many."""
        ...

    def reap_own(self, known: Collection[str]) -> int:
        """Fails what this worker holds and has not known for a lease; how many."""
        ...

    def retry_ends(self) -> None:
        """Tries to write the ends that the store could not take; returns at once."""
        ...

    def drain_ends(self, seconds: float) -> None:
        """Returns when all of them are written, or after that time."""
        ...

    def running(self) -> set[str]:
        """Ids of this worker's responses that are still in progress."""
        ...


class Running:
    """The streams of this worker whose rows are in progress, and how each is stopped. A response is added after the
    commit that makes it this worker's, never before: a row that is not in progress counts as ended elsewhere.
    """

    def __init__(self) -> None:
        self._streams: dict[str, Callable[[], None]] = {}
        self._lock = threading.Lock()

    def add(self, response_id: str, stop: Callable[[], None]) -> None:
        with self._lock:
            self._streams[response_id] = stop

    def remove(self, response_id: str) -> None:
        with self._lock:
            self._streams.pop(response_id, None)

    def ids(self) -> set[str]:
        with self._lock:
            return set(self._streams)

    def stop(self, response_id: str) -> None:
        with self._lock:
            stop = self._streams.get(response_id)
        if stop is not None:
            stop()


class Keeper:
    """One thread a worker. It must not die: what the database refuses now is tried again at the next tick."""

    def __init__(
        self,
        leases: Leases,
        running: Running,
        status: Callable[[], Sequence[ChannelStatus]],
        tend: Callable[[], None],
        tidy: Callable[[], None],
    ) -> None:
        """`tend` is called now and then, by some worker or other; `tidy` at every tick, by each."""
        self._leases = leases
        self._running = running
        self._status = status
        self._tend = tend
        self._tidy = tidy
        self._told: Sequence[ChannelStatus] | None = None
        self._reaps_from = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(LOOK_SECONDS)
            self._leases.drain_ends(LAST_TRY)
            self._leave()

    def look(self) -> None:
        """Stops the streams whose rows were ended elsewhere."""
        before = self._running.ids()
        if before:
            for response_id in before - self._leases.running():
                self._running.stop(response_id)

    def _run(self) -> None:
        every = max(LOOK_SECONDS, self._leases.lease / 4)
        since_renewal = every * random.random()  # noqa: S311 - workers that started together should not tick together
        while not self._ended.wait(LOOK_SECONDS):
            since_renewal += LOOK_SECONDS
            self._tidy()
            self._leases.retry_ends()
            try:
                self.look()
                if since_renewal >= every:
                    self._renew(self._status())
                    since_renewal = 0.0
                    self._reap()
                    self._tend()
                elif (status := self._status()) != self._told:
                    self._renew(status)
            except StoreUnavailable as error:
                log.warning("the lease of this worker could not be renewed: %s", error.message)
                # The others could not renew theirs either: a lease that has ended says nothing before they had time to.
                self._reaps_from = monotonic() + self._leases.lease

    def _renew(self, status: Sequence[ChannelStatus]) -> None:
        self._leases.renew_lease(status)
        self._told = status

    def _leave(self) -> None:
        """Nobody shall take this worker for a living one until its lease runs out."""
        try:
            self._leases.end_lease()
        except StoreUnavailable as error:
            log.warning("the lease of this worker could not be ended: %s", error.message)

    def _reap(self) -> None:
        if monotonic() >= self._reaps_from and (failed := self._leases.reap()):
            log.warning("%d responses of a worker that is gone were ended", failed)
        if failed := self._leases.reap_own(self._running.ids()):
            log.warning("%d responses that this worker does not know were ended", failed)
