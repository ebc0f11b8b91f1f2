"""antiphon check: is the channel table right? Every error at once, with its place."""

from __future__ import annotations

from pathlib import Path

import click

from app import formats
from app.channels.document import ChannelsInvalid
from app.channels.table import load
from app.cli.context import CONFIGURATION, as_json, print_json
from app.errors import ConfigurationError
from app.settings import channels_path, home, load_environment


@click.command(short_help="Check the channel table.")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@as_json
@click.pass_context
def check(ctx: click.Context, file: Path | None, as_json: bool) -> None:
    """Check the channel table FILE (default: ANTIPHON_CHANNELS or channels.yaml). Exit code 78 when it is wrong."""
    directory = home()
    environment = load_environment(directory)
    path = file or channels_path(environment, directory)
    try:
        table = load(path, environment, formats.names())
    except ChannelsInvalid as error:
        if not as_json:
            raise
        print_json({"ok": False, "errors": [_wire(problem) for problem in error.problems], "warnings": []})
        ctx.exit(CONFIGURATION)
    except ConfigurationError as error:
        if not as_json:
            raise
        print_json({"ok": False, "errors": [{"message": error.message, "fix": error.fix}], "warnings": []})
        ctx.exit(CONFIGURATION)
    if as_json:
        warnings = [_wire(problem) for problem in table.warnings]
        print_json(
            {"ok": True, "errors": [], "warnings": warnings, "channels": [channel.name for channel in table.channels]}
        )
        return
    for problem in table.warnings:
        click.echo(f"warning: {problem}", err=True)
    models = len(table.names())
    click.echo(f"{path.name} ok: {len(table.channels)} channels, {models} models, {len(table.warnings)} warnings")


def _wire(problem: object) -> dict[str, object]:
    fields = ("line", "column", "message")
    return {"text": str(problem), **{name: getattr(problem, name) for name in fields}}
