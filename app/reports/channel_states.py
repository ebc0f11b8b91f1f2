"""The state of each channel over all workers that serve the database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from app.channels.table import Table
from app.contract.channel import Channel
from app.contract.pauses import Pause
from app.contract.records import ChannelStatus, WorkerStatus
from app.contract.remedies import LearntRemedy, digest_of

COOLDOWN, FULL, HALF_OPEN, OK = "cooldown", "full", "half-open", "ok"
#: The labels of the states that a worker reports, the one that matters most first.
_BY_WEIGHT = (COOLDOWN, FULL, HALF_OPEN, OK)
#: JSON output keeps its first names of these labels, because scripts match them.
_JSON_LABELS = {COOLDOWN: "resting", HALF_OPEN: "on trial"}


@dataclass(frozen=True, slots=True)
class ChannelState:
    """The state of one channel over all workers. Without a worker, `in_flight` and `cooldown_left` are None."""

    label: str
    """disabled, no key, paused, draining, unknown, cooldown, full, half-open, ok."""
    text: str
    """The label with its reason, and the number of workers that report it when not all do."""
    is_available: bool
    """Whether a request may go to the channel now."""
    in_flight: int | None = None
    cooldown_left: int | None = None
    """Seconds until the cooldown has ended in every worker."""
    last_error: str | None = None
    paths: tuple[str, ...] = ()
    pause: Pause | None = None

    def wire(self) -> dict[str, Any]:
        return {
            "state": self.json_text(self.label),
            "detail": self.json_text(self.text) or None,
            "in_flight": self.in_flight,
            "resting_seconds": self.cooldown_left,
            "last_error": self.last_error,
            "paths": list(self.paths),
            "pause": self.pause.wire() if self.pause else None,
        }

    def json_text(self, text: str) -> str:
        """A text about this state as JSON output has it: its label may have another name there."""
        name = _JSON_LABELS.get(self.label)
        return text if name is None or not text.startswith(self.label) else name + text.removeprefix(self.label)


@dataclass(frozen=True, slots=True)
class ChannelReport:
    """A row of the channel table with its state."""

    channel: Channel
    state: ChannelState
    learnt: tuple[LearntRemedy, ...] = ()
    """What was learnt of its upstream from refusals, while the row was as it is."""

    @property
    def host(self) -> str:
        """Host and port of the upstream; `here` when the gateway itself answers."""
        return urlsplit(self.channel.base_url).netloc if self.channel.base_url else "here"

    def wire(self) -> dict[str, Any]:
        channel = self.channel
        return {
            "name": channel.name,
            "format": channel.format,
            "models": dict(channel.models),
            "globs": list(channel.globs),
            "priority": channel.priority,
            "weight": channel.weight,
            "max_concurrency": channel.max_concurrency,
            "base_url": channel.base_url,
            "line": channel.line,
            **self.state.wire(),
            "learnt": [learnt.wire() for learnt in self.learnt],
        }


_NO_PAUSES: Mapping[str, Pause] = MappingProxyType({})


def channel_reports(
    table: Table,
    workers: Sequence[WorkerStatus],
    learnt: Sequence[LearntRemedy] = (),
    pauses: Sequence[Pause] = (),
) -> list[ChannelReport]:
    paused = by_channel(pauses)
    return [
        ChannelReport(channel, state_of(channel, workers, paused), tuple(_in_force(channel, learnt)))
        for channel in all_channels(table)
    ]


def by_channel(pauses: Sequence[Pause]) -> Mapping[str, Pause]:
    return {pause.channel: pause for pause in pauses}


def _in_force(channel: Channel, learnt: Sequence[LearntRemedy]) -> Iterator[LearntRemedy]:
    digest = digest_of(channel)
    return (one for one in learnt if (one.channel, one.digest) == (channel.name, digest))


def all_channels(table: Table) -> list[Channel]:
    """Every row in the order of the file, including the rows that wait for a key."""
    return sorted((*table.channels, *table.without_key), key=lambda channel: channel.line)


def state_of(
    channel: Channel, workers: Sequence[WorkerStatus], pauses: Mapping[str, Pause] = _NO_PAUSES
) -> ChannelState:
    """The state that matters most among the workers: a cooldown in one worker is a cooldown of the channel. A pause
    matters more than what they report."""
    if channel.missing_key:
        return ChannelState("no key", "no key", is_available=False)
    if not channel.enabled:
        return ChannelState("disabled", "disabled", is_available=False)
    reported = _reported(channel, workers)
    if (pause := pauses.get(channel.name)) is None:
        return reported
    return replace(reported, label=pause.state, text=pause.described(), is_available=False, pause=pause)


def _reported(channel: Channel, workers: Sequence[WorkerStatus]) -> ChannelState:
    if not workers:
        return ChannelState("unknown", "", is_available=True)
    statuses = [_status_in(worker, channel) for worker in workers]
    in_flight: Counter[str] = Counter()
    for worker, status in zip(workers, statuses, strict=True):
        in_flight[worker.host] += status.in_flight
    labels = [_label(channel, status, in_flight[worker.host]) for worker, status in zip(workers, statuses, strict=True)]
    label = next(label for label in _BY_WEIGHT if label in labels)
    cooldown_left = max(round(status.cooldown_left) for status in statuses)
    errors = sorted({status.last_error for status in statuses if status.last_error})
    return ChannelState(
        label,
        "".join(_text(label, labels, cooldown_left, errors)),
        is_available=any(label not in (COOLDOWN, FULL) for label in labels),
        in_flight=sum(status.in_flight for status in statuses),
        cooldown_left=cooldown_left,
        last_error=", ".join(errors) or None,
        paths=tuple(sorted({status.path for status in statuses if status.path})),
    )


def _status_in(worker: WorkerStatus, channel: Channel) -> ChannelStatus:
    """A worker that has not used the channel yet reports nothing: its status is that of a new channel."""
    return next((status for status in worker.channels if status.name == channel.name), ChannelStatus(channel.name))


def _label(channel: Channel, status: ChannelStatus, in_flight: int) -> str:
    """`in_flight`: requests of all workers of the machine, which share the limit."""
    if status.cooldown_left > 0:
        return COOLDOWN
    if channel.max_concurrency is not None and in_flight >= channel.max_concurrency:
        return FULL
    return HALF_OPEN if status.half_open else OK


def _text(label: str, labels: Sequence[str], cooldown_left: int, errors: Sequence[str]) -> Iterator[str]:
    yield label
    if label == COOLDOWN:
        yield f" {cooldown_left} s: {', '.join(errors) or 'failed'}"
    if label != OK and labels.count(label) < len(labels):
        yield f" ({labels.count(label)} of {len(labels)} workers)"
