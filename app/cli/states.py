"""The status of the workers, for the commands that show channels."""

from __future__ import annotations

import click

from app.cli.context import open_store
from app.contract.pauses import Pause
from app.contract.records import WorkerStatus
from app.contract.remedies import LearntRemedy
from app.errors import ConfigurationError, StoreUnavailable
from app.settings import Settings


def worker_statuses(settings: Settings) -> list[WorkerStatus]:
    """One status a living worker. Empty, with the reason on stderr, when none lives or the database does not answer."""
    try:
        with open_store(settings) as store:
            store.schema.check()
            workers = store.leases.statuses()
    except (ConfigurationError, StoreUnavailable) as error:
        click.echo(f"the state of the channels is unknown: {error.message}", err=True)
        return []
    if not workers:
        click.echo("the state of the channels is unknown: no gateway runs on this database now", err=True)
    return workers


def learnt_remedies(settings: Settings) -> list[LearntRemedy]:
    """What was learnt of upstreams from their refusals. Empty when the database does not answer."""
    try:
        with open_store(settings) as store:
            store.schema.check()
            return store.remedies.load()
    except (ConfigurationError, StoreUnavailable):
        return []


def channel_pauses(settings: Settings) -> list[Pause]:
    """The pauses of channels that have not ended. Empty when the database does not answer."""
    try:
        with open_store(settings) as store:
            store.schema.check()
            return store.pauses.load()
    except (ConfigurationError, StoreUnavailable):
        return []
