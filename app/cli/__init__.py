"""The `antiphon` command, one file per noun. What goes wrong is one line with its cause and one with its fix."""

from __future__ import annotations

import sys

import click

from app import __version__
from app.cli.channels import channels
from app.cli.check import check
from app.cli.connect import connect
from app.cli.context import CONFIGURATION, TRY_AGAIN
from app.cli.db import db
from app.cli.doctor import doctor
from app.cli.init import init
from app.cli.models import models
from app.cli.reload import reload
from app.cli.route import route
from app.cli.serve import serve
from app.cli.show import show
from app.cli.tokens import tokens
from app.cli.tree import tree
from app.cli.usage import usage
from app.cli.worker import worker
from app.errors import ConfigurationError, StoreUnavailable


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="antiphon")
def antiphon() -> None:
    """A gateway that serves the OpenAI Responses API to a team."""


for command in (
    *(init, serve, worker, check, doctor, reload, tokens, channels, route, models),
    *(usage, show, tree, db, connect),
):
    antiphon.add_command(command)


def main() -> None:
    try:
        antiphon(standalone_mode=True)
    except ConfigurationError as error:
        _say(error.message, error.fix)
        sys.exit(CONFIGURATION)
    except StoreUnavailable as error:
        _say(error.message, "")
        sys.exit(TRY_AGAIN)


def _say(cause: str, fix: str) -> None:
    click.echo(f"antiphon: {cause}", err=True)
    if fix:
        click.echo(f"  {fix}", err=True)
