"""antiphon serve: checks the settings, then becomes gunicorn."""

from __future__ import annotations

import errno
import gc
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import click
from gunicorn.app.wsgiapp import run
from gunicorn.util import parse_address

from app import __version__, last_good
from app.channels.table import Table
from app.cli.address import url_of
from app.cli.command_line import NAME, typed
from app.cli.context import open_store
from app.cli.output import counted
from app.cli.parameters import Address
from app.cli.preflight import check_queue
from app.errors import ConfigurationError, StoreUnavailable
from app.last_good import LastGood
from app.server.arbiter import check_unix_socket
from app.settings import DRAIN_RESERVE, LAST_PORT, Settings, home, load_settings

#: The file descriptor of the first socket that systemd passes.
_FIRST_HANDED = 3
#: Default seconds for running streams to finish when the server stops; see `app.server.gunicorn_conf`.
_DRAIN = 20

PACKAGE_PARENT = Path(__file__).resolve().parents[2]


@click.command()
@click.option(
    "--bind", type=Address(), help="Address to listen on, or unix:/path; default ANTIPHON_BIND or 127.0.0.1:8080."
)
@click.option("--workers", type=click.IntRange(1), help="Number of processes; default ANTIPHON_WORKERS or 2.")
@click.option("--threads", type=click.IntRange(4), help="Threads in each process; default ANTIPHON_THREADS or 512.")
def serve(bind: str | None, workers: int | None, threads: int | None) -> None:
    """Run the gateway of this directory, with gunicorn."""
    settings = load_settings()
    settings = replace(
        settings,
        bind=settings.bind if bind is None else bind,
        workers=workers or settings.workers,
        threads=threads or settings.threads,
    )
    last = LastGood.of(settings)
    _check_database(settings)
    check_queue(settings)
    handed = os.environ.get("LISTEN_PID") == str(os.getpid())
    if handed:
        settings = replace(settings, bind=_handed_address() or settings.bind)
    else:
        _check_address(settings.bind)
    last.settings = settings
    last_good.keep(last)
    click.echo(_banner(settings, last.table.current))
    sys.stdout.flush()
    _become_gunicorn(settings, [] if handed else ["--bind", settings.bind])


def _check_database(settings: Settings) -> None:
    """Refuses a schema of another version. A database that is down for the moment only gives a warning."""
    with open_store(settings) as store:
        try:
            store.schema.check()
            _warn_of_packet(settings, store.database.packet)
        except StoreUnavailable as error:
            click.echo(
                f"antiphon: {error.message} The gateway starts anyway; /readyz shows when the database is back.",
                err=True,
            )


def _warn_of_packet(settings: Settings, packet: int | None) -> None:
    if packet is not None and packet <= settings.max_body:
        click.echo(
            f"antiphon: The database takes {packet:,} bytes in one statement (max_allowed_packet), and requests may "
            f"have {settings.max_body:,} (ANTIPHON_MAX_BODY): those that cannot be stored are refused.",
            err=True,
        )


def _handed_address() -> str | None:
    """The address of the socket that systemd has opened; None when the socket has no path and no port."""
    with socket.socket(fileno=os.dup(_FIRST_HANDED)) as listener:
        name = listener.getsockname()
    if isinstance(name, str):
        return f"unix:{name}"
    if not isinstance(name, tuple):
        return None
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def _check_address(bind: str) -> None:
    host, _, port = bind.rpartition(":")
    if bind.startswith("unix:"):
        check_unix_socket(parse_address(bind))
    if bind.startswith("unix:") or not port.isdecimal():
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigurationError(
                    f"port {port} is in use",
                    f"stop the program that listens there, or use --bind {host}:{_another(int(port))}",
                ) from error
            raise ConfigurationError(
                f"cannot listen on {bind}: {error.strerror}", "check ANTIPHON_BIND or --bind"
            ) from error


def _another(port: int) -> int:
    return port + 1 if port < LAST_PORT else port - 1


def _banner(settings: Settings, table: Table) -> str:
    tools = f"   tool servers {len(table.tools.servers)}" if table.tools.servers else ""
    waiting = f", {counted(len(table.warnings), 'warning')} ({typed()} check)" if table.warnings else ""
    database = settings.database_url.partition(":")[0]
    elsewhere = "" if typed() == NAME else f"\n  {typed()} --help, in another terminal, lists the commands"
    return (
        f"antiphon {__version__}   {_where(settings.bind)}\n"
        f"  database {database}   workers {settings.workers} x {settings.threads} threads"
        f"   channels {len(table.channels)}{tools}{waiting}\n"
        f"  Ctrl-C to stop{elsewhere}"
    )


def _where(bind: str) -> str:
    url = url_of(bind) if bind.rpartition(":")[2].isdecimal() else None
    return bind if url is None else f"{url}/v1"


def _become_gunicorn(settings: Settings, listen: list[str]) -> NoReturn:
    """Runs gunicorn in this process, which has imported half of the gateway already. The chdir keeps gunicorn from
    importing code of the present directory.
    """
    os.environ["ANTIPHON_HOME"] = str(home())
    # All processes read the values of the command line from the environment.
    chosen = {"BIND": settings.bind, "WORKERS": str(settings.workers), "THREADS": str(settings.threads)}
    for name, value in chosen.items():
        os.environ.pop(f"ANTIPHON_{name}_FILE", None)
        os.environ[f"ANTIPHON_{name}"] = value
    os.chdir(PACKAGE_PARENT)
    options = ["--config", "python:app.server.gunicorn_conf"]
    options += ["--workers", str(settings.workers), "--threads", str(settings.threads)]
    options += ["--worker-connections", str(settings.threads + 256)]
    if settings.drain != _DRAIN:
        options += ["--graceful-timeout", str(settings.drain + DRAIN_RESERVE)]
    sys.argv = ["gunicorn", *options, *listen, "app:create_app()"]
    # `app.server.gunicorn_conf` enables the collector when everything is imported.
    gc.disable()
    run()
    sys.exit()
