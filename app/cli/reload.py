"""antiphon reload: makes running workers read the channel table and .env again, unless the table has an error."""

from __future__ import annotations

import click

from app import formats
from app.channels.table import load
from app.channels.watched_table import stamp_of
from app.cli.output import counted
from app.errors import ConfigurationError
from app.settings import channels_path, home, load_environment


@click.command(short_help="Make the workers read the channel table again.")
def reload() -> None:
    """Make the workers read the channel table and its variables again. Exit code 78 when the table has an error."""
    directory = home()
    environment = load_environment(directory)
    path = channels_path(environment, directory)
    table = load(path, environment, formats.names())
    stamp = stamp_of(path)
    try:
        stamp.touch()
    except OSError as error:
        raise ConfigurationError(
            f"cannot touch {stamp}: {error.strerror}", "give the file to the user that the gateway runs as"
        ) from error
    for problem in table.warnings:
        click.echo(f"warning: {problem}", err=True)
    click.echo(f"{path.name} ok: {counted(len(table.channels), 'channel')}; the workers read the file within seconds")
