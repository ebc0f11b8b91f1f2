"""antiphon models: what may be asked for, and who serves it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import click

from app.channels.table import Channel, Table
from app.cli.context import as_json, print_json
from app.cli.output import some, table
from app.cli.table import read_table
from app.settings import load_settings


@click.command(short_help="List the models of the channel table.")
@as_json
def models(as_json: bool) -> None:
    """List the models of the channel table, globs as they stand there."""
    channel_table = read_table(load_settings())
    listed = [_wire(channel_table, name, channels) for name, channels in sorted(_served(channel_table).items())]
    if as_json:
        print_json(listed)
        return
    rows = ((model["id"], model["context_window"], some(model["channels"])) for model in listed)
    click.echo(table(("model", "context", "channels"), rows))


def _served(channel_table: Table) -> dict[str, list[Channel]]:
    served: defaultdict[str, list[Channel]] = defaultdict(list)
    for channel in sorted(channel_table.channels, key=lambda channel: -channel.priority):
        if channel.enabled:
            for name in (*channel.models, *channel.globs):
                served[name].append(channel)
    return served


def _wire(channel_table: Table, name: str, channels: list[Channel]) -> dict[str, Any]:
    facts = channel_table.models.get(name, {})
    return {
        "id": name,
        "glob": any(name in channel.globs for channel in channels),
        "channels": [channel.name for channel in channels],
        "context_window": facts.get("context_window"),
        "max_output_tokens": facts.get("max_output_tokens"),
    }
