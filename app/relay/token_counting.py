"""How many tokens a context takes: as an upstream counts them that can, else as they are estimated."""

from __future__ import annotations

import logging
from typing import cast

from app.contract import usage
from app.contract.channel import Channel
from app.contract.records import Attempt
from app.contract.turn import Turn
from app.errors import ChannelsBusy, InvalidRequest, UpstreamError
from app.formats import Counting, Format
from app.relay.attempts import ChannelAttempt, ChannelAttempts, Fit
from app.relay.compaction.service import context_tokens
from app.relay.ports import Channels
from app.relay.request_watch import Watch

log = logging.getLogger(__name__)


def count(turn: Turn, channels: Channels, fit: Fit, *, prefer: str | None, watch: Watch) -> int | None:
    """As the first channel that can has counted; None when none could. Raises InvalidRequest and FormatNotServed for
    a model that would not be answered either.

    How a count goes says nothing of how a channel answers: its failures do not make it rest.
    """
    choices = channels.choices(turn.model, prefer, _cannot, owner=turn.owner)
    counting = (choice for choice in choices if choice.channel.count_tokens)
    try:
        return ChannelAttempts(counting, _log, counted=()).first(_Count(turn, fit, watch))
    except (ChannelsBusy, InvalidRequest, UpstreamError):
        return None


def estimate(turn: Turn) -> int:
    """The size of the context, and of the instructions and tools where no upstream has counted them with it."""
    tip = turn.chain.tip
    counted = tip is not None and tip.input_tokens
    return context_tokens(turn) + (0 if counted else usage.estimate(len(turn.echo.settings())))


class _Count:
    """The step that has a channel count."""

    def __init__(self, turn: Turn, fit: Fit, watch: Watch) -> None:
        self._turn = turn
        self._fit = fit
        self._watch = watch

    def run(self, attempt: ChannelAttempt) -> int:
        choice = attempt.choice
        format_ = cast(Counting, choice.format)
        body = format_.encode_count(self._fit(self._turn, choice.channel.family), choice.channel, choice.model)
        exchange = attempt.open(format_.count_path(choice.model), body, accept="application/json", watch=self._watch)
        return format_.decode_count(exchange.read())


def _log(attempt: Attempt) -> None:
    if attempt.error is not None:
        log.info("channel %s did not count tokens: %s", attempt.channel, attempt.error)


def _cannot(row: Channel, _: Format) -> int:
    """Those that count are asked before those that do not."""
    return 0 if row.count_tokens else 1
