"""How many tokens a context takes: counted by an upstream if one can, else estimated."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from time import time
from typing import Any, cast

from app.channels.affinity import Affinity
from app.channels.selection import Channels
from app.contract.channel import Channel
from app.contract.records import Attempt, Token
from app.contract.token_estimate import estimate_context
from app.contract.turn import Turn
from app.errors import ChannelsBusy, InvalidRequest, UpstreamError
from app.formats import Counting, Format, adapted
from app.relay.attempts import ChannelAttempt, ChannelAttempts, ForChannel
from app.relay.request_context import RequestContext
from app.relay.turn_builder import build_history, check_model
from app.relay.turn_run import TurnParts, affinity_of
from app.request_watch import Watch

log = logging.getLogger(__name__)


def count_request(
    parts: TurnParts, token: Token, request: Mapping[str, Any], context: RequestContext
) -> dict[str, Any]:
    """The number of tokens that the request would take. Nothing is stored. Raises GatewayError and ClientGone."""
    model = request.get("model") or _model_before(parts, token, request)
    turn = build_history(parts.store, parts.contexts, token, {**request, "model": model}, int(time()))
    context.hold(turn)
    tokens = None
    if model:
        check_model(token, model)
        watch = Watch(context.client_fd, parts.transport.timing.drain)
        affinity = affinity_of(turn, token, parts.contexts, context)
        tokens = count(turn, parts.channels, parts.contexts.for_channel, affinity=affinity, watch=watch)
    if tokens is None:
        context.note_estimated("input_tokens")
        tokens = estimate(turn, parts.channels, token.limits.tags)
    return {"object": "response.input_tokens", "input_tokens": tokens}


def _model_before(parts: TurnParts, token: Token, request: Mapping[str, Any]) -> str:
    """The model of the previous response; empty without one."""
    previous = request.get("previous_response_id")
    stored = parts.store.responses.read(token.owner, previous) if previous else None
    return stored.model if stored else ""


def count(turn: Turn, channels: Channels, for_channel: ForChannel, *, affinity: Affinity, watch: Watch) -> int | None:
    """The count of the first channel that can count; None when no channel could. Raises InvalidRequest and
    FormatNotServed for a model that would not be answered either.

    A failed count says nothing about a channel's answers, so it starts no cooldown.
    """
    candidates = channels.select(turn.model, affinity, _cannot_count)
    counting = (selected for selected in candidates if selected.channel.count_tokens)
    try:
        return ChannelAttempts(counting, _log, counted=()).first(_Count(turn, for_channel, watch))
    except (ChannelsBusy, InvalidRequest, UpstreamError):
        return None


def estimate(turn: Turn, channels: Channels, tags: Sequence[str] | None = ()) -> int:
    """The size of the context, with instructions and tools. `tags`: of the channels that may be used."""
    images = channels.image_rule(turn.model, tags)
    return estimate_context(turn.chain, turn.input, turn.echo.shared_settings(), images)


class _Count:
    """The step that has a channel count the tokens."""

    def __init__(self, turn: Turn, for_channel: ForChannel, watch: Watch) -> None:
        self._turn = turn
        self._for_channel = for_channel
        self._watch = watch

    def run(self, attempt: ChannelAttempt) -> int:
        selected = attempt.selected
        format_ = cast(Counting, selected.format)
        turn = self._for_channel(self._turn, selected.channel)
        body, _ = adapted(format_.encode_count(turn, selected.row, selected.model), selected.row)
        exchange = attempt.open(format_.count_path(selected.model), body, accept="application/json", watch=self._watch)
        return format_.decode_count(exchange.read())


def _log(attempt: Attempt) -> None:
    if attempt.error is not None:
        log.info("channel %s did not count tokens: %s", attempt.channel, attempt.error)


def _cannot_count(row: Channel, _: Format) -> int:
    """Puts the channels that can count first."""
    return 0 if row.count_tokens else 1
