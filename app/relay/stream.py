"""The walk of a streamed turn: open a channel, send the head, move the events, store, then say how it ended.

Until the head has been sent a failure is an exception and becomes a status line; from then on only events speak. Until
the first output event another channel may go on under the same id.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app import sse
from app.errors import ClientGone, GatewayError, InternalError, UpstreamError
from app.formats import Decoder, Emitter, replay
from app.records import CHAINABLE
from app.relay.asking import Fit, Tries, Try
from app.relay.keeper import Running
from app.relay.mover import Client, Flow, Mover, Stop
from app.relay.ports import Channels, Choice, Exchange
from app.relay.recorder import Recorder
from app.turn import Answer, Item, Turn

log = logging.getLogger(__name__)

#: The events that a stream begins with and the statuses that they tell. They are ours; the upstream speaks next.
_AT_ONCE = (("response.created", "in_progress"), ("response.in_progress", "in_progress"))
_FROM_QUEUE = (("response.created", "queued"), ("response.queued", "queued"), ("response.in_progress", "in_progress"))
#: Events of an item that needs no deltas: added and done.
_PER_ITEM = 2


def head(begun: Mapping[str, Any], preface: Sequence[Item]) -> bytes:
    """What a stream begins with, and the items of ours that stand before the answer."""
    return b"".join(_head(Emitter(), begun, preface))


def told_of(begun: Mapping[str, Any]) -> Sequence[bytes]:
    """The events of a response that waits in the queue."""
    return list(_head(Emitter(), begun, ()))[:-1]


def whole(response: Mapping[str, Any]) -> Iterator[bytes]:
    """A response that is stored already, as the stream that was asked for."""
    emitter = Emitter()
    begun = {**response, "output": [], "usage": None, "error": None, "incomplete_details": None, "completed_at": None}
    yield b"".join(_head(emitter, begun, response["output"]))
    yield ending(response, emitter.sequence)


def ending(response: Mapping[str, Any], number: int, after: int = -1) -> bytes:
    """How the stream of a response ends that has ended: one terminal event, behind an error when it has failed. What is
    numbered up to `after` has been seen and is left out.
    """
    events = [
        {"type": kind, "sequence_number": place, **told} for place, (kind, told) in enumerate(_last(response), number)
    ]
    return b"".join(sse.encode(event) for event in events if event["sequence_number"] > after) + sse.DONE


def _last(response: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if response["status"] in CHAINABLE:
        yield f"response.{response['status']}", {"response": response}
    else:
        yield "error", {"error": {"type": "server_error", "param": None, **response["error"]}}
        yield "response.failed", {"response": response}


def _head(emitter: Emitter, begun: Mapping[str, Any], preface: Sequence[Item]) -> Iterator[bytes]:
    for kind, status in _opening(begun["background"]):
        yield emitter.event(kind, response={**begun, "status": status})
    for item in preface:
        yield from emitter.item(item)


def _opening(background: bool) -> Sequence[tuple[str, str]]:
    return _FROM_QUEUE if background else _AT_ONCE


def _terminal(event: Mapping[str, Any]) -> bytes:
    return sse.encode(event) + sse.DONE


@dataclass(slots=True)
class _Passage:
    """One channel at work on the turn. Closed by whoever opened it."""

    asked: Try
    flow: Flow[Decoder]
    ready: bytes = b""
    """What has come with the first valid event."""

    @property
    def choice(self) -> Choice:
        return self.asked.choice

    @property
    def decoder(self) -> Decoder:
        return self.flow.decoder

    def take_ready(self) -> bytes:
        ready, self.ready = self.ready, b""
        return ready

    def close(self) -> None:
        self.flow.exchange.close()
        self.choice.__exit__(None, None, None)


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
        watched: int | None,
        client: Client | None,
        mover: Mover,
        running: Running,
    ) -> None:
        """`watched`: the descriptor on which a hang-up is seen; `client`: where the mover may write by itself."""
        self._turn = turn
        self._running = running
        self._stop = Stop()
        self._first = len(_opening(turn.background)) + _PER_ITEM * len(turn.preface)
        self._recorder = recorder
        self._watched = watched
        self._client = client
        self._mover = mover
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
                self._running.add(self._turn.id, self._stop.ask)
            if self._client is not None:
                self._client.limit(self._mover.pace.stall)
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
            yield self._head() + self._at_work().take_ready()
            self._recorder.first_byte()
            yield from self._relayed()
            yield self._end()
        except GeneratorExit:
            self._leave()
            self._drop()
            raise
        except ClientGone:
            self._leave()
            self._drop()
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
                if ready := passage.take_ready():
                    yield ready
                yield from self._mover.move(passage.flow)
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
                self._passage.ready += self._mover.accept(self._passage.flow)
                return
            except UpstreamError as error:
                self._give_up(asked, error)

    def _open_passage(self, asked: Try) -> _Passage:
        choice, turn, format_ = asked.choice, asked.turn, asked.choice.format
        choice.__enter__()
        exchange: Exchange | None = None
        try:
            exchange = choice.post(format_.PATH, asked.body, accept="text/event-stream", client=self._watched)
            if exchange.status != 200:
                raise format_.decode_error(exchange.status, exchange.headers, exchange.read())
            if "json" in exchange.headers.get("content-type", ""):
                # Asked for a stream and answered in one piece: the client still gets its events.
                answer = format_.decode(exchange.read(), turn)
                whole_answer = replay(answer, turn, self._first)
                return _Passage(asked, self._flow(choice, exchange, whole_answer), whole_answer.feed(b""))
            return _Passage(asked, self._flow(choice, exchange, format_.decoder(turn, self._first)))
        except BaseException:
            if exchange is not None:
                exchange.close()
            choice.__exit__(None, None, None)
            raise

    def _flow(self, choice: Choice, exchange: Exchange, decoder: Decoder) -> Flow[Decoder]:
        return Flow(exchange, decoder, choice.channel.timeouts, self._watched, self._client, self._stop)

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
        self._tries.succeeded(passage.asked, passage.decoder.path)
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

    def _drop(self) -> None:
        """What the client has not taken by now, it will not take."""
        if self._client is not None:
            self._client.drop()

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
