"""antiphon check: every error and warning of the channel table at once, with its line and column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from app import formats
from app.channels.table import load
from app.channels.yaml_document import ChannelsInvalid
from app.cli.context import CONFIGURATION, as_json, print_json
from app.cli.output import counted
from app.errors import ConfigurationError
from app.settings import channels_path, home, load_environment


@click.command(short_help="Check the channel table.")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@as_json
@click.pass_context
def check(ctx: click.Context, file: Path | None, as_json: bool) -> None:
    """Check the channel table FILE (default: ANTIPHON_CHANNELS or channels.yaml). Exit code 78 when it has an error."""
    directory = home()
    environment = load_environment(directory)
    path = file or channels_path(environment, directory)
    try:
        table = load(path, environment, formats.names())
    except ChannelsInvalid as error:
        if not as_json:
            raise
        _print_result(errors=[_wire(problem) for problem in error.problems])
        ctx.exit(CONFIGURATION)
    except ConfigurationError as error:
        if not as_json:
            raise
        _print_result(errors=[{"message": error.message, "fix": error.fix}])
        ctx.exit(CONFIGURATION)
    if as_json:
        _print_result(
            warnings=[_wire(problem) for problem in table.warnings],
            channels=[channel.name for channel in table.channels],
            tool_servers=[*table.tools.servers],
        )
        return
    for problem in table.warnings:
        click.echo(f"warning: {problem}", err=True)
    counts = (
        *((table.channels, "channel"), (table.names(), "model")),
        *([(table.tools.servers, "tool server")] if table.tools.servers else []),
        (table.warnings, "warning"),
    )
    click.echo(f"{path.name} ok: {', '.join(counted(len(found), noun) for found, noun in counts)}")


def _print_result(errors: Sequence[object] = (), warnings: Sequence[object] = (), **facts: object) -> None:
    print_json({"ok": not errors, "errors": errors, "warnings": warnings, **facts})


def _wire(problem: object) -> dict[str, object]:
    fields = ("line", "column", "message")
    return {"text": str(problem), **{name: getattr(problem, name) for name in fields}}
