"""antiphon route: which channels a model's requests would go to, in which order, and why not to the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import click

from app.channels.choice import MAX_TRIES
from app.channels.table import Channel, Table
from app.cli.channels import rows_of
from app.cli.command_line import as_typed
from app.cli.context import CHANNEL_FAILING, NOT_FOUND, as_json, print_json
from app.cli.output import table
from app.cli.states import State, living, state_of
from app.cli.table import read_table
from app.records import WorkerStatus
from app.settings import load_settings


@dataclass(frozen=True, slots=True)
class Way:
    """A channel as a model's request sees it. `place` is None when it would not be asked, for the reason in `why`."""

    channel: Channel
    state: State
    place: int | None = None
    """Those of one place share the requests, `share` of them each."""
    share: float = 0.0
    why: str = ""

    def wire(self, model: str) -> dict[str, Any]:
        return {
            "channel": self.channel.name,
            "asked": self.place is not None,
            "place": self.place,
            "share": round(self.share, 4),
            "why_not": self.why or None,
            "priority": self.channel.priority,
            "weight": self.channel.weight,
            "upstream_model": self.channel.upstream_model(model),
            **self.state.wire(),
        }


@click.command(short_help="Show which channels a request for MODEL goes to, and why.")
@click.argument("model")
@as_json
@click.pass_context
def route(ctx: click.Context, model: str, as_json: bool) -> None:
    """Show which channels a request for MODEL would be given to, and why not to the others.

    Exit code 3 when none of them can take it now, 4 when none serves the model.
    """
    settings = load_settings()
    channel_table = read_table(settings)
    served = [channel for channel in rows_of(channel_table) if channel.upstream_model(model) is not None]
    if not served:
        nearest = channel_table.nearest(model)
        click.echo(f"antiphon: no channel of the table serves {model!r}", err=True)
        click.echo(
            as_typed(f"  did you mean {nearest!r}?" if nearest else "  antiphon models lists what there is"), err=True
        )
        ctx.exit(NOT_FOUND)
    ways = list(_ways(served, living(settings)))
    asked = [way for way in ways if way.place is not None]
    others = [channel.name for channel in rows_of(channel_table) if channel not in served]
    if as_json:
        print_json({"model": model, "channels": [way.wire(model) for way in ways], "others": others})
    else:
        click.echo(table(("place", "channel", "share", "priority", "asks for", "state"), _rows(ways, model)))
        for line in _remarks(channel_table, asked, others):
            click.echo(line)
    if not asked:
        ctx.exit(CHANNEL_FAILING)


def _ways(served: Sequence[Channel], workers: Sequence[WorkerStatus]) -> Iterator[Way]:
    """Those that are asked in their order, then those that are not."""
    states = {channel.name: state_of(channel, workers) for channel in served}
    reasons = {channel.name: _why_not(channel, states[channel.name]) for channel in served}
    able = sorted((channel for channel in served if not reasons[channel.name]), key=lambda channel: -channel.priority)
    for place, (_, equals) in enumerate(groupby(able, key=lambda channel: channel.priority), start=1):
        group = list(equals)
        weights = sum(channel.weight for channel in group)
        for channel in group:
            yield Way(channel, states[channel.name], place, channel.weight / weights)
    for channel in served:
        if why := reasons[channel.name]:
            yield Way(channel, states[channel.name], why=why)


def _why_not(channel: Channel, state: State) -> str:
    if not state.takes:
        return f"{state.text}: {channel.lacks}" if channel.lacks else state.text
    return "" if channel.bridge else "bridge: false, so it does not serve /v1/responses"


def _rows(ways: Sequence[Way], model: str) -> Iterator[tuple[object, ...]]:
    for way in ways:
        share = f"{way.share:.0%}" if way.place is not None else ""
        asks_for = way.channel.upstream_model(model)
        yield way.place, way.channel.name, share, way.channel.priority, asks_for, way.why or way.state.text


def _remarks(channel_table: Table, asked: Sequence[Way], others: Sequence[str]) -> Iterator[str]:
    if not asked:
        yield "no channel can take it now"
    if len(asked) > MAX_TRIES:
        yield f"one request tries {MAX_TRIES} of them at most"
    if others:
        yield f"it is not served by: {', '.join(others)}"
