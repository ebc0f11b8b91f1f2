"""Asking channels for a whole answer, one after the other, until one has it."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from app.errors import UpstreamBroken, UpstreamError
from app.formats import Format
from app.relay.ports import Channels, Choice, Exchange
from app.turn import Answer, Turn

#: Told of every try: the channel, when it began, what it failed with.
Tried = Callable[[Choice, float, UpstreamError | None], None]
#: The turn as one channel can read it.
Fit = Callable[[Turn, str], Turn]


def ask(
    turn: Turn, channels: Channels, fit: Fit, tried: Tried, *, prefer: str | None, client: int | None
) -> tuple[Answer, Choice]:
    """The answer of the first channel that has one. Raises UpstreamError, the last or the one that speaks for all."""
    last: UpstreamError | None = None
    for choice in channels.choices(turn.model, prefer):
        began = monotonic()
        with choice:
            try:
                answer = whole_answer(fit(turn, choice.channel.family), choice, client)
            except UpstreamError as error:
                choice.failed(error)
                tried(choice, began, error)
                if not error.elsewhere:
                    raise
                last = error
                continue
            choice.succeeded()
            tried(choice, began, None)
            return answer, choice
    raise last or UpstreamBroken("No channel is left to ask.")


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
