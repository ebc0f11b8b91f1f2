"""What a worker does beside its requests: it says that it lives and how its channels fare, ends what dead workers left,
and hears of cancels.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from time import monotonic

from app.contract.records import ChannelStatus
from app.errors import StoreUnavailable
from app.store.store import Store

log = logging.getLogger(__name__)

#: How often running streams are compared with their rows: within this, one that was ended elsewhere stops, and what
#: has changed with a channel is told.
CHECK_SECONDS = 1.0
#: How long a worker that ends waits for the ends that are still to be written.
LAST_TRY = 2.0


class RunningStreams:
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


class LeaseKeeper:
    """One thread a worker. It must not die: what the database refuses now is tried again at the next tick."""

    def __init__(
        self,
        store: Store,
        running: RunningStreams,
        status: Callable[[], Sequence[ChannelStatus]],
        housekeeping: Callable[[], None],
        tidy: Callable[[], None],
    ) -> None:
        """`housekeeping` is called now and then, by some worker or other; `tidy` at every tick, by each."""
        self._store = store
        self._running = running
        self._status = status
        self._housekeeping = housekeeping
        self._tidy = tidy
        self._last_status: Sequence[ChannelStatus] | None = None
        self._reaps_from = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(CHECK_SECONDS)
            self._store.unwritten.drain(LAST_TRY)
            self._end_lease()

    def look(self) -> None:
        """Stops the streams whose rows were ended elsewhere."""
        before = self._running.ids()
        if before:
            for response_id in before - self._store.reaper.running():
                self._running.stop(response_id)

    def _run(self) -> None:
        every = max(CHECK_SECONDS, self._store.leases.lease / 4)
        since_renewal = every * random.random()  # noqa: S311 - workers that started together should not tick together
        while not self._ended.wait(CHECK_SECONDS):
            since_renewal += CHECK_SECONDS
            self._tidy()
            self._store.unwritten.retry()
            try:
                self.look()
                if since_renewal >= every:
                    self._renew(self._status())
                    since_renewal = 0.0
                    self._reap()
                    self._housekeeping()
                elif (status := self._status()) != self._last_status:
                    self._renew(status)
            except StoreUnavailable as error:
                log.warning("the lease of this worker could not be renewed: %s", error.message)
                # The others could not renew theirs either: a lease that has ended says nothing before they had time to.
                self._reaps_from = monotonic() + self._store.leases.lease

    def _renew(self, status: Sequence[ChannelStatus]) -> None:
        self._store.leases.extend(status)
        self._last_status = status

    def _end_lease(self) -> None:
        """Nobody shall take this worker for a living one until its lease runs out."""
        try:
            self._store.leases.end()
        except StoreUnavailable as error:
            log.warning("the lease of this worker could not be ended: %s", error.message)

    def _reap(self) -> None:
        if monotonic() >= self._reaps_from and (failed := self._store.reaper.reap()):
            log.warning("%d responses of a worker that is gone were ended", failed)
        if failed := self._store.reaper.reap_own(self._running.ids()):
            log.warning("%d responses that this worker does not know were ended", failed)
