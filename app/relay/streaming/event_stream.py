"""The walk of a streamed turn: open a channel, send the head, move the events, store, then say how it ended.

Until the head has been sent a failure is an exception and becomes a status line; from then on only events speak. Until
the first output event another channel may go on under the same id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app import sse
from app.contract.events import ERROR, FAILED
from app.contract.items import Item
from app.contract.turn import Answer, Turn
from app.errors import ClientGone, GatewayError, InternalError, UpstreamError
from app.formats import Decoder
from app.relay.attempts import TurnAttempt, TurnAttempts, open_flow
from app.relay.ports import Choice
from app.relay.request_watch import Watch
from app.relay.streaming.client_connection import Client
from app.relay.streaming.lifecycle_events import _terminal
from app.relay.streaming.stream_start import Announcement
from app.relay.streaming.transport import Flow, Mover

log = logging.getLogger(__name__)

#: Events of an item that needs no deltas: added and done.
_PER_ITEM = 2


def last_words(
    announcement: Announcement,
    error: GatewayError,
    number: int | None = None,
    partial: Callable[[], Sequence[Item]] = tuple,
    choice: Choice | None = None,
) -> bytes:
    """The end of a stream that has failed, once that is stored: `error` and `response.failed`, from `number` on.

    The last border of a stream: whatever cannot be stored or told of what came, the end is.
    """
    recorder = announcement.recorder
    if number is None:
        number = announcement.length
    ways: Sequence[tuple[GatewayError, Callable[[], Sequence[Item]]]] = (
        (error, partial),
        (error, tuple),
        (InternalError(), tuple),
    )
    for why, kept in ways:
        try:
            return _failed_ending(recorder.fail(why, kept(), choice), why, number)
        except Exception:  # The border that must not die: whatever it was, less is tried.
            log.exception("response %s: its end cannot be stored and told as it was", announcement.id)
    return _failed_ending(recorder.failed(InternalError()), InternalError(), number)


def _failed_ending(response: Mapping[str, Any], error: GatewayError, number: int) -> bytes:
    return sse.encode({"type": ERROR, "sequence_number": number, "error": error.error()}) + _terminal(
        {"type": FAILED, "sequence_number": number + 1, "response": response}
    )


@dataclass(slots=True)
class _Passage:
    """The attempt that is at work on the turn."""

    attempt: TurnAttempt
    flow: Flow[Decoder]
    ready: bytes = b""
    """What has come with the first valid event."""

    @property
    def choice(self) -> Choice:
        return self.attempt.choice

    @property
    def decoder(self) -> Decoder:
        return self.flow.decoder

    def take_ready(self) -> bytes:
        ready, self.ready = self.ready, b""
        return ready


class EventStream:
    """A streamed response as bytes. Iterated by the server once `open` has returned; `close` ends it at any time."""

    def __init__(
        self,
        turn: Turn,
        attempts: TurnAttempts,
        announcement: Announcement,
        watch: Watch,
        client: Client | None,
        mover: Mover,
    ) -> None:
        """`client`: where the mover may write by itself."""
        self._turn = turn
        self._announcement = announcement
        self._first = announcement.length + _PER_ITEM * len(turn.preface)
        self._recorder = announcement.recorder
        self._watch = watch
        self._client = client
        self._mover = mover
        self._attempts = attempts
        self._passage: _Passage | None = None
        self._ended = False
        self._events = self._walk()

    def open(self) -> EventStream:
        """Until an upstream has accepted and the row is committed. Raises GatewayError or ClientGone."""
        try:
            self._go_on()
            self._announcement.commit()
        except ClientGone:
            self.close()
            raise
        except BaseException:
            # Its end is told and written where it was begun.
            self._ended = True
            self.close()
            raise
        return self

    @property
    def dropped(self) -> Sequence[str]:
        """Types of the tools that the channel that has accepted was not told of."""
        return self._at_work().attempt.dropped

    def __iter__(self) -> Iterator[bytes]:
        return self._events

    def close(self) -> None:
        """Whoever stops listening: the upstream is closed and what came is stored."""
        try:
            self._events.close()
            self._leave()
        finally:
            self._announcement.end()

    # --- the walk

    def _walk(self) -> Generator[bytes, None, None]:
        try:
            if begun := self._head() + self._at_work().take_ready():
                yield begun
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
                self._give_up(passage, error)
                self._go_on()

    def _go_on(self) -> None:
        """To the next channel that accepts. Raises GatewayError when no attempt succeeds."""
        self._attempts.first(self)

    def run(self, attempt: TurnAttempt) -> None:
        """The step of one attempt: opens its stream up to the first valid event."""
        passage = self._passage = _Passage(attempt, *open_flow(attempt, self._first, self._watch, self._client))
        try:
            passage.ready += self._mover.accept(passage.flow)
        except UpstreamError:
            self._passage = None
            raise
        attempt.choice.accepted()
        attempt.go_on()

    def _give_up(self, passage: _Passage, error: UpstreamError) -> None:
        passage.attempt.failed(error)
        self._shut()

    # --- what is ours to say

    def _head(self) -> bytes:
        return self._announcement.head(self._at_work().decoder.defaults, self._turn.preface)

    def _end(self) -> bytes:
        """The terminal event, once its row is committed."""
        passage = self._at_work()
        answer = passage.decoder.answer
        assert answer is not None
        if answer.status == "failed":
            raise _failed(answer)
        passage.attempt.path = passage.decoder.path
        passage.attempt.succeeded()
        number = passage.decoder.sequence

        ended = self._recorder.ended(answer, passage.choice)
        event = {"type": f"response.{answer.status}", "sequence_number": number, "response": ended.response}
        # Before the commit: what cannot be encoded is not stored.
        ending = _terminal(event)
        self._recorder.store(ended)
        self._ended = True
        return ending

    def _failure(self, error: GatewayError) -> bytes:
        passage = self._passage
        if passage is None:
            ending = last_words(self._announcement, error, self._first)
        else:
            decoder = passage.decoder
            number = decoder.sequence
            if isinstance(error, UpstreamError):
                self._give_up(passage, error)
            ending = last_words(self._announcement, error, number, decoder.partial, passage.choice)
        self._ended = True
        return ending

    # --- leaving

    def _leave(self) -> None:
        """Closed before the end: what came is kept as a cancelled response, once."""
        passage, ended = self._passage, self._ended
        self._ended = True
        try:
            if not ended:
                self._cancel(passage)
        finally:
            self._shut()

    def _cancel(self, passage: _Passage | None) -> None:
        try:
            if passage is not None:
                self._recorder.cancel(passage.decoder.partial(), passage.choice)
                return
        except Exception:
            # The client has left; that the response has ended is written all the same.
            log.exception("response %s: what came of it cannot be stored", self._turn.id)
        self._recorder.cancel()

    def _drop(self) -> None:
        """What the client has not taken by now, it will not take."""
        if self._client is not None:
            self._client.drop()

    def _shut(self) -> None:
        if self._passage is not None:
            self._passage.attempt.close()
            self._passage = None

    def _at_work(self) -> _Passage:
        assert self._passage is not None
        return self._passage


def _failed(answer: Answer) -> UpstreamError:
    if answer.failure is not None:
        answer.failure.code = answer.failure.name
        return answer.failure
    error = answer.error or {}
    return UpstreamError(error.get("message") or "The model's server failed.", code=error.get("code"))
