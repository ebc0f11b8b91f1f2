"""Reads the answer of a channel to a turn: unstreamed, as a stream for a client, or as a stream for no client."""

from __future__ import annotations

from contextlib import closing

from app.errors import UpstreamBroken
from app.formats import Decoder, Format, replay
from app.relay.asking import ChannelAttempt, TurnAttempt
from app.relay.mover import Client, Flow, Mover
from app.relay.ports import Choice, Exchange
from app.relay.watch import Watch
from app.turn import Answer, Turn

JSON = "application/json"
EVENTS = "text/event-stream"


class Unstreamed:
    """The step that has a turn answered in one piece."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def run(self, attempt: TurnAttempt) -> tuple[Answer, TurnAttempt]:
        answer = posted(attempt, attempt.turn, _path(attempt.turn, attempt.choice), attempt.encoded(), self._watch)
        attempt.path = answer.path
        return answer, attempt


class StreamedInside:
    """The step that reads a stream for no client. A hang-up closes the upstream while it still writes."""

    def __init__(self, watch: Watch, mover: Mover) -> None:
        self._watch = watch
        self._mover = mover

    def run(self, attempt: TurnAttempt) -> tuple[Answer, TurnAttempt]:
        flow, _ = open_flow(attempt, 0, self._watch, None)
        self._mover.read(flow)
        answer = _whole(flow.decoder.answer)
        attempt.path = answer.path
        return answer, attempt


def open_flow(attempt: TurnAttempt, number: int, watch: Watch, client: Client | None) -> tuple[Flow[Decoder], bytes]:
    """The stream of a channel that has answered with 200, and the events that it begins with. The next event that is
    sent on has the number `number`. The attempt closes its exchange. Raises UpstreamError, ClientGone."""
    turn, format_ = attempt.turn, attempt.choice.format
    exchange = attempt.open(_path(turn, attempt.choice), attempt.encoded(), accept=EVENTS, watch=watch)
    limits = attempt.choice.channel.timeouts
    if "json" in exchange.headers.get("content-type", ""):
        # Asked for a stream and answered in one piece: the client still gets its events.
        answer = replay(format_.decode(exchange.read(), turn), turn, number)
        return Flow(exchange, answer, limits, watch, client), answer.feed(b"")
    return Flow(exchange, format_.decoder(turn, number), limits, watch, client), b""


def _path(turn: Turn, choice: Choice) -> str:
    return choice.format.path(choice.model, turn.stream)


def posted(attempt: ChannelAttempt, turn: Turn, path: str, body: bytes, watch: Watch) -> Answer:
    """The answer to one unstreamed request of an attempt."""
    return _decoded(attempt.choice.format, attempt.open(path, body, accept=JSON, watch=watch), turn)


def whole_answer(turn: Turn, choice: Choice, watch: Watch | None) -> Answer:
    """The answer of this very channel, without an attempt that counts for it."""
    format_ = choice.format
    body = format_.encode(turn, choice.channel, choice.model)
    with closing(choice.post(_path(turn, choice), body, accept=JSON, watch=watch)) as exchange:
        return _decoded(format_, exchange, turn)


def _decoded(format_: Format, exchange: Exchange, turn: Turn) -> Answer:
    content = exchange.read()
    if "event-stream" not in exchange.headers.get("content-type", ""):
        return format_.decode(content, turn)
    # Some upstreams stream whether they were asked to or not.
    decoder = format_.decoder(turn, 0)
    decoder.feed(content)
    decoder.finish()
    return _whole(decoder.answer)


def _whole(answer: Answer | None) -> Answer:
    """Raises UpstreamBroken for an answer that has failed after it had begun."""
    if answer is None or answer.status == "failed":
        if answer is not None and answer.failure is not None:
            raise answer.failure
        error = answer.error if answer else None
        raise UpstreamBroken((error or {}).get("message") or "The model's server failed.")
    return answer
