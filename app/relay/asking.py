"""Asking channels, one after the other, until one has an answer.

A channel is passed over when its format cannot carry the turn, and asked once more when its format can mend what it
refused.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from time import monotonic

from app.errors import ClientGone, GatewayError, InvalidRequest, UpstreamBroken, UpstreamError, UpstreamLoading
from app.formats import Decoder, Format, replay
from app.records import Attempt
from app.relay.mover import Client, Flow, Mover
from app.relay.ports import ChannelRow, Channels, Choice, Exchange, Wait
from app.relay.watch import Watch
from app.turn import Answer, Turn

#: Told of every try.
Tried = Callable[[Attempt], None]
#: The turn as one channel can read it.
Fit = Callable[[Turn, str], Turn]


@dataclass(frozen=True, slots=True)
class Try:
    """One channel and what it is asked: the turn as it can read it."""

    choice: Choice
    turn: Turn
    body: bytes
    dropped: Sequence[str]
    """Types of the tools that it is not told of."""
    began: float


class Tries:
    """The tries of one turn, in the order in which they are made."""

    def __init__(
        self, turn: Turn, channels: Channels, fit: Fit, tried: Tried, watch: Watch | None, prefer: str | None
    ) -> None:
        self._turn = turn
        self._fit = fit
        self._tried = tried
        self._choices = channels.choices(turn.model, prefer, self._loss, owner=turn.owner, wait=pausing(watch))
        self._last: GatewayError | None = None
        self._refused: Try | None = None
        self._asked_again: Choice | None = None

    def next(self) -> Try:
        """Raises GatewayError when nobody is left to ask: the last failure, or the one that speaks for all."""
        if (again := self._amended()) is not None:
            return again
        if isinstance(self._last, UpstreamError) and not self._last.elsewhere:
            raise self._last
        for choice in self._choices:
            try:
                return _try(choice, self._fit(self._turn, choice.channel.family))
            except InvalidRequest as error:
                # Nobody was asked: what one format cannot carry, another may.
                self._last = self._last or error
        raise self._last or UpstreamBroken("No channel is left to ask.")

    def failed(self, asked: Try, error: UpstreamError) -> None:
        asked.choice.failed(error)
        if not (isinstance(error, UpstreamLoading) and isinstance(self._last, UpstreamLoading)):
            # That a model is still being loaded is written down once, however often it was asked for.
            self._tried(attempt(asked.choice, asked.began, error))
        self._last, self._refused = error, asked

    def succeeded(self, asked: Try, path: str) -> None:
        """`path`: how its answer was read."""
        asked.choice.succeeded()
        asked.choice.took(path)
        self._tried(attempt(asked.choice, asked.began, None, asked.dropped, path))

    def _amended(self) -> Try | None:
        """The channel that failed last, asked for what it may take instead; once."""
        refused, self._refused = self._refused, None
        if refused is None or refused.choice is self._asked_again or not isinstance(self._last, UpstreamError):
            return None
        choice = self._asked_again = refused.choice
        turn = choice.format.amended(refused.turn, choice.channel, self._last)
        return _try(choice, turn) if turn is not None else None

    def _loss(self, row: ChannelRow, format_: Format) -> int:
        return len(format_.dropped(self._turn, row))


def pausing(watch: Watch | None) -> Wait:
    """How one waits for something else than an answer, while the watch is seen to."""

    def pause(seconds: float) -> None:
        poll = select.poll()
        if watch is not None and watch.client is not None:
            poll.register(watch.client, select.POLLRDHUP)
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0:
            if poll.poll(1000 * (left if watch is None else min(left, watch.pause()))):
                raise ClientGone
            if watch is not None:
                watch.tick()

    return pause


def _try(choice: Choice, turn: Turn) -> Try:
    """Raises InvalidRequest for what the channel's format cannot carry."""
    format_, row = choice.format, choice.channel
    return Try(choice, turn, format_.encode(turn, row, choice.model), format_.dropped(turn, row), monotonic())


#: How the answer of a channel is had.
Read = Callable[[Try], Answer]


