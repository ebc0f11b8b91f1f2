"""The events of a background response. The worker that runs it stores them; a reader on any worker follows them there.
Neither waits for the other.
"""

from __future__ import annotations

import logging
import select
import threading
from collections.abc import Callable, Iterator, Mapping
from time import monotonic, sleep
from typing import Any

import orjson

from app import sse
from app.contract.records import LIFECYCLE_EVENTS, RUNNING, EventBatch, EventPage
from app.errors import (
    EndedElsewhere,
    GatewayError,
    InternalError,
    NotFound,
    ShuttingDown,
    StoreUnavailable,
    UpstreamBroken,
    response_not_found,
)
from app.relay.streaming.lifecycle_events import replayed_events, terminal_events
from app.relay.streaming.transport import StreamTiming
from app.store.store import Store

log = logging.getLogger(__name__)

#: Seconds that an event waits to be stored together with later ones.
BATCH_SECONDS = 0.05
#: Bytes that are stored at once, even before `BATCH_SECONDS` have passed.
_BATCH_BYTES = 64 * 1024
#: Bytes that may wait in memory while the store does not answer.
_MAX_WAITING = 4 * 1024 * 1024
#: Seconds between two polls for new events: the first poll after an event, and the longest interval.
_FIRST_POLL, _LONGEST_POLL = 0.05, 0.25
#: Seconds that a reader waits for a store that does not answer.
_STORE_TIMEOUT = 30.0


class EventLog:
    """Stores the events of one run. Events up to number `last` were stored by an earlier run."""

    def __init__(self, store: Store, response_id: str, last: int) -> None:
        self._store = store
        self._id = response_id
        self._last = last
        self._pending: list[bytes] = []
        self._first = last + 1
        self._size = 0
        self._flushed = monotonic()
        self._closed = False
        self._lock = threading.Lock()
        self._flushing = threading.Lock()

    @property
    def answered(self) -> bool:
        """Whether an event of the answer itself was logged."""
        return self._last >= LIFECYCLE_EVENTS

    def add(self, data: bytes) -> None:
        """Adds whole events. Waits for a store that does not answer only once much has gathered. Raises EndedElsewhere,
        StoreUnavailable, and UpstreamBroken for an event that is not JSON.
        """
        with self._lock:
            if self._closed:
                return
            for event in data.split(b"\n\n"):
                self._add(event)
        if self._size >= _BATCH_BYTES or monotonic() - self._flushed >= BATCH_SECONDS:
            try:
                self.flush()
            except StoreUnavailable:
                if self._size >= _MAX_WAITING:
                    raise

    def flush(self) -> None:
        """Returns once every added event is stored. Raises EndedElsewhere and StoreUnavailable."""
        with self._flushing:
            batch = self._take()
            if batch is None:
                return
            try:
                if not self._store.events.append(self._id, batch):
                    raise EndedElsewhere
            except StoreUnavailable:
                self._put_back(batch)
                raise

    def close(self) -> None:
        """Ignores events from now on: they report the end, which the row records."""
        self._closed = True

    def _add(self, event: bytes) -> None:
        _, data = sse.parse(event)
        if data is None:
            return
        try:
            number = orjson.loads(data)["sequence_number"]
        except ValueError:
            # The upstream's event was passed on without parsing.
            raise UpstreamBroken("The model's server sent an event that is not JSON.") from None
        if number > self._last:
            self._last = number
            self._pending.append(event + b"\n\n")
            self._size += len(event)

    def _take(self) -> EventBatch | None:
        with self._lock:
            self._flushed = monotonic()
            if not self._pending:
                return None
            batch = EventBatch(self._first, self._last, b"".join(self._pending))
            self._pending, self._size, self._first = [], 0, self._last + 1
            return batch

    def _put_back(self, batch: EventBatch) -> None:
        with self._lock:
            self._pending.insert(0, batch.body)
            self._size += len(batch.body)
            self._first = batch.first


class EventFollower:
    """One reader of the events of one response, on any worker."""

    def __init__(
        self,
        store: Store,
        timing: StreamTiming,
        client_fd: int | None,
        owner: str,
        in_progress: Mapping[str, Any],
        ended: Callable[[], Mapping[str, Any]],
    ) -> None:
        """`in_progress`: the response object when following began. `ended` reads it again."""
        self._store = store
        self._timing = timing
        self._client_fd = client_fd
        self._owner = owner
        self._in_progress = in_progress
        self._ended = ended
        self._last = -1

    def events(self, after: int | None) -> Iterator[bytes]:
        """The stored events numbered higher than `after`, then the end of the response. The stream ends with an event
        whatever fails.
        """
        self._last = -1 if after is None else after
        try:
            yield from self._followed()
        except NotFound:
            yield terminal_events(self._in_progress, self._last + 1, self._last)
        except GatewayError as error:
            yield _error_event(error, self._last)
        except Exception:  # The last border of this stream.
            log.exception("response %s: its events cannot be streamed", self._in_progress["id"])
            yield _error_event(InternalError(), self._last)

    def _followed(self) -> Iterator[bytes]:
        """Raises NotFound for a deleted response, and GatewayError when the store does not answer."""
        pause, last_write = _FIRST_POLL, monotonic()
        while True:
            page = self._read(self._last)
            for batch in page.batches:
                yield _numbered_after(batch, self._last)
                self._last = max(self._last, batch.last)
                pause, last_write = _FIRST_POLL, monotonic()
            if page.more:
                continue
            if page.status not in RUNNING:
                yield from self._end(page, self._last)
                return
            if monotonic() - last_write >= self._timing.heartbeat:
                last_write = monotonic()
                yield sse.HEARTBEAT
            if self._client_left_within(pause):
                return
            pause = min(_LONGEST_POLL, pause * 1.5)

    def _end(self, page: EventPage, last: int) -> Iterator[bytes]:
        """The end of the stream. If the events have expired, a reader without any event gets a stream made from the
        stored response; any other reader gets only the terminal event.
        """
        response = self._ended()
        if page.last is not None:
            yield terminal_events(response, page.last + 1, last)
        elif last < 0:
            yield from replayed_events(response)
        else:
            yield terminal_events(response, last + 1)

    def _read(self, last: int) -> EventPage:
        """Raises NotFound for a deleted response, and GatewayError once waiting for the store has timed out."""
        deadline = monotonic() + _STORE_TIMEOUT
        while True:
            if self._timing.drain.expired:
                raise ShuttingDown
            try:
                page = self._store.events.read(self._owner, self._in_progress["id"], last)
            except StoreUnavailable:
                if monotonic() >= deadline:
                    raise
                sleep(_LONGEST_POLL)
            else:
                if page is None:
                    raise response_not_found(self._in_progress["id"])
                return page

    def _client_left_within(self, seconds: float) -> bool:
        """Whether the client hangs up within this time."""
        poll = select.poll()
        if self._client_fd is not None:
            poll.register(self._client_fd, select.POLLRDHUP)
        return bool(poll.poll(seconds * 1000))


def _numbered_after(batch: EventBatch, last: int) -> bytes:
    if batch.first > last:
        return batch.body
    events = [event for event in batch.body.split(b"\n\n") if event]
    return b"".join(event + b"\n\n" for event in events if _number(event) > last)


def _number(event: bytes) -> int:
    _, data = sse.parse(event)
    return int(orjson.loads(data or b"{}").get("sequence_number", -1))


def _error_event(error: GatewayError, last: int) -> bytes:
    """The reader's stream fails, but the response continues. A new request with `starting_after` misses no event."""
    return sse.encode({"type": "error", "sequence_number": max(last, 0), "error": error.error()})
