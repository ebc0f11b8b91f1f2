"""How many tokens a context takes: as an upstream counts them that can, else as they are estimated."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import cast

from app.contract import usage
from app.errors import ChannelsBusy, InvalidRequest, UpstreamError
from app.formats import Counting, Format
from app.relay.asking import Fit
from app.relay.compaction import context_tokens
from app.relay.ports import ChannelRow, Channels, Choice
from app.relay.watch import Watch
from app.turn import Turn

log = logging.getLogger(__name__)


def count(turn: Turn, channels: Channels, fit: Fit, *, prefer: str | None, watch: Watch) -> int | None:
    """As the first channel that can has counted; None when none could. Raises InvalidRequest and FormatNotServed for
    a model that would not be answered either.

    How a count goes says nothing of how a channel answers: its failures do not make it rest.
    """
    for choice in _choices(turn, channels, prefer):
        try:
            with choice:
                return _counted(fit(turn, choice.channel.family), choice, watch)
        except (InvalidRequest, UpstreamError) as error:
            log.info("channel %s did not count tokens: %s", choice.channel.name, error.name)
    return None


def estimate(turn: Turn) -> int:
    """The size of the context, and of the instructions and tools where no upstream has counted them with it."""
    tip = turn.chain.tip
    counted = tip is not None and tip.input_tokens
    return context_tokens(turn) + (0 if counted else usage.estimate(len(turn.echo.settings())))


def _choices(turn: Turn, channels: Channels, prefer: str | None) -> Iterator[Choice]:
    choices = channels.choices(turn.model, prefer, _cannot, owner=turn.owner)
    try:
        yield from (choice for choice in choices if choice.channel.count_tokens)
    except ChannelsBusy:
        return


def _cannot(row: ChannelRow, _: Format) -> int:
    """Those that count are asked before those that do not."""
    return 0 if row.count_tokens else 1


def _counted(turn: Turn, choice: Choice, watch: Watch) -> int:
    format_ = cast(Counting, choice.format)
    body = format_.encode_count(turn, choice.channel, choice.model)
    exchange = choice.post(format_.COUNT_PATH, body, accept="application/json", watch=watch)
    try:
        content = exchange.read()
        if exchange.status != 200:
            raise choice.format.decode_error(exchange.status, exchange.headers, content)
        return format_.decode_count(content)
    finally:
        exchange.close()
