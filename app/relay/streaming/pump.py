"""The pump: one thread a worker that moves the bytes of all its streams, while their requests' threads sleep.

It reads, feeds the decoder, writes without blocking and keeps the clocks. It never ends a stream by itself: once the
decoder has its answer, or something went wrong, the request's thread goes on.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf
from time import monotonic
from typing import Any

from app import sse
from app.errors import ClientGone, EndedElsewhere, ShuttingDown
from app.relay.request_watch import TICK
from app.relay.streaming.client_connection import ClientConnection
from app.relay.streaming.timing import StreamTiming
from app.relay.streaming.transport import Flow, ThreadTransport, stalled

#: Descriptors seen to before new streams and the clocks have their turn.
_BATCH = 256
#: Seconds that a worker which is about to end still spends on a client that is behind.
_SHUTDOWN_WRITE_TIMEOUT = 2.0
_CLOSE_WITHIN = 2.0

_CLIENT = select.EPOLLRDHUP
_CLIENT_BEHIND = select.EPOLLRDHUP | select.EPOLLOUT
_HUNG_UP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class _Stream:
    """One flow in the pump. All but `wait` happens in the pump's thread."""

    __slots__ = (
        "_done",
        "_flow",
        "_frame",
        "_heartbeat",
        "_outcome",
        "_send",
        "_unsent",
        "_write_timeout",
        "behind",
        "connection",
        "descriptor",
        "due",
        "ended",
        "exchange",
        "listening",
        "stop",
        "timer",
    )

    def __init__(self, flow: Flow[Any], connection: ClientConnection, descriptor: int, timing: StreamTiming) -> None:
        self.exchange = flow.exchange
        self.descriptor = descriptor
        self.connection = connection
        self.behind = False
        """The client has not taken all that it was sent."""
        self.ended = False
        self.listening = False
        """As the pump keeps it: the upstream is polled."""
        self.due = inf
        """As the pump keeps it: when its clocks are to be seen to, by which timer."""
        self.timer = -1
        self.stop = flow.stop
        self._flow = flow
        self._heartbeat = timing.heartbeat
        self._write_timeout = timing.client_write_timeout
        self._frame = connection.frame
        self._send = connection.socket.send
        self._unsent = memoryview(b"")
        self._outcome: Exception | None = None
        self._done = threading.Lock()
        self._done.acquire()

    def wait(self) -> None:
        """Until the pump is done with it. Raises what has ended it, unless that was the answer."""
        self._done.acquire()
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            raise outcome

    def release(self) -> None:
        self._done.release()

    def read(self, now: float, mask: int) -> None:
        """Takes a piece from the upstream and sends on what it comes to. Raises ClientGone, UpstreamError."""
        data = self.exchange.receive()
        if data is None:
            return
        flow = self._flow
        flow.last_read = now
        if events := flow.decode(data):
            self._send_events(events, now)
        if flow.decoder.answer is not None:
            self.end(None)

    def on_client_event(self, now: float, mask: int) -> None:
        """The client has gone, or takes more. Raises ClientGone."""
        if mask & _HUNG_UP:
            raise ClientGone
        if sent := self._write(self._unsent):
            self._flow.last_write = self._flow.last_read = now
            self._set_unsent(self._unsent[sent:])

    def tick(self, now: float, mask: int) -> None:
        """Sees to the clocks. Raises ClientGone, UpstreamStalled."""
        flow = self._flow
        if self.behind:
            if now >= flow.last_write + self._write_timeout:
                raise ClientGone
        elif now >= flow.last_read + flow.limits.idle:
            raise stalled()
        elif now >= flow.last_write + self._heartbeat:
            self._send_events(sse.HEARTBEAT, now)
        if now >= flow.deadline and not self.ended:
            raise stalled()

    def stopped(self, now: float, mask: int) -> None:
        raise EndedElsewhere

    def shut_down(self, now: float, mask: int) -> None:
        """The worker ends before the stream does, and before a client that is behind would be given up."""
        self._write_timeout = min(self._write_timeout, _SHUTDOWN_WRITE_TIMEOUT)
        raise ShuttingDown

    def next_tick(self) -> float:
        flow = self._flow
        if not self.behind:
            return min(flow.deadline, flow.last_read + flow.limits.idle, flow.last_write + self._heartbeat)
        write_deadline = flow.last_write + self._write_timeout
        return write_deadline if self.ended else min(write_deadline, flow.deadline)

    def end(self, outcome: Exception | None) -> None:
        """Nothing more is read. What the client is still owed is sent first, unless there is no client any more."""
        if isinstance(outcome, ClientGone):
            self._set_unsent(memoryview(b""))
            self.connection.abort()
        elif self.ended:
            return
        self.ended = True
        self._outcome = outcome

    def _send_events(self, events: bytes, now: float) -> None:
        data = self._frame(events)
        self._flow.last_write = now
        sent = self._write(data)
        if sent < len(data):
            self._set_unsent(memoryview(data)[sent:])

    def _write(self, data: bytes | memoryview) -> int:
        try:
            return self._send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError:
            raise ClientGone from None

    def _set_unsent(self, unsent: memoryview) -> None:
        self.behind = len(unsent) > 0
        self._unsent = unsent if self.behind else memoryview(b"")


