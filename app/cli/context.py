"""What most commands need: an open store, exit codes, JSON output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import orjson

from app.cli.preflight import check_database
from app.settings import Settings, load_settings
from app.store.store import Store

#: Exit codes beside click's own 0 and 2. A script or systemd decides by them what to do next.
FAILED = 1
CHANNEL_FAILING = 3
NOT_FOUND = 4
TRY_AGAIN = 75
CONFIGURATION = 78

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@contextmanager
def open_store(settings: Settings | None = None) -> Iterator[Store]:
    settings = settings or load_settings()
    check_database(settings)
    store = Store(settings.database_url, peppers=settings.keys_for("tokens"))
    try:
        yield store
    finally:
        store.close()


@contextmanager
def open_ready_store() -> Iterator[Store]:
    """A store whose schema is the one of this version; else raises ConfigurationError."""
    with open_store() as store:
        store.schema.check()
        yield store


def find_response(store: Store, start: str) -> tuple[str, str]:
    """Owner and id of the only response whose id begins with `start`; else ends the command."""
    found = store.trees.find(start)
    if len(found) == 1:
        return found[0]
    click.echo(
        f"antiphon: several response ids begin with {start!r}"
        if found
        else f"antiphon: there is no response {start!r}",
        err=True,
    )
    raise click.exceptions.Exit(NOT_FOUND)


def print_json(value: Any) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
