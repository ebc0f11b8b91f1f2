"""How a stream begins: its row is committed, then the events leave that name it.

They leave with the first valid event of an upstream, or by themselves when that takes long; from then on the client
hears now and then that the stream is alive, and only events can say that something went wrong.
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
    """The beginning of one stream."""

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
        """Events that have left."""
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
        """The row exists before anybody hears its id. Raises StoreUnavailable."""
        if self._committed:
            return
        self.recorder.begin()
        self._committed = True
        if self._has_row:
            # Nobody can end elsewhere what has no row.
            self._running.add(self.id, self._stop.request)
        if self._context.connection is not None:
            self._context.connection.set_write_timeout(self._timing.client_write_timeout)

    def head(self, defaults: Mapping[str, Any], leading_items: Sequence[Item]) -> bytes:
        """What has not left yet of the head, which leaves now."""
        events = head_events(self.recorder.in_progress_response(defaults), leading_items, Emitter())
        rest = b"".join(islice(events, self.sent, None))
        self.sent = self.length
        return rest

    def end(self) -> None:
        self._running.remove(self.id)

    def _send_due(self) -> float:
        """The head, or a sign of life. Raises StoreUnavailable and ClientGone."""
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
