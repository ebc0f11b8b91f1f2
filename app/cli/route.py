"""antiphon route: the channels that a model's requests go to, in their order, and why the others get none."""

from __future__ import annotations

from collections.abc import Iterator

import click

from app.cli.command_line import as_typed
from app.cli.context import CHANNEL_FAILING, NOT_FOUND, as_json, print_json
from app.cli.output import table
from app.cli.states import channel_pauses, worker_statuses
from app.cli.table import read_table
from app.reports.routes import Route, route_of, serving
from app.settings import load_settings

_HEAD = ("place", "channel", "share", "priority", "upstream model", "tags", "state")


@click.command(short_help="Show which channels a request for MODEL goes to, and why.")
@click.argument("model")
@as_json
@click.pass_context
def route(ctx: click.Context, model: str, as_json: bool) -> None:
    """Show which channels a request for MODEL goes to, in which order, and why the others get none.

    Exit code 3 when no channel can take a request now, 4 when none serves the model.
    """
    settings = load_settings()
    channel_table = read_table(settings)
    if not serving(channel_table, model):
        nearest = channel_table.nearest(model)
        click.echo(f"antiphon: no channel of the table serves {model!r}", err=True)
        hint = f"  did you mean {nearest!r}?" if nearest else "  see the models: antiphon models"
        click.echo(as_typed(hint), err=True)
        ctx.exit(NOT_FOUND)
    found = route_of(channel_table, model, worker_statuses(settings), channel_pauses(settings))
    if as_json:
        print_json(found.wire())
    else:
        click.echo(table(_HEAD, _rows(found)))
        for remark in found.remarks():
            click.echo(remark)
    if not found.eligible:
        ctx.exit(CHANNEL_FAILING)


def _rows(found: Route) -> Iterator[tuple[object, ...]]:
    for entry in found.entries:
        channel = entry.channel
        share = f"{entry.share:.0%}" if entry.is_eligible else ""
        state = entry.why_not or entry.state.text or entry.state.label
        tags = ", ".join(channel.tags) or None
        yield entry.place, channel.name, share, channel.priority, channel.upstream_model(found.model), tags, state
