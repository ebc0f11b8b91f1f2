"""Why a model's requests go to which channels: their order, their shares, and why the others get none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from app.channels.selection import MAX_ATTEMPTS
from app.channels.table import Table
from app.contract.channel import Channel
from app.contract.pauses import Pause
from app.contract.records import WorkerStatus
from app.reports.channel_states import ChannelState, all_channels, by_channel, state_of


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """One channel on the route. `place` is None when the channel gets no request, for the reason in `why_not`."""

    channel: Channel
    state: ChannelState
    place: int | None = None
    share: float = 0.0
    """The part of the requests that this channel gets among those of the same place, from 0 to 1."""
    why_not: str = ""

    @property
    def is_eligible(self) -> bool:
        return self.place is not None

    def wire(self, model: str) -> dict[str, Any]:
        return {
            "channel": self.channel.name,
            "asked": self.is_eligible,
            "place": self.place,
            "share": round(self.share, 4),
            "why_not": self.state.json_text(self.why_not) or None,
            "priority": self.channel.priority,
            "weight": self.channel.weight,
            "upstream_model": self.channel.upstream_model(model),
            "tags": list(self.channel.tags),
            **self.state.wire(),
        }


@dataclass(frozen=True, slots=True)
class Route:
    """The channels that serve a model, first those that get its requests; and the names of the other channels."""

    model: str
    entries: tuple[RouteEntry, ...]
    others: tuple[str, ...]
    default_tags: tuple[str, ...] = ()
    """Tokens without tags of their own use only channels with one of these, by the table's `limits`; empty for all."""

    @property
    def eligible(self) -> list[RouteEntry]:
        return [entry for entry in self.entries if entry.is_eligible]

    def remarks(self) -> Iterator[str]:
        """One sentence each."""
        if not self.eligible:
            yield "no channel can take a request for this model now"
        if len(self.eligible) > MAX_ATTEMPTS:
            yield f"one request tries at most {MAX_ATTEMPTS} of these channels"
        if self.others:
            yield f"channels that do not serve this model: {', '.join(self.others)}"
        if self.default_tags:
            tags = ", ".join(self.default_tags)
            yield f"tokens without tags of their own use only channels with one of the tags {tags}"

    def wire(self) -> dict[str, Any]:
        channels = [entry.wire(self.model) for entry in self.entries]
        return {
            "model": self.model,
            "channels": channels,
            "others": list(self.others),
            "default_tags": list(self.default_tags),
        }


def serving(table: Table, model: str) -> list[Channel]:
    """The channels that serve the model when they are available, in the order of the file."""
    return [channel for channel in all_channels(table) if channel.upstream_model(model) is not None]


def route_of(table: Table, model: str, workers: Sequence[WorkerStatus], pauses: Sequence[Pause] = ()) -> Route:
    channels = serving(table, model)
    others = tuple(channel.name for channel in all_channels(table) if channel not in channels)
    return Route(model, tuple(_entries(channels, workers, pauses)), others, tuple(table.limits.tags or ()))


def _entries(
    channels: Sequence[Channel], workers: Sequence[WorkerStatus], pauses: Sequence[Pause]
) -> Iterator[RouteEntry]:
    paused = by_channel(pauses)
    states = {channel.name: state_of(channel, workers, paused) for channel in channels}
    reasons = {channel.name: _why_not(channel, states[channel.name]) for channel in channels}
    eligible = sorted(
        (channel for channel in channels if not reasons[channel.name]), key=lambda channel: -channel.priority
    )
    for place, (_, equals) in enumerate(groupby(eligible, key=lambda channel: channel.priority), start=1):
        group = list(equals)
        weights = sum(channel.weight for channel in group)
        for channel in group:
            yield RouteEntry(channel, states[channel.name], place, channel.weight / weights)
    for channel in channels:
        if reason := reasons[channel.name]:
            yield RouteEntry(channel, states[channel.name], why_not=reason)


def _why_not(channel: Channel, state: ChannelState) -> str:
    if not state.is_available:
        return f"{state.text}: {channel.missing_key}" if channel.missing_key else state.text
    return "" if channel.bridge else "bridge: false, so it does not serve /v1/responses"
