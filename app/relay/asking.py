"""Asking channels, one after the other, until one has an answer.

A channel is passed over when its format cannot carry the turn, and asked once more when its format can mend what it
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from app.errors import GatewayError, InvalidRequest, UpstreamBroken, UpstreamError
from app.formats import Format
from app.records import Attempt
from app.relay.ports import ChannelRow, Channels, Choice, Exchange
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

    def __init__(self, turn: Turn, channels: Channels, fit: Fit, tried: Tried, prefer: str | None) -> None:
        self._turn = turn
        self._fit = fit
        self._tried = tried
        self._choices = channels.choices(turn.model, prefer, self._loss)
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
        self._tried(attempt(asked.choice, asked.began, error))
        self._last, self._refused = error, asked

    def succeeded(self, asked: Try) -> None:
        asked.choice.succeeded()
        self._tried(attempt(asked.choice, asked.began, None, asked.dropped))

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


def _try(choice: Choice, turn: Turn) -> Try:
    """Raises InvalidRequest for what the channel's format cannot carry."""
    format_, row = choice.format, choice.channel
    return Try(choice, turn, format_.encode(turn, row, choice.model), format_.dropped(turn, row), monotonic())


def ask(
    turn: Turn, channels: Channels, fit: Fit, tried: Tried, *, prefer: str | None, client: int | None
) -> tuple[Answer, Try]:
    """The answer of the first channel that has one. Raises GatewayError, the last or the one that speaks for all."""
    tries = Tries(turn, channels, fit, tried, prefer)
    while True:
        asked = tries.next()
        with asked.choice:
            try:
                answer = post(asked.turn, asked.choice, asked.choice.format.PATH, asked.body, client)
            except UpstreamError as error:
                tries.failed(asked, error)
                continue
            tries.succeeded(asked)
            return answer, asked


def whole_answer(turn: Turn, choice: Choice, client: int | None) -> Answer:
    format_ = choice.format
    body = format_.encode(turn, choice.channel, choice.model)
    return post(turn, choice, format_.PATH, body, client)


def post(turn: Turn, choice: Choice, path: str, body: bytes, client: int | None) -> Answer:
    exchange = choice.post(path, body, accept="application/json", client=client)
    try:
        content = exchange.read()
        if exchange.status != 200:
            raise choice.format.decode_error(exchange.status, exchange.headers, content)
        return _decoded(choice.format, exchange, content, turn)
    finally:
        exchange.close()


def attempt(choice: Choice, began: float, error: UpstreamError | None, dropped: Sequence[str] = ()) -> Attempt:
    """What is written down of a try."""
    milliseconds = round((monotonic() - began) * 1000)
    status, code = (error.status, error.code) if error else (200, None)
    return Attempt(choice.channel.name, milliseconds, status, code, dropped=tuple(dropped))


def _decoded(format_: Format, exchange: Exchange, content: bytes, turn: Turn) -> Answer:
    if "event-stream" not in exchange.headers.get("content-type", ""):
        return format_.decode(content, turn)
    # Some upstreams stream whether they were asked to or not.
    decoder = format_.decoder(turn, 0)
    decoder.feed(content)
    decoder.finish()
    if decoder.answer is None or decoder.answer.status == "failed":
        error = decoder.answer.error if decoder.answer else None
        raise UpstreamBroken((error or {}).get("message") or "The model's server failed.")
    return decoder.answer
