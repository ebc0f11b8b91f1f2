"""antiphon worker: a process that generates background responses and serves no requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import click

from app.cli.context import open_store
from app.cli.preflight import check_queue
from app.errors import StoreUnavailable
from app.gateway import open_measures
from app.last_good import LastGood
from app.log import configure_logging
from app.metrics import files
from app.server import background_worker
from app.server.processes import Child
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
    last = LastGood.of(settings)
    with _metrics(settings):
        background_worker.work(last)


@contextmanager
def _metrics(settings: Settings) -> Iterator[None]:
    """A process beside this one serves the metrics, and ends with it."""
    open_measures(settings)
    if settings.metrics_bind:
        Child("antiphon-scrape", lambda: _serve_metrics(settings.metrics_bind))
    try:
        yield
    finally:
        files.remove()


def _serve_metrics(address: str) -> None:
    # Imported here: without metrics the library is not loaded.
    from app.server import metrics_listener

    metrics_listener.work(address)


def _check_schema(settings: Settings) -> None:
    with open_store(settings) as store:
        try:
            store.schema.check()
        except StoreUnavailable as error:
            click.echo(f"antiphon: {error.message} The worker waits for the database.", err=True)
