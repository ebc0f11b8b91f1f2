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
from app.relay.lease_keeper import Running
from app.relay.recorder import Recorder
from app.relay.request_context import Asked
from app.relay.request_watch import Watch
from app.relay.streaming.lifecycle_events import head_events, opening
from app.relay.streaming.timing import Pace


class Announcement:
    """The beginning of one stream."""

    def __init__(
        self, turn: Turn, recorder: Recorder, asked: Asked, watch: Watch, running: Running, pace: Pace
    ) -> None:
        self.id = turn.id
        self.length = len(opening(turn.background))
        self.sent = 0
        """Events that have left."""
        self.recorder = recorder
        self._has_row = turn.store
        self._asked = asked
        self._stop = watch.stop
        self._running = running
        self._pace = pace
        self._committed = False
        if asked.say is not None:
            watch.owe(asked.came + pace.header, self._speak)

    def commit(self) -> None:
        """The row exists before anybody hears its id. Raises StoreUnavailable."""
        if self._committed:
            return
        self.recorder.begin()
        self._committed = True
        if self._has_row:
            # Nobody can end elsewhere what has no row.
            self._running.add(self.id, self._stop.ask)
        if self._asked.connection is not None:
            self._asked.connection.limit(self._pace.stall)

    def head(self, defaults: Mapping[str, Any], preface: Sequence[Item]) -> bytes:
        """What has not left yet of the head, which leaves now."""
        events = head_events(self.recorder.begun(defaults), preface, Emitter())
        rest = b"".join(islice(events, self.sent, None))
        self.sent = self.length
        return rest

    def end(self) -> None:
        self._running.remove(self.id)

    def _speak(self) -> float:
        """The head, or a sign of life. Raises StoreUnavailable and ClientGone."""
        say = self._asked.say
        assert say is not None
        if self.sent:
            say(sse.HEARTBEAT)
        else:
            events = b"".join(head_events(self.recorder.begun({}), (), Emitter()))
            self.commit()
            say(events)
            self.sent = self.length
        return monotonic() + self._pace.heartbeat
