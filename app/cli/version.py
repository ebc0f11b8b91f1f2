"""antiphon version: this version, and what it runs on."""

from __future__ import annotations

import platform
from importlib.metadata import version as version_of

import click

from app import __version__
from app.cli.context import as_json, print_json
from app.cli.output import pairs

#: What most reports of a problem depend on.
_PARTS = ("flask", "gunicorn", "requests", "urllib3", "marshmallow", "peewee")


@click.command(short_help="Show the version, and the versions of what it runs on.")
@as_json
def version(as_json: bool) -> None:
    """Show the version of Antiphon, of Python and of the packages that it runs on."""
    found = {"antiphon": __version__, "python": platform.python_version()}
    found |= {name: version_of(name) for name in _PARTS}
    if as_json:
        print_json(found)
    else:
        click.echo(pairs(found.items()))
