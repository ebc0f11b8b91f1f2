"""How channels fare over all living workers, in the words of the command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from app.channels.table import Channel
from app.cli.context import open_store
from app.errors import ConfigurationError, StoreUnavailable
from app.records import ChannelStatus, WorkerStatus
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class State:
    """One channel, over all workers. What only workers know is None when there is none."""

    word: str
    """disabled, no key, unknown, resting, full, on trial, ok."""
    text: str
    """The same with its reason, and how many of the workers say so."""
    takes: bool
    """Whether a request may be given to it now."""
    in_flight: int | None = None
    resting: int | None = None
    """Seconds until the last of them has rested."""
    last_error: str | None = None
    paths: tuple[str, ...] = ()

    def wire(self) -> dict[str, Any]:
        return {
            "state": self.word,
            "detail": self.text or None,
            "in_flight": self.in_flight,
            "resting_seconds": self.resting,
            "last_error": self.last_error,
            "paths": list(self.paths),
        }


def living(settings: Settings) -> list[WorkerStatus]:
    """What the workers say; none, and why on stderr, when nobody serves or the database does not tell."""
    try:
        with open_store(settings) as store:
            store.check_schema()
            workers = store.statuses()
    except (ConfigurationError, StoreUnavailable) as error:
        click.echo(f"the state of the channels is not known: {error.message}", err=True)
        return []
    if not workers:
        click.echo("the state of the channels is not known: no gateway serves this database now", err=True)
    return workers


def state_of(channel: Channel, workers: Sequence[WorkerStatus]) -> State:
    if channel.lacks:
        return State("no key", "no key", takes=False)
    if not channel.enabled:
        return State("disabled", "disabled", takes=False)
    if not workers:
        return State("unknown", "", takes=True)
    told = [_told(channel, worker) for worker in workers]
    words = [_word(channel, status) for status in told]
    resting = max(round(status.resting) for status in told)
    errors = sorted({status.last_error for status in told if status.last_error})
    word = next(word for word in ("resting", "full", "on trial", "ok") if word in words)
    return State(
        word,
        "".join(_sentence(word, words, resting, errors)),
        takes=any(word not in ("resting", "full") for word in words),
        in_flight=sum(status.in_flight for status in told),
        resting=resting,
        last_error=", ".join(errors) or None,
        paths=tuple(sorted({status.path for status in told if status.path})),
    )


def _told(channel: Channel, worker: WorkerStatus) -> ChannelStatus:
    """A worker that never looked at a channel has nothing against it."""
    return next((status for status in worker.channels if status.name == channel.name), ChannelStatus(channel.name))


def _word(channel: Channel, status: ChannelStatus) -> str:
    if status.resting > 0:
        return "resting"
    if channel.max_concurrency is not None and status.in_flight >= channel.max_concurrency:
        return "full"
    return "on trial" if status.on_trial else "ok"


def _sentence(word: str, words: Sequence[str], resting: int, errors: Sequence[str]) -> Iterator[str]:
    yield word
    if word == "resting":
        yield f" {resting} s: {', '.join(errors) or 'failed'}"
    if word != "ok" and words.count(word) < len(words):
        yield f" ({words.count(word)} of {len(words)} workers)"
