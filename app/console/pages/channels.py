"""/console/channels: each channel over all workers, what happened on it, and what an operator can do about it."""

from __future__ import annotations

import time
from dataclasses import replace
from urllib.parse import quote

from flask import Blueprint, Response

from app.channels.watched_table import LastTable, stamp_of
from app.console.access import Visitor, operators_only, signed_in
from app.console.answers import page, see_other
from app.console.strips import strip_of
from app.contract.channel import Channel
from app.contract.pauses import USUAL
from app.errors import InvalidRequest, NotFound
from app.reports.channel_overview import DAY_SECONDS, HOUR, SLOTS, ChannelOverview, channel_overviews, channel_summaries
from app.reports.channel_states import all_channels
from app.reports.channel_test import try_channel

blueprint = Blueprint("channels", __name__)

URL = "/console/channels"
#: Seconds to wait for each answer of a test, and after which it begins no further step.
_TEST_TIMEOUT, _TEST_LIMIT = 15, 45
#: Marks of the time below a strip.
_MARKS = 4


@blueprint.get("/channels")
@signed_in
def channels(visitor: Visitor) -> Response:
    gateway, watched = visitor.gateway, _table(visitor)
    if not visitor.is_operator:
        tags = gateway.limiter.limits_of(visitor.token).tags
        summaries = channel_summaries(watched.current, gateway.store, visitor.token, tags)
        return page("channels_of_owner.html", visitor, active="Channels", channels=summaries)
    overviews = channel_overviews(watched.current, gateway.store)
    return page(
        "channels.html",
        visitor,
        active="Channels",
        channels=overviews,
        strips={one.report.channel.name: strip_of(one.outcomes) for one in overviews},
        table=watched,
        file=watched.path.name,
        marks=_marks(),
        hour=HOUR,
        day=SLOTS,
        minutes=USUAL // 60,
        is_troubled=_is_troubled,
    )


@blueprint.post("/channels/reload")
@operators_only
def reload(visitor: Visitor) -> Response:
    stamp = stamp_of(_table(visitor).path)
    try:
        stamp.touch()
    except OSError as error:
        raise InvalidRequest(
            f"The gateway cannot touch {stamp.name} beside its channel table: {error.strerror}. "
            "Give that file to the user that the gateway runs as, or run: antiphon reload"
        ) from error
    visitor.gateway.store.audit.record(visitor.token, "reload", stamp.name)
    return see_other(URL)


@blueprint.post("/channels/<name>/pause")
@operators_only
def pause(visitor: Visitor, name: str) -> Response:
    """For ten minutes."""
    _known(visitor, name)
    reason = visitor.form.get("reason")
    visitor.gateway.store.audit.record(visitor.token, "pause", name, reason=reason or None)
    visitor.gateway.store.pauses.pause(name, USUAL, visitor.owner, reason)
    return _noticed(visitor, name)


@blueprint.post("/channels/<name>/drain")
@operators_only
def drain(visitor: Visitor, name: str) -> Response:
    _known(visitor, name)
    reason = visitor.form.get("reason")
    visitor.gateway.store.audit.record(visitor.token, "drain", name, reason=reason or None)
    visitor.gateway.store.pauses.drain(name, visitor.owner, reason)
    return _noticed(visitor, name)


@blueprint.post("/channels/<name>/resume")
@operators_only
def resume(visitor: Visitor, name: str) -> Response:
    """Also for a channel that the table no longer has."""
    visitor.gateway.store.audit.record(visitor.token, "resume", name)
    visitor.gateway.store.pauses.resume(name)
    return _noticed(visitor, name)


@blueprint.post("/channels/<name>/end-cooldown")
@operators_only
def end_cooldown(visitor: Visitor, name: str) -> Response:
    _known(visitor, name)
    visitor.gateway.store.audit.record(visitor.token, "end cooldown", name)
    if not visitor.gateway.store.pauses.end_cooldown(name, visitor.owner):
        raise InvalidRequest(f"The channel {name} is out of service: resume it first.")
    return _noticed(visitor, name)


@blueprint.post("/channels/<name>/forget")
@operators_only
def forget(visitor: Visitor, name: str) -> Response:
    """Forgets what was learnt for one model of the channel's upstream, or for all."""
    _known(visitor, name)
    visitor.gateway.store.audit.record(visitor.token, "forget", name)
    visitor.gateway.store.remedies.forget(name, visitor.form.get("model") or None)
    return _noticed(visitor, name)


@blueprint.get("/channels/<name>/test")
@operators_only
def before_test(visitor: Visitor, name: str) -> Response:
    """Says what a test costs before it runs."""
    channel = _known(visitor, name)
    models = [*channel.models]
    return page("channel_test.html", visitor, active="Channels", channel=channel, models=models, result=None)


@blueprint.post("/channels/<name>/test")
@operators_only
def test(visitor: Visitor, name: str) -> Response:
    channel = replace(_known(visitor, name), enabled=True)
    model = visitor.form.get("model") or None
    if model is not None and channel.upstream_model(model) is None:
        raise InvalidRequest(f"The channel {name} does not serve the model '{model}'.", param="model")
    visitor.gateway.store.audit.record(visitor.token, "test channel", name)
    result = try_channel(_table(visitor), channel, model, _TEST_TIMEOUT, _TEST_LIMIT)
    models = [*channel.models]
    return page("channel_test.html", visitor, active="Channels", channel=channel, models=models, result=result)


def _table(visitor: Visitor) -> LastTable:
    return visitor.gateway.state.table


def _known(visitor: Visitor, name: str) -> Channel:
    found = next((channel for channel in all_channels(_table(visitor).current) if channel.name == name), None)
    if found is None:
        raise NotFound("The channel table has no channel of this name.")
    return found


def _noticed(visitor: Visitor, name: str) -> Response:
    """Back to the channel. This worker knows the change at once, the others at their next tick."""
    visitor.gateway.channels.refresh()
    return see_other(f"{URL}#{quote(name)}")


def _is_troubled(channel: ChannelOverview) -> bool:
    """Whether its errors are shown without being asked for."""
    return bool(channel.errors) and channel.outcomes.failed(HOUR) > 0


def _marks() -> list[str]:
    """The times below a strip, in the server's zone."""
    now = int(time.time())
    begin = now - DAY_SECONDS
    return [time.strftime("%H:%M", time.localtime(begin + mark * DAY_SECONDS // _MARKS)) for mark in range(_MARKS)]