def ask(
    turn: Turn, channels: Channels, fit: Fit, tried: Tried, read: Read, *, watch: Watch | None, prefer: str | None
) -> tuple[Answer, Try]:
    """The answer of the first channel that has one. Raises GatewayError, the last or the one that speaks for all."""
    tries = Tries(turn, channels, fit, tried, watch, prefer)
    while True:
        asked = tries.next()
        with asked.choice:
            try:
                answer = read(asked)
            except UpstreamError as error:
                tries.failed(asked, error)
                continue
            tries.succeeded(asked, answer.path)
            return answer, asked


def in_one_piece(watch: Watch) -> Read:
    """The answer is asked for unstreamed."""
    return lambda asked: post(asked.turn, asked.choice, asked.choice.format.PATH, asked.body, watch)


def from_stream(watch: Watch, mover: Mover) -> Read:
    """The answer is asked for as a stream that nobody is sent: a hang-up closes the upstream while it still writes."""

    def read(asked: Try) -> Answer:
        flow, _ = open_flow(asked, 0, watch, None)
        with closing(flow.exchange):
            mover.read(flow)
        return _whole(flow.decoder.answer)

    return read


def open_flow(asked: Try, number: int, watch: Watch, client: Client | None) -> tuple[Flow[Decoder], bytes]:
    """The stream of a channel that has answered with 200, and events that it begins with. The next event to be sent on
    is numbered `number`. Whoever opens it closes its exchange. Raises UpstreamError, ClientGone."""
    choice, turn, format_ = asked.choice, asked.turn, asked.choice.format
    exchange = choice.post(format_.PATH, asked.body, accept="text/event-stream", watch=watch)
    try:
        if exchange.status != 200:
            raise format_.decode_error(exchange.status, exchange.headers, exchange.read())
        limits = choice.channel.timeouts
        if "json" in exchange.headers.get("content-type", ""):
            # Asked for a stream and answered in one piece: the client still gets its events.
            answer = replay(format_.decode(exchange.read(), turn), turn, number)
            return Flow(exchange, answer, limits, watch, client), answer.feed(b"")
        return Flow(exchange, format_.decoder(turn, number), limits, watch, client), b""
    except BaseException:
        exchange.close()
        raise


def whole_answer(turn: Turn, choice: Choice, watch: Watch | None) -> Answer:
    format_ = choice.format
    body = format_.encode(turn, choice.channel, choice.model)
    return post(turn, choice, format_.PATH, body, watch)


def post(turn: Turn, choice: Choice, path: str, body: bytes, watch: Watch | None) -> Answer:
    exchange = choice.post(path, body, accept="application/json", watch=watch)
    try:
        content = exchange.read()
        if exchange.status != 200:
            raise choice.format.decode_error(exchange.status, exchange.headers, content)
        return _decoded(choice.format, exchange, content, turn)
    finally:
        exchange.close()


def attempt(
    choice: Choice, began: float, error: GatewayError | None, dropped: Sequence[str] = (), path: str = ""
) -> Attempt:
    """What is written down of a try."""
    milliseconds = round((monotonic() - began) * 1000)
    status, code = (error.status, error.name) if error else (200, None)
    said = error.said if isinstance(error, UpstreamError) else None
    return Attempt(choice.channel.name, milliseconds, status, code, path, tuple(dropped), said)


def _decoded(format_: Format, exchange: Exchange, content: bytes, turn: Turn) -> Answer:
    if "event-stream" not in exchange.headers.get("content-type", ""):
        return format_.decode(content, turn)
    # Some upstreams stream whether they were asked to or not.
    decoder = format_.decoder(turn, 0)
    decoder.feed(content)
    decoder.finish()
    return _whole(decoder.answer)


def _whole(answer: Answer | None) -> Answer:
    """Raises UpstreamBroken for one that has failed after it had begun."""
    if answer is None or answer.status == "failed":
        if answer is not None and answer.failure is not None:
            raise answer.failure
        error = answer.error if answer else None
        raise UpstreamBroken((error or {}).get("message") or "The model's server failed.")
    return answer
