"""antiphon config: the settings and the channel table as they are in effect."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import click

from app.channels.table import load
from app.cli.context import as_json, print_json
from app.cli.groups import Group
from app.cli.output import table
from app.cli.parameters import Address
from app.formats import names
from app.reports.configuration import ConfiguredValue, row_values, setting_values
from app.settings import load_settings, read_env_file, read_environment


@click.group(cls=Group)
def config() -> None:
    """Show the configuration."""


@config.command(short_help="Show the settings and the channel table in effect.")
@click.option("--origin", is_flag=True, help="Show where each value comes from.")
@click.option("--bind", type=Address(), help="As `antiphon serve --bind` would be given.")
@click.option("--workers", type=click.IntRange(1), help="As `antiphon serve --workers`.")
@click.option("--threads", type=click.IntRange(4), help="As `antiphon serve --threads`.")
@as_json
def show(origin: bool, bind: str | None, workers: int | None, threads: int | None, as_json: bool) -> None:
    """Show the settings and the channel table as a gateway of this directory takes them, defaults included.

    An option comes first, then the environment, then .env; in each, NAME_FILE names a file with the value of NAME.
    Secrets are masked. Durations without a unit are seconds, sizes are bytes.
    """
    options = {"bind": bind, "workers": workers, "threads": threads}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    settings = replace(load_settings(), **given)
    environment = read_environment(settings.home)
    channel_table = load(settings.channels, environment, names())
    variables = setting_values(settings, os.environ, read_env_file(settings.home), given)
    rows = row_values(channel_table, settings.channels, environment)
    if as_json:
        found = {"settings": variables, "table": rows}
        print_json({name: [value.wire() for value in values] for name, values in found.items()})
        return
    for values in (variables, rows):
        head = ("name", "value", "origin") if origin else ("name", "value")
        click.echo(table(head, (_row(value)[: len(head)] for value in values)))
        click.echo()


def _row(value: ConfiguredValue) -> tuple[str, str, str]:
    return value.name, _text(value.value), value.origin


def _text(value: object) -> str:
    """As the table writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
