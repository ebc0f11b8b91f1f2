"""The start of a stream: its row is committed before any event names it.

The head leaves with the first valid event of an upstream, or alone after `header_timeout`; heartbeats follow it then.
After the head only events can report a failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from time import monotonic
from typing import Any

from app import sse
from app.contract.items import Item
from app.contract.turn import Turn
from app.formats import Emitter
from app.relay.lease_keeper import RunningStreams
from app.relay.recorder import Recorder
from app.relay.request_context import RequestContext
from app.relay.request_watch import Watch
from app.relay.streaming.lifecycle_events import head_events, opening_types
from app.relay.streaming.timing import StreamTiming


class StreamStart:
    """The start of one stream."""

    def __init__(
        self,
        turn: Turn,
        recorder: Recorder,
        context: RequestContext,
        watch: Watch,
        running: RunningStreams,
        timing: StreamTiming,
    ) -> None:
        self.id = turn.id
        self.length = len(opening_types(turn.background))
        self.sent = 0
        """Number of events that have been sent."""
        self.recorder = recorder
        self._has_row = turn.store
        self._context = context
        self._stop = watch.stop
        self._running = running
        self._timing = timing
        self._committed = False
        if context.send_early is not None:
            watch.schedule(context.received_at + timing.header_timeout, self._send_due)

    def commit(self) -> None:
        """Commits the row before the client can learn its id. Raises StoreUnavailable."""
        if self._committed:
            return
        self.recorder.begin()
        self._committed = True
        if self._has_row:
            # A response without a row cannot be cancelled by another worker.
            self._running.add(self.id, self._stop.request)
        if self._context.connection is not None:
            self._context.connection.set_write_timeout(self._timing.client_write_timeout)

    def head(self, defaults: Mapping[str, Any], leading_items: Sequence[Item]) -> bytes:
        """The part of the head that has not been sent. The caller sends it now."""
        events = head_events(self.recorder.in_progress_response(defaults), leading_items, Emitter())
        rest = b"".join(islice(events, self.sent, None))
        self.sent = self.length
        return rest

    def end(self) -> None:
        self._running.remove(self.id)

    def _send_due(self) -> float:
        """Sends the head or a heartbeat, and returns the next due time. Raises StoreUnavailable and ClientGone."""
        send_early = self._context.send_early
        assert send_early is not None
        if self.sent:
            send_early(sse.HEARTBEAT)
        else:
            events = b"".join(head_events(self.recorder.in_progress_response({}), (), Emitter()))
            self.commit()
            send_early(events)
            self.sent = self.length
        return monotonic() + self._timing.heartbeat
