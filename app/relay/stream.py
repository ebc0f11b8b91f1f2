"""The walk of a streamed turn: open a channel, send the head, move the events, store, then say how it ended.

Until the head has been sent a failure is an exception and becomes a status line; from then on only events speak. Until
the first output event another channel may go on under the same id.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from threading import Event
from typing import Any

from app import sse
from app.errors import ClientGone, GatewayError, InternalError, UpstreamBroken, UpstreamError
from app.formats import Decoder, Emitter, replay
from app.relay.asking import Fit, Tries, Try
from app.relay.keeper import Running
from app.relay.mover import SILENCE, Pace, pieces
from app.relay.ports import Channels, Exchange
from app.relay.recorder import Recorder
from app.turn import Answer, Item, Turn

log = logging.getLogger(__name__)

#: `response.created` and `response.in_progress` are ours; what the upstream says next is number two.
_HEAD = 2
#: Events of an item that needs no deltas: added and done.
_PER_ITEM = 2


def head(begun: Mapping[str, Any], preface: Sequence[Item]) -> bytes:
    """What a stream begins with, and the items of ours that stand before the answer."""
    return b"".join(_begun(Emitter(), begun, preface))


def _begun(emitter: Emitter, begun: Mapping[str, Any], items: Sequence[Item]) -> Iterator[bytes]:
    for kind in ("response.created", "response.in_progress"):
        yield emitter.event(kind, response=begun)
    for item in items:
        yield from emitter.item(item)


def whole(response: Mapping[str, Any]) -> Iterator[bytes]:
    """A response that is stored already, as the stream that was asked for."""
    begun = {**response, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    emitter = Emitter()
    yield b"".join(_begun(emitter, begun, response["output"]))
    kind = f"response.{response['status']}"
    yield _terminal({"type": kind, "sequence_number": emitter.sequence, "response": response})


def _terminal(event: Mapping[str, Any]) -> bytes:
    return sse.encode(event) + sse.DONE


class _Passage:
    """One channel at work on the turn: what it sends and what a decoder has made of it. Closed by whoever opened it."""

    def __init__(self, asked: Try, exchange: Exchange, decoder: Decoder, bytes_: Iterator[bytes | None]) -> None:
        self.asked = asked
        self.choice = asked.choice
        self.decoder = decoder
        self._exchange = exchange
        self._bytes = bytes_
        self.ready = b""

    def accept(self) -> None:
        """Reads up to the first valid event. Raises UpstreamError."""
        while not self.decoder.accepted:
            self.ready += self._next() or b""

    def events(self) -> Iterator[bytes]:
        """Whole events to send on, until the decoder has its answer."""
        if self.ready:
            yield self.ready
            self.ready = b""
        while self.decoder.answer is None:
            data = self._next()
            if data:
                yield data

    def close(self) -> None:
        self._exchange.close()
        self.choice.__exit__(None, None, None)

    def _next(self) -> bytes:
        data = next(self._bytes, b"")
        if data is SILENCE:
            return sse.HEARTBEAT if self.decoder.accepted else b""
        if not data:
            self.decoder.finish()
            if self.decoder.answer is None:
                raise UpstreamBroken("The model's server closed the stream before the response had ended.")
            return b""
        return self.decoder.feed(data)


class EventStream:
    """A streamed response as bytes. Iterated by the server once `open` has returned; `close` ends it at any time."""

    def __init__(
        self,
        turn: Turn,
        channels: Channels,
        recorder: Recorder,
        *,
        fit: Fit,
        prefer: str | None,
        client: int | None,
        pace: Pace,
        running: Running,
    ) -> None:
        self._turn = turn
        self._running = running
        self._stopped = Event()
        self._first = _HEAD + _PER_ITEM * len(turn.preface)
        self._recorder = recorder
        self._client = client
        self._pace = pace
        self._tries = Tries(turn, channels, fit, recorder.tried, prefer)
        self._passage: _Passage | None = None
        self._ended = False
        self._events = self._walk()

    def open(self) -> EventStream:
        """Until an upstream has accepted and the row is committed. Raises GatewayError or ClientGone."""
        try:
            self._go_on()
            self._recorder.begin()
            if self._turn.store:
                # Nobody can end elsewhere what has no row.
                self._running.add(self._turn.id, self._stopped.set)
        except GatewayError:
            # Nobody has heard of this response: its end is not ours to tell.
            self._ended = True
            self.close()
            raise
        except ClientGone:
            self.close()
            raise
        return self

    @property
    def dropped(self) -> Sequence[str]:
        """Types of the tools that the channel that has accepted was not told of."""
        return self._at_work().asked.dropped

    def __iter__(self) -> Iterator[bytes]:
        return self._events

    def close(self) -> None:
        """Whoever stops listening: the upstream is closed and what came is stored."""
        self._events.close()
        self._leave()
        self._running.remove(self._turn.id)

    # --- the walk

    def _walk(self) -> Generator[bytes, None, None]:
        try:
            yield self._head()
            self._recorder.first_byte()
            yield from self._relayed()
            yield self._end()
        except GeneratorExit:
            self._leave()
            raise
        except ClientGone:
            self._leave()
        except GatewayError as error:
            yield self._failure(error)
        except Exception:
            # The one border that must not die: after the head only an event can say that something went wrong.
            log.exception("response %s failed", self._turn.id)
            yield self._failure(InternalError())
        finally:
            self._shut()

    def _relayed(self) -> Iterator[bytes]:
        """The output events of the first channel that gets as far as to say something."""
        while True:
            passage = self._at_work()
            try:
                yield from passage.events()
                return
            except UpstreamError as error:
                if passage.decoder.started:
                    raise
                self._give_up(passage.asked, error)
                self._go_on()

    def _go_on(self) -> None:
        """To the next channel that accepts. Raises the last error when there is none, or when it speaks for all."""
        while True:
            asked = self._tries.next()
            try:
                self._passage = self._open_passage(asked)
                self._passage.accept()
                return
            except UpstreamError as error:
                self._give_up(asked, error)

    def _open_passage(self, asked: Try) -> _Passage:
        choice, turn, format_ = asked.choice, asked.turn, asked.choice.format
        choice.__enter__()
        exchange: Exchange | None = None
        try:
            exchange = choice.post(format_.PATH, asked.body, accept="text/event-stream", client=self._client)
            if exchange.status != 200:
                raise format_.decode_error(exchange.status, exchange.headers, exchange.read())
            if "json" in exchange.headers.get("content-type", ""):
                # Asked for a stream and answered in one piece: the client still gets its events.
                answer = format_.decode(exchange.read(), turn)
                return _Passage(asked, exchange, replay(answer, self._first, len(turn.preface)), iter((b"\n",)))
            moved = pieces(exchange, self._client, choice.channel.timeouts, self._pace, self._stopped)
            return _Passage(asked, exchange, format_.decoder(turn, self._first), moved)
        except BaseException:
            if exchange is not None:
                exchange.close()
            choice.__exit__(None, None, None)
            raise

    def _give_up(self, asked: Try, error: UpstreamError) -> None:
        self._tries.failed(asked, error)
        self._shut()

    # --- what is ours to say

    def _head(self) -> bytes:
        return head(self._recorder.begun(self._at_work().decoder.defaults), self._turn.preface)

    def _end(self) -> bytes:
        """The terminal event, once its row is committed."""
        passage = self._at_work()
        answer = passage.decoder.answer
        assert answer is not None
        if answer.status == "failed":
            raise _failed(answer)
        self._tries.succeeded(passage.asked)
        response = self._recorder.finish(answer, passage.choice)
        self._ended = True
        kind = f"response.{answer.status}"
        return _terminal({"type": kind, "sequence_number": passage.decoder.sequence, "response": response})

    def _failure(self, error: GatewayError) -> bytes:
        passage = self._passage
        number, partial, choice = self._first, [], None
        if passage is not None:
            number, partial, choice = passage.decoder.sequence, passage.decoder.partial(), passage.choice
            if isinstance(error, UpstreamError):
                self._give_up(passage.asked, error)
        response = self._recorder.fail(error, partial, choice)
        self._ended = True
        return sse.encode({"type": "error", "sequence_number": number, "error": error.error()}) + _terminal(
            {"type": "response.failed", "sequence_number": number + 1, "response": response}
        )

    # --- leaving

    def _leave(self) -> None:
        """Closed before the end: what came is kept as a cancelled response, once."""
        passage = self._passage
        if not self._ended:
            self._ended = True
            partial = passage.decoder.partial() if passage else []
            self._recorder.cancel(partial, passage.choice if passage else None)
        self._shut()

    def _shut(self) -> None:
        if self._passage is not None:
            self._passage.close()
            self._passage = None

    def _at_work(self) -> _Passage:
        assert self._passage is not None
        return self._passage


def _failed(answer: Answer) -> UpstreamError:
    error = answer.error or {}
    return UpstreamError(error.get("message") or "The model's server failed.", code=error.get("code"))
