"""antiphon schema: the JSON Schema of the channel table, with which an editor completes and checks it."""

from __future__ import annotations

from pathlib import Path

import click

#: Beside the table that `antiphon init` writes, whose first line names it.
NAME = "channels.schema.json"

_SHIPPED = Path(__file__).with_name(NAME)


@click.command(short_help="Print the JSON Schema of the channel table.")
def schema() -> None:
    """Print the JSON Schema of the channel table.

    Editors complete and check a table with it: its first line names the file. To renew the file after an upgrade:
    antiphon schema > channels.schema.json
    """
    click.echo(shipped().decode(), nl=False)


def shipped() -> bytes:
    """The schema of this version."""
    return _SHIPPED.read_bytes()
