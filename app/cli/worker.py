"""antiphon worker: a process that generates background responses and serves no requests."""

from __future__ import annotations

from dataclasses import replace

import click

from app.cli.context import open_store
from app.cli.preflight import check_queue
from app.errors import StoreUnavailable
from app.last_good import LastGood
from app.log import configure_logging
from app.server import background_worker
from app.settings import Settings, load_settings


@click.command()
@click.option(
    "--threads", type=click.IntRange(1), help="Responses at the same time; default ANTIPHON_WORKER_THREADS or 32."
)
def worker(threads: int | None) -> None:
    """Run a worker for background responses.

    `antiphon serve` starts one by itself. This command adds workers, also on other machines.
    """
    settings = load_settings()
    settings = replace(settings, worker_threads=threads or settings.worker_threads)
    configure_logging(settings.log)
    _check_schema(settings)
    check_queue(settings)
    background_worker.work(LastGood.of(settings))


def _check_schema(settings: Settings) -> None:
    with open_store(settings) as store:
        try:
            store.schema.check()
        except StoreUnavailable as error:
            click.echo(f"antiphon: {error.message} The worker waits for the database.", err=True)
