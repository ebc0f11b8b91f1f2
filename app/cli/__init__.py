"""The `antiphon` command, one file a noun. An error is two lines on stderr: its cause, then its fix."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import cast

import click

from app import __version__
from app.cli import imports
from app.cli.command_line import as_typed
from app.cli.context import CONFIGURATION, TRY_AGAIN
from app.cli.groups import Group
from app.errors import ConfigurationError, StoreUnavailable

#: In the order in which a new user needs them.
COMMANDS = (
    *("init", "serve", "worker", "check", "doctor", "reload", "tokens", "channels", "tools", "route", "models"),
    *("schema", "config", "usage", "prices", "log", "show", "tree", "cache", "db", "connect", "console", "version"),
)


class Commands(Group):
    """Each command has the name of its file. The file is imported when the command is used, so that no command waits
    for the imports of another.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"{__name__}.{cmd_name}")
        imports.finish()
        return cast(click.Command, getattr(module, cmd_name))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="antiphon")
def antiphon() -> None:
    """A gateway that serves the OpenAI Responses API to a team."""


def main() -> None:
    try:
        antiphon(standalone_mode=True)
    except ConfigurationError as error:
        _print_error(error.message, error.fix)
        sys.exit(CONFIGURATION)
    except StoreUnavailable as error:
        _print_error(error.message, "check the database of ANTIPHON_DATABASE_URL: antiphon doctor")
        sys.exit(TRY_AGAIN)


def _print_error(cause: str, fix: str) -> None:
    click.echo(f"antiphon: {as_typed(cause)}", err=True)
    if fix:
        click.echo(f"  {as_typed(fix)}", err=True)
