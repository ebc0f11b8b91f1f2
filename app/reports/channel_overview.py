"""Each channel with what happened on it: its state over all workers, the last hour and day, its newest failures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from time import time
from typing import Any
from urllib.parse import urlsplit

import orjson

from app.channels.table import Table
from app.contract.channel import Channel
from app.contract.records import Token
from app.reports.channel_states import ChannelReport, ChannelState, all_channels, by_channel, channel_reports, state_of
from app.reports.usage import Percentiles, percentile
from app.store.channel_facts import ChannelFacts
from app.store.recent_errors import RecentError
from app.store.store import Store
from app.store.sums import FIRST_TOKEN_BOUNDS, FIRST_TOKEN_BUCKETS, SLOT_SECONDS

#: Slots of a day, and of the last hour.
SLOTS, HOUR = 288, 12
DAY_SECONDS = SLOTS * SLOT_SECONDS

#: Fields of a channel that its row does not have under this name, or that only the gateway knows.
_NOT_SHOWN = frozenset({"name", "models", "globs", "line", "ca_file", "missing_key", "learnt_window", "guessed_window"})
_MASK = "••••"
#: Names in the table that differ.
_NAMES = {"timeouts": "timeout", "seconds": "for"}


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Failures of one kind among the newest of a channel."""

    last: RecentError
    times: int


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What happened in each five minutes of a day, oldest first."""

    answered: Sequence[int]
    """Responses of the channel that did not fail."""
    errors: Sequence[int]
    """Failed attempts, whichever channel has answered in the end. Refusals of a request are none."""
    in_cooldown: Sequence[bool]
    """Whether a worker reported a cooldown."""

    def asked(self, slots: int) -> int:
        """Answers and errors of the newest so many slots."""
        return sum(self.answered[-slots:]) + self.failed(slots)

    def failed(self, slots: int) -> int:
        return sum(self.errors[-slots:])


@dataclass(frozen=True, slots=True)
class ChannelOverview:
    report: ChannelReport
    outcomes: Outcomes
    cost: int | None
    """Of the day, in micro-units; None without a price of any of its models."""
    first_token: Percentiles
    """Of the day."""
    errors: Sequence[ErrorGroup]
    """Newest first."""
    row: str
    """Its row in the table, without its secrets."""
    cooldown_ends: bool = False
    """An operator has ended its cooldown a moment ago: a worker that still reports it has not noticed yet."""


@dataclass(frozen=True, slots=True)
class ChannelSummary:
    """What an owner may know of a channel: that it serves their models, and whether it does so now."""

    name: str
    models: Sequence[str]
    state: ChannelState


def channel_overviews(table: Table, store: Store) -> list[ChannelOverview]:
    """For an operator. Reads the database three times."""
    workers, facts = store.leases.statuses(), store.channel_facts.read()
    last = int(time()) // SLOT_SECONDS
    slots: dict[str, list[Mapping[str, Any]]] = {}
    for slot in store.usage.slots((last - SLOTS + 1) * SLOT_SECONDS):
        slots.setdefault(slot["channel"], []).append(slot)
    return [
        _overview(table, report, slots.get(report.channel.name, ()), last, facts)
        for report in channel_reports(table, workers, facts.remedies, facts.pauses)
    ]


def channel_summaries(table: Table, store: Store, token: Token, tags: Sequence[str] | None) -> list[ChannelSummary]:
    """The channels that may serve a token: those of its tags (see `Table.tagged`) with a model that it may use."""
    workers, pauses = store.leases.statuses(), by_channel(store.pauses.load())
    allowed = {channel.name for channel in table.tagged(tags).channels}
    found = []
    for channel in all_channels(table):
        models = [name for name in (*channel.models, *channel.globs) if token.may_use(name)]
        if channel.name in allowed and channel.enabled and models:
            found.append(ChannelSummary(channel.name, models, state_of(channel, workers, pauses)))
    return found


def _overview(
    table: Table, report: ChannelReport, slots: Sequence[Mapping[str, Any]], last: int, facts: ChannelFacts
) -> ChannelOverview:
    channel = report.channel
    priced = any(table.prices(model) for model in channel.models)
    buckets = [sum(slot[bucket] for slot in slots) for bucket in FIRST_TOKEN_BUCKETS]
    share = partial(percentile, buckets, FIRST_TOKEN_BOUNDS)
    return ChannelOverview(
        report=report,
        outcomes=_outcomes(slots, last),
        cost=sum(slot["cost"] for slot in slots) if priced else None,
        first_token=Percentiles(share(0.5), share(0.95)),
        errors=_grouped(facts.errors.get(channel.name, ())),
        row=_row_text(channel),
        cooldown_ends=channel.name in facts.cooldowns_ended,
    )


def _outcomes(slots: Sequence[Mapping[str, Any]], last: int) -> Outcomes:
    answered, errors, cooldown = [0] * SLOTS, [0] * SLOTS, [False] * SLOTS
    for slot in slots:
        # The clock of another host may be ahead.
        place = min(SLOTS - 1, slot["slot"] - last + SLOTS - 1)
        answered[place] += slot["requests"] - slot["failed"]
        errors[place] += slot["errors"]
        cooldown[place] |= bool(slot["cooldowns"])
    return Outcomes(answered, errors, cooldown)


def _grouped(errors: Sequence[RecentError]) -> list[ErrorGroup]:
    groups: dict[tuple[int | None, str], list[RecentError]] = {}
    for error in errors:
        groups.setdefault((error.status, error.code), []).append(error)
    return [ErrorGroup(group[0], len(group)) for group in groups.values()]


# --- the row ----------------------------------------------------------------------------------------------------


def _row_text(channel: Channel) -> str:
    """The row as YAML: what differs from the defaults, with its secrets masked."""
    return "\n".join(["- name: " + channel.name, *(f"  {name}: {value}" for name, value in _members(channel))])


def _members(channel: Channel) -> Iterator[tuple[str, str]]:
    default = Channel(name=channel.name, format=channel.format)
    for field in fields(Channel):
        value = getattr(channel, field.name)
        if field.name not in _NOT_SHOWN and (field.name == "format" or value != getattr(default, field.name)):
            yield _NAMES.get(field.name, field.name), _member(field.name, value)
    names = {**channel.models, **{glob: glob for glob in channel.globs}}
    same = all(public == upstream for public, upstream in names.items())
    yield "models", _yaml([*names] if same else names)


def _member(name: str, value: Any) -> str:
    match name:
        case "api_key":
            return _MASK
        case "headers":
            return _yaml(dict.fromkeys(value, _MASK))
        case "base_url":
            return _without_password(value)
        case _:
            return _yaml(value)


def _yaml(value: Any) -> str:
    """On one line."""
    if is_dataclass(value) and not isinstance(value, type):
        default = type(value)()
        value = {
            field.name: getattr(value, field.name)
            for field in fields(value)
            if getattr(value, field.name) != getattr(default, field.name)
        }
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_NAMES.get(key, key)}: {_yaml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, float):
        return f"{value:g}s"
    if isinstance(value, (list, tuple, set, frozenset)):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _without_password(url: str) -> str:
    """A URL without user, password and query: each of them may be a key."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
