"""The pump: one thread a worker that moves the bytes of all its streams, while the threads of their requests wait.

It reads, feeds the decoders, writes without blocking and checks the timeouts. It never ends a stream by itself: once
the decoder has its answer, or a step failed, the request's thread continues.
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
from app.relay.streaming.client_connection import ClientConnection
from app.relay.streaming.transport import Flow, StreamTiming, ThreadTransport, stalled
from app.request_watch import TICK

#: Ready descriptors handled before new streams and timers get their turn.
_BATCH = 256
#: Seconds that a worker in shutdown still waits for a slow client to read.
_SHUTDOWN_WRITE_TIMEOUT = 2.0
_CLOSE_WITHIN = 2.0

_CLIENT = select.EPOLLRDHUP
_CLIENT_BEHIND = select.EPOLLRDHUP | select.EPOLLOUT
_HUNG_UP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class _Stream:
    """One flow in the pump. Every method except `wait` runs in the pump's thread."""

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
        """Whether the client has unread bytes."""
        self.ended = False
        self.listening = False
        """Set by the pump: whether the upstream is polled."""
        self.due = inf
        """Set by the pump: when the timeouts are checked next, and by which timer."""
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
        """Blocks until the pump has finished the stream. Raises the error that ended it, if there was one."""
        self._done.acquire()
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            raise outcome

    def release(self) -> None:
        self._done.release()

    def read(self, now: float, mask: int) -> None:
        """Reads one piece from the upstream and sends its events. Raises ClientGone, UpstreamError."""
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
        """Handles a client's hang-up, or writes more to a client that was behind. Raises ClientGone."""
        if mask & _HUNG_UP:
            raise ClientGone
        if sent := self._write(self._unsent):
            self._flow.last_write = self._flow.last_read = now
            self._set_unsent(self._unsent[sent:])

    def tick(self, now: float, mask: int) -> None:
        """Checks the timeouts and sends a due heartbeat. Raises ClientGone, UpstreamStalled."""
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
        """Ends the stream because the worker shuts down. A client that is behind gets a shorter write timeout."""
        self._write_timeout = min(self._write_timeout, _SHUTDOWN_WRITE_TIMEOUT)
        raise ShuttingDown

    def next_tick(self) -> float:
        flow = self._flow
        if not self.behind:
            return min(flow.deadline, flow.last_read + flow.limits.idle, flow.last_write + self._heartbeat)
        write_deadline = flow.last_write + self._write_timeout
        return write_deadline if self.ended else min(write_deadline, flow.deadline)

    def end(self, outcome: Exception | None) -> None:
        """Stops reading. Unsent bytes are sent first, unless the client has gone."""
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


#: One step of a stream. Takes the time at which the pump's round began, and the ready mask of the descriptor.
_Step = Callable[[_Stream, float, int], None]


class Pump(ThreadTransport):
    """Moves every stream with a writable client and a pollable upstream in one thread; other streams in their own."""

    def __init__(self, timing: StreamTiming) -> None:
        super().__init__(timing)
        self._open = False
        self._lock = threading.Lock()
        self._calls: deque[Callable[[], None]] = deque()
        self._watched: dict[int, tuple[_Stream, _Step]] = {}
        self._streams: set[_Stream] = set()
        self._buffered: dict[_Stream, None] = {}
        """Streams whose upstream has buffered input that a poll does not show."""
        self._timers: list[tuple[float, int]] = []
        self._timed: dict[int, _Stream] = {}
        """The stream of each valid timer. A timer that is missing here is void."""
        self._numbers = count()
        self._now = self._drain_checked = monotonic()
        self._lag = 0.0
        self._asked_at: float | None = None
        """When a call was queued that measures the lag, and has not run yet."""

    def start(self) -> None:
        self._epoll = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wakeup, select.EPOLLIN)
        self._open = True
        self._thread = threading.Thread(target=self._run, name="pump", daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._call(self._stop_rounds):
            self._thread.join(_CLOSE_WITHIN)

    def measured_lag(self) -> float:
        """The lag of the call that the last one queued here; while it still waits, how long it has waited."""
        if (asked_at := self._asked_at) is not None:
            return monotonic() - asked_at
        self._asked_at = monotonic()
        if not self._call(self._note_lag):
            self._asked_at = None
        return self._lag

    def transfer(self, flow: Flow[Any]) -> Iterable[bytes]:
        """Returns when the pump has moved the stream. Yields the events only where the pump cannot move it."""
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
        """Queues a call for the pump's next round. Returns False when the pump does not run."""
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
                self._run_step(stream, step, mask)
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
                self._run_step(stream, _Stream.read)

    def _run_timers(self) -> None:
        while self._timers and self._timers[0][0] <= self._now:
            _, number = heappop(self._timers)
            if stream := self._timed.pop(number, None):
                stream.due = inf
                self._run_step(stream, _Stream.tick)
                self._schedule(stream)
        if self._now - self._drain_checked >= TICK:
            self._drain_checked = self._now
            if self.timing.drain.expired:
                for stream in tuple(self._streams):
                    self._run_step(stream, _Stream.shut_down)
                    self._schedule(stream)

    def _run_step(self, stream: _Stream, step: _Step, mask: int = 0) -> None:
        """Runs one step of one stream."""
        try:
            step(stream, self._now, mask)
        except Exception as error:
            # The border that must not die: the request's own thread raises the error, and the other streams continue.
            stream.end(error)
        try:
            self._settle(stream)
        except OSError:
            # The kernel refuses to poll the descriptor.
            stream.end(ClientGone())
            self._forget(stream)

    def _settle(self, stream: _Stream) -> None:
        """Updates what the pump polls for this stream."""
        if stream.ended and not stream.behind:
            self._forget(stream)
            return
        listening = not (stream.ended or stream.behind)
        if listening is not stream.listening:
            self._set_listening(stream, listening)
        if listening and stream.exchange.fileno() is None:
            self._buffered[stream] = None

    def _set_listening(self, stream: _Stream, listening: bool) -> None:
        """Back-pressure: the upstream is not read while the client is behind."""
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
        """Sets a timer for the next timeout. A timer that fires too early is set again."""
        if stream not in self._streams:
            return
        due = stream.next_tick()
        if due < stream.due:
            self._timed.pop(stream.timer, None)
            stream.due, stream.timer = due, next(self._numbers)
            self._timed[stream.timer] = stream
            heappush(self._timers, (due, stream.timer))

    def _forget(self, stream: _Stream) -> None:
        """Returns both connections to the request's thread and wakes it."""
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
        self._run_step(stream, self._begin)

    def _begin(self, stream: _Stream, now: float, mask: int) -> None:
        self._epoll.register(stream.connection.socket, _CLIENT)
        if stream.stop.requested:
            stream.stopped(now, mask)

    def _stop(self, stream: _Stream) -> None:
        if stream in self._streams:
            self._run_step(stream, _Stream.stopped)

    def _note_lag(self) -> None:
        if self._asked_at is not None:
            self._lag, self._asked_at = monotonic() - self._asked_at, None

    def _stop_rounds(self) -> None:
        self._open = False

    def _abandon(self) -> None:
        """Wakes every waiting thread, however the pump has ended."""
        with self._lock:
            self._open = False
        while self._calls:
            self._calls.popleft()()
        for stream in tuple(self._streams):
            stream.end(ClientGone() if stream.behind else ShuttingDown())
            self._forget(stream)
        self._epoll.close()
        os.close(self._wakeup)
