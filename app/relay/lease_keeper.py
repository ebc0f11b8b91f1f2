"""The regular tasks of a worker: it renews its lease, reports the state of its channels, ends the responses of dead
workers, and stops streams that were cancelled elsewhere.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from time import monotonic

from app.contract.records import ChannelStatus
from app.errors import StoreUnavailable
from app.metrics.measures import OFF, Measures
from app.store.store import Store

log = logging.getLogger(__name__)

#: Seconds between two checks of the running streams. Within this time a stream that was ended elsewhere stops, and a
#: channel's change of state is reported.
CHECK_SECONDS = 1.0
#: Seconds that a worker in shutdown waits for pending writes.
DRAIN_SECONDS = 2.0


class RunningStreams:
    """The streams of this worker whose rows are in progress, and a stop function for each. Add a response only after
    its commit: a response without a row in progress counts as ended elsewhere.
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
    """One thread a worker. It must not die: a database error is retried at the next tick."""

    def __init__(
        self,
        store: Store,
        running: RunningStreams,
        status: Callable[[], Sequence[ChannelStatus]],
        housekeeping: Callable[[], None],
        refresh: Callable[[], None],
        tidy: Callable[[], None],
        measures: Measures = OFF,
    ) -> None:
        """`housekeeping` runs at each renewal of the lease; `tidy` and `refresh` at every tick. All but `tidy` may
        raise StoreUnavailable."""
        self._store = store
        self._running = running
        self._status = status
        self._housekeeping = housekeeping
        self._refresh = refresh
        self._tidy = tidy
        self._measures = measures
        self._last_status: Sequence[ChannelStatus] | None = None
        self._reap_after = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(CHECK_SECONDS)
            self._store.unwritten.drain(DRAIN_SECONDS)
            self._end_lease()

    def stop_ended(self) -> None:
        """Stops the streams whose rows were ended elsewhere."""
        before = self._running.ids()
        if before:
            for response_id in before - self._store.reaper.running():
                self._running.stop(response_id)

    def _run(self) -> None:
        interval = max(CHECK_SECONDS, self._store.leases.lease / 4)
        since_renewal = interval * random.random()  # noqa: S311 - spreads workers that started together
        while not self._ended.wait(CHECK_SECONDS):
            since_renewal += CHECK_SECONDS
            self._tidy()
            self._store.unwritten.retry()
            try:
                self.stop_ended()
                self._refresh()
                if since_renewal >= interval:
                    self._renew(self._status())
                    since_renewal = 0.0
                    self._reap()
                    self._housekeeping()
                elif (status := self._status()) != self._last_status:
                    self._renew(status)
            except StoreUnavailable as error:
                log.warning("database error: the lease of this worker could not be renewed: %s", error.message)
                # Other workers could not renew theirs either. An expired lease means nothing until they had time to.
                self._reap_after = monotonic() + self._store.leases.lease

    def _renew(self, status: Sequence[ChannelStatus]) -> None:
        self._store.leases.renew(status)
        self._last_status = status

    def _end_lease(self) -> None:
        """Ends the lease at once, so that this worker does not count as alive until it expires."""
        try:
            self._store.leases.end()
        except StoreUnavailable as error:
            log.warning("database error: the lease of this worker could not be ended: %s", error.message)

    def _reap(self) -> None:
        if monotonic() >= self._reap_after and (failed := self._store.reaper.reap()):
            self._measures.reaped(failed)
            log.warning("%d responses of a dead worker were ended as failed", failed)
        if failed := self._store.reaper.reap_own(self._running.ids()):
            self._measures.reaped(failed)
            log.warning("%d responses that this worker no longer runs were ended as failed", failed)