#: What is done with a stream: when the pump's round began, and what its descriptor was ready for.
_Step = Callable[[_Stream, float, int], None]


class Pump(ThreadTransport):
    """Moves every stream whose client may be written to and whose upstream can be polled; others as any mover does."""

    def __init__(self, timing: StreamTiming) -> None:
        super().__init__(timing)
        self._open = False
        self._lock = threading.Lock()
        self._calls: deque[Callable[[], None]] = deque()
        self._watched: dict[int, tuple[_Stream, _Step]] = {}
        self._streams: set[_Stream] = set()
        self._buffered: dict[_Stream, None] = {}
        """Streams whose upstream has more than a poll would show."""
        self._timers: list[tuple[float, int]] = []
        self._timed: dict[int, _Stream] = {}
        """Whose timers these are; one that is not here any more is void."""
        self._numbers = count()
        self._now = self._drain_checked = monotonic()

    def start(self) -> None:
        self._epoll = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wakeup, select.EPOLLIN)
        self._open = True
        self._thread = threading.Thread(target=self._run, name="pump", daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._call(self._shut):
            self._thread.join(_CLOSE_WITHIN)

    def transfer(self, flow: Flow[Any]) -> Iterable[bytes]:
        """Returns when the stream has been moved; gives what is to be sent on only if the pump cannot move it."""
        descriptor = flow.exchange.descriptor
        if flow.connection is None or descriptor is None:
            return super().transfer(flow)
        stream = _Stream(flow, flow.connection, descriptor, self.timing)
        flow.stop.wake = partial(self._stop_soon, stream)
        try:
            if not self._call(partial(self._admit, stream)):
                return super().transfer(flow)
            stream.wait()
        finally:
            flow.stop.wake = None
        return ()

    # --- for other threads

    def _call(self, call: Callable[[], None]) -> bool:
        """Has the pump's thread do something in its next round; False when there is none."""
        with self._lock:
            if not self._open:
                return False
            self._calls.append(call)
            if len(self._calls) == 1:
                os.eventfd_write(self._wakeup, 1)
            return True

    def _stop_soon(self, stream: _Stream) -> None:
        self._call(partial(self._stop, stream))

    # --- the pump's thread

    def _run(self) -> None:
        try:
            while self._open:
                self._round()
        finally:
            self._abandon()

    def _round(self) -> None:
        ready = self._epoll.poll(self._timeout(), _BATCH)
        self._now = monotonic()
        for descriptor, mask in ready:
            if found := self._watched.get(descriptor):
                stream, step = found
                self._do(stream, step, mask)
            elif descriptor == self._wakeup:
                os.eventfd_read(self._wakeup)
        self._read_buffered()
        while self._calls:
            self._calls.popleft()()
        self._run_timers()

    def _timeout(self) -> float | None:
        if self._buffered:
            return 0.0
        if not self._streams:
            return None
        return max(0.0, min(TICK, self._timers[0][0] - self._now)) if self._timers else TICK

    def _read_buffered(self) -> None:
        buffered, self._buffered = self._buffered, {}
        for stream in buffered:
            if stream.listening:
                self._do(stream, _Stream.read)

    def _run_timers(self) -> None:
        while self._timers and self._timers[0][0] <= self._now:
            _, number = heappop(self._timers)
            if stream := self._timed.pop(number, None):
                stream.due = inf
                self._do(stream, _Stream.tick)
                self._schedule(stream)
        if self._now - self._drain_checked >= TICK:
            self._drain_checked = self._now
            if self.timing.drain.expired:
                for stream in tuple(self._streams):
                    self._do(stream, _Stream.shut_down)
                    self._schedule(stream)

    def _do(self, stream: _Stream, step: _Step, mask: int = 0) -> None:
        """One step of one stream."""
        try:
            step(stream, self._now, mask)
        except Exception as error:
            # The border that must not die: a fault in one stream is raised in its own thread, the others go on.
            stream.end(error)
        try:
            self._settle(stream)
        except OSError:
            # The kernel refuses to watch it.
            stream.end(ClientGone())
            self._forget(stream)

    def _settle(self, stream: _Stream) -> None:
        """Waits for what the stream now waits for."""
        if stream.ended and not stream.behind:
            self._forget(stream)
            return
        listening = not (stream.ended or stream.behind)
        if listening is not stream.listening:
            self._turn(stream, listening)
        if listening and stream.exchange.fileno() is None:
            self._buffered[stream] = None

    def _turn(self, stream: _Stream, listening: bool) -> None:
        """Back-pressure: while a client that is behind is waited for, its upstream is left to itself."""
        stream.listening = listening
        if listening:
            self._watched[stream.descriptor] = (stream, _Stream.read)
            self._epoll.register(stream.descriptor, select.EPOLLIN)
        else:
            del self._watched[stream.descriptor]
            self._epoll.unregister(stream.descriptor)
        self._epoll.modify(stream.connection.socket, _CLIENT if listening else _CLIENT_BEHIND)
        self._schedule(stream)

    def _schedule(self, stream: _Stream) -> None:
        """The clocks are seen to in time; when it turns out to be too early, again."""
        if stream not in self._streams:
            return
        due = stream.next_tick()
        if due < stream.due:
            self._timed.pop(stream.timer, None)
            stream.due, stream.timer = due, next(self._numbers)
            self._timed[stream.timer] = stream
            heappush(self._timers, (due, stream.timer))

    def _forget(self, stream: _Stream) -> None:
        """The request's thread goes on; both connections are its own again."""
        self._streams.discard(stream)
        self._buffered.pop(stream, None)
        self._timed.pop(stream.timer, None)
        stream.listening = False
        for descriptor in (stream.descriptor, stream.connection.socket.fileno()):
            if self._watched.pop(descriptor, None) is not None:
                with suppress(OSError):
                    self._epoll.unregister(descriptor)
        stream.release()

    # --- calls

    def _admit(self, stream: _Stream) -> None:
        self._streams.add(stream)
        self._watched[stream.connection.socket.fileno()] = (stream, _Stream.on_client_event)
        self._do(stream, self._begin)

    def _begin(self, stream: _Stream, now: float, mask: int) -> None:
        self._epoll.register(stream.connection.socket, _CLIENT)
        if stream.stop.requested:
            stream.stopped(now, mask)

    def _stop(self, stream: _Stream) -> None:
        if stream in self._streams:
            self._do(stream, _Stream.stopped)

    def _shut(self) -> None:
        self._open = False

    def _abandon(self) -> None:
        """However the pump has ended, nobody waits for it any longer."""
        with self._lock:
            self._open = False
        while self._calls:
            self._calls.popleft()()
        for stream in tuple(self._streams):
            stream.end(ClientGone() if stream.behind else ShuttingDown())
            self._forget(stream)
        self._epoll.close()
        os.close(self._wakeup)
