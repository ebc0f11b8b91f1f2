"""antiphon db: the database's schema."""

from __future__ import annotations

import click

from app.cli.context import as_json, open_store, print_json


@click.group()
def db() -> None:
    """Look after the database."""


@db.command()
@as_json
def upgrade(as_json: bool) -> None:
    """Bring the schema to the one of this version. Asks nothing; safe to run again, and by two at once."""
    with open_store() as store:
        applied = store.upgrade()
        version = store.schema_version()
    if as_json:
        print_json({"version": version, "applied": applied})
    elif applied:
        click.echo(f"schema {version}: applied {', '.join(map(str, applied))}")
    else:
        click.echo(f"schema {version}: nothing to do")


@db.command()
def stats() -> None:
    """Print counts and sizes as JSON."""
    with open_store() as store:
        print_json(store.stats())
