"""Background responses: created by a request, run later by a worker, followed and cancelled from any worker.

A run takes the same steps as a streamed request. A socket pair stands in for the client's connection; hanging it up
ends the run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from time import monotonic, sleep
from typing import Any

import orjson

from app import trace_context
from app.contract.records import RUNNING, EventBatch, StoredResponse, Token
from app.contract.response import Echo
from app.contract.turn import Turn
from app.errors import ChannelsBusy, GatewayError, InvalidRequest, NotFound, ShuttingDown, StoreUnavailable
from app.limits.limiter import QUEUED
from app.memory import Budget, Share
from app.relay.background.event_log import BATCH_SECONDS, EventFollower
from app.relay.background.run import Queue, Run
from app.relay.background.waiting_places import WaitingPlaces
from app.relay.recorder import draft
from app.relay.request_context import RequestContext
from app.relay.responses import StoredResponses, shown
from app.relay.runs import run_of_request
from app.relay.storable import check_request
from app.relay.streaming.lifecycle_events import queued_events
from app.relay.streaming.transport import StreamTiming
from app.relay.turn_run import TurnParts
from app.sealing import Seal
from app.store.store import Store

log = logging.getLogger(__name__)

#: Seconds that runs may take to end after they were asked to stop.
_END_TIMEOUT = 5.0


class BackgroundJobs:
    def __init__(
        self,
        store: Store,
        parts: TurnParts,
        responses: StoredResponses,
        queue: Queue,
        seal: Seal,
        timing: StreamTiming,
        events_ttl: int,
        budget: Budget,
        threads: int,
    ) -> None:
        """`events_ttl`: seconds that events are stored after the end of their response. `budget`: the memory for large
        bodies. `threads`: the runs at once of a background worker."""
        self._store = store
        self._parts = parts
        self._responses = responses
        self._queue = queue
        self._seal = seal
        self._timing = timing
        self._events_ttl = events_ttl
        self._budget = budget
        self._places = WaitingPlaces(threads)
        self._runs: dict[str, Run] = {}
        self._unknown: set[str] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()

    # --- creating, in a serving worker

    def create(self, token: Token, request: Mapping[str, Any], context: RequestContext) -> dict[str, Any]:
        """The queued response, stored. Raises the same GatewayErrors as a synchronous response."""
        run = run_of_request(self._parts, token, request, context)
        with suppress(ChannelsBusy):
            run.check_served()
        with run.claim() as earlier:
            if earlier is not None:
                return run.replayed(earlier)
            try:
                run.admit(QUEUED)
            except GatewayError as error:
                run.recorder.give_up(error)
                raise
            return self._enqueue(run.turn, token, context)

    def _enqueue(self, turn: Turn, token: Token, context: RequestContext) -> dict[str, Any]:
        queued = turn.response("queued")
        events = queued_events(queued)
        row = draft(turn, token, context.request_id, context.client)
        sealed = self._seal.close(token.owner, orjson.dumps(turn.request)).encode()
        check_request(self._store, row, turn.input, sealed)
        self._store.jobs.enqueue(
            row,
            sealed,
            EventBatch(0, len(events) - 1, b"".join(events)),
            self._queue.add_in_transaction,
            trace_context.received(),
        )
        self._queue.add_after_commit(turn.id)
        return queued

    def stream(self, token: Token, request: Mapping[str, Any], context: RequestContext) -> Iterator[bytes]:
        queued = self.create(token, request, context)
        return self.events_after(token, queued["id"], None, context.client_fd)

    def events_after(
        self, token: Token, response_id: str, after: int | None, client_fd: int | None, include: Sequence[str] = ()
    ) -> Iterator[bytes]:
        """The events numbered higher than `after`, as they are stored. Raises NotFound and InvalidRequest."""
        stored = self._responses.stored(token, response_id)
        if not is_background(stored):
            raise InvalidRequest(
                "Only a background response can be streamed again. Leave out 'stream'.",
                code="unsupported_value",
                param="stream",
            )

        def ended() -> dict[str, Any]:
            return shown(self._responses.stored(token, response_id), include)

        in_progress = shown(stored, include)
        return EventFollower(self._store, self._timing, client_fd, token.owner, in_progress, ended).events(after)

    def cancel(self, token: Token, response_id: str) -> dict[str, Any]:
        """The response after the cancellation. A response that has ended does not change."""
        stored = self._responses.stored(token, response_id)
        if not is_background(stored):
            raise InvalidRequest("Cannot cancel a synchronous response.")
        if stored.status in RUNNING:
            self._store.responses.cancel(token.owner, response_id)
            stored = self._responses.stored(token, response_id)
        return shown(stored)

    # --- running, in a background worker

    def run(self, response_id: str) -> None:
        """Runs one response if it is still queued."""
        try:
            with self._registered(response_id) as run:
                job = self._store.jobs.claim(response_id) if run is not None else None
                if run is not None and job is not None:
                    # Only after the claim has committed. Before that its row is not in progress, and the lease keeper
                    # would stop the run as ended elsewhere.
                    self._parts.running.add(response_id, run.hang_up)
                    run.work(job)
        except NotFound:
            log.info("background response %s was deleted before it started", response_id)
        except StoreUnavailable:
            log.warning("database error: background response %s could not be started; retry follows", response_id)

    def start(self) -> None:
        threading.Thread(target=self._flush_periodically, name="event-flush", daemon=True).start()

    def drain(self, seconds: float) -> None:
        """Waits that long for runs to finish. The others are requeued if they have no answer yet, else they fail."""
        self._wait(seconds)
        with self._lock:
            self._ended.set()
            runs = list(self._runs.values())
        for run in runs:
            run.end(ShuttingDown())
        self._wait(_END_TIMEOUT)

    def housekeeping(self) -> None:
        """Queues waiting responses again and deletes expired events. Some worker calls it at intervals."""
        self._recover()
        for response_id in self._store.jobs.requeue_waiting(self._queue.add_in_transaction):
            self._queue.add_after_commit(response_id)
        self._store.events.expire(self._events_ttl)

    def _recover(self) -> None:
        """Requeues responses whose claim was committed although this worker lost the store's reply."""
        unknown = self._store.reaper.running() - self._runs.keys()
        for response_id in unknown & self._unknown:
            if self._store.jobs.requeue(response_id, self._queue.add_in_transaction):
                self._queue.add_after_commit(response_id)
        self._unknown = unknown

    @contextmanager
    def _registered(self, response_id: str) -> Iterator[Run | None]:
        """The run of a response; None when it already runs in this worker, or the worker is shutting down."""
        run = Run(
            response_id,
            self._store,
            self._parts,
            self._responses,
            self._queue,
            self._seal,
            self._ended,
            Share(self._budget),
            self._places,
        )
        with self._lock:
            free = response_id not in self._runs and not self._ended.is_set()
            if free:
                self._runs[response_id] = run
        if not free:
            yield None
            return
        try:
            yield run
        finally:
            self._parts.running.remove(response_id)
            with self._lock:
                del self._runs[response_id]
            run.close()

    def _flush_periodically(self) -> None:
        """Stores the last events of runs whose upstream is silent."""
        while True:
            with self._lock:
                runs = list(self._runs.values())
            for run in runs:
                run.flush()
            if self._ended.wait(BATCH_SECONDS) and not runs:
                return

    def _wait(self, seconds: float) -> None:
        deadline = monotonic() + seconds
        while self._runs and monotonic() < deadline:
            sleep(BATCH_SECONDS)


def is_background(stored: StoredResponse) -> bool:
    return Echo.stored(stored.settings, stored.echo).fields.get("background") is True
