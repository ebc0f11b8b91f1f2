"""The `antiphon` command, one file per noun. What goes wrong is one line with its cause and one with its fix."""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from typing import cast

import click

from app import __version__
from app.cli.command_line import as_typed
from app.cli.context import CONFIGURATION, TRY_AGAIN
from app.cli.groups import Group
from app.errors import ConfigurationError, StoreUnavailable

#: In the order in which a newcomer meets them.
COMMANDS = (
    *("init", "serve", "worker", "check", "doctor", "reload", "tokens", "channels", "route", "models"),
    *("usage", "show", "tree", "db", "connect"),
)


class Commands(Group):
    """Each command is the one named like its file, and loaded when it is asked for: none waits for the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        # What a command loads stays. The collector would walk over it again and again, for a tenth of the time.
        gc.disable()
        module = import_module(f"{__name__}.{cmd_name}")
        gc.freeze()
        gc.enable()
        return cast(click.Command, getattr(module, cmd_name))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="antiphon")
def antiphon() -> None:
    """A gateway that serves the OpenAI Responses API to a team."""


def main() -> None:
    try:
        antiphon(standalone_mode=True)
    except ConfigurationError as error:
        _say(error.message, error.fix)
        sys.exit(CONFIGURATION)
    except StoreUnavailable as error:
        _say(error.message, "the database of ANTIPHON_DATABASE_URL did not do it; antiphon doctor looks at it")
        sys.exit(TRY_AGAIN)


def _say(cause: str, fix: str) -> None:
    click.echo(f"antiphon: {as_typed(cause)}", err=True)
    if fix:
        click.echo(f"  {as_typed(fix)}", err=True)
