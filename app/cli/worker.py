"""antiphon worker: makes background responses, without serving anybody."""

from __future__ import annotations

import logging
import os
import signal
import threading

import click

from app.cli.context import open_store
from app.composition import build
from app.errors import StoreUnavailable
from app.log import speak
from app.queue import Consumer
from app.settings import Settings, load_settings
from app.supervision import Crew
from app.web import Gateway

_TEND = 1.0


@click.command()
@click.option("--threads", type=click.IntRange(1), help="Responses at once; default ANTIPHON_WORKER_THREADS or 32.")
@click.option("--beside", type=int, hidden=True, help="Process id of the parent that it works and ends with.")
def worker(threads: int | None, beside: int | None) -> None:
    """Make background responses. `antiphon serve` runs one by itself; more machines take more of them."""
    settings = load_settings()
    threads = threads or settings.worker_threads
    speak()
    if beside is None:
        _check_schema(settings)
        _work(settings, threads)
    else:
        Crew(lambda: _work(settings, threads), settings.worker_processes, beside).keep()


def _check_schema(settings: Settings) -> None:
    with open_store(settings) as store:
        try:
            store.check_schema()
        except StoreUnavailable as error:
            click.echo(f"antiphon: {error.message} Waiting for it.", err=True)


def _work(settings: Settings, threads: int) -> None:
    """Until it is told to stop or its parent has gone; then what runs may finish within the drain."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    gateway, parent = build(settings), os.getppid()
    gateway.keeper.start()
    gateway.background.start()
    consumer = _consumer(gateway, threads, stopping)
    consumer.start()
    logging.getLogger("app").info("background responses are made here, %d at once", threads)
    while not stopping.wait(_TEND) and os.getppid() == parent:
        consumer.tend()
    consumer.end()
    gateway.background.drain(settings.drain)
    gateway.close()


def _consumer(gateway: Gateway, threads: int, stopping: threading.Event) -> Consumer:
    """Waits for a database that is away."""
    while True:
        try:
            return gateway.queue.consumer(gateway.background.run, threads)
        except StoreUnavailable:
            if stopping.wait(_TEND):
                raise
