"""Checks of the files, directories and hosts that the settings name, before a first start or a command uses them.

A worker that replaces another one skips these checks: a file or host may be missing for a moment.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from app.errors import ConfigurationError
from app.settings import Settings, database_file

_SQLITE = b"SQLite format 3\0"
_DATABASE, _QUEUE = "ANTIPHON_DATABASE_URL", "ANTIPHON_QUEUE_URL"


def check_database(settings: Settings) -> None:
    """Raises ConfigurationError."""
    file = database_file(settings.database_url)
    if file is None:
        _check_host(_DATABASE, settings.database_url)
    else:
        _check_file(file)


def check_queue(settings: Settings) -> None:
    """Raises ConfigurationError."""
    if settings.queue_url is not None:
        _check_host(_QUEUE, settings.queue_url)


def _check_file(file: Path) -> None:
    folder = file.parent
    if not folder.is_dir():
        raise ConfigurationError(f"{_DATABASE} names {file}, but there is no directory {folder}", f"mkdir -p {folder}")
    if file.exists() and not file.is_file():
        raise ConfigurationError(f"{_DATABASE} names {file}, which is not a file", "name a file")
    if not os.access(folder, os.W_OK | os.X_OK) or (file.exists() and not os.access(file, os.R_OK | os.W_OK)):
        raise ConfigurationError(
            f"{_DATABASE} names {file}, which this user cannot write",
            "SQLite writes this file and others beside it: check the owner of both, or run this as the gateway's user",
        )
    if file.exists() and not _is_database(file):
        raise ConfigurationError(f"{_DATABASE} names {file}, which is not a SQLite database", "name another file")


def _is_database(file: Path) -> bool:
    """An empty file counts: SQLite makes it a database."""
    with file.open("rb") as opened:
        return opened.read(len(_SQLITE)) in (b"", _SQLITE)


def _check_host(name: str, url: str) -> None:
    """Refuses a host that does not exist. A resolver that does not answer is no reason to refuse."""
    host = urlsplit(url).hostname
    if host is None:
        return
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror as error:
        if error.errno == socket.EAI_NONAME:
            raise ConfigurationError(
                f"{name} names the host {host!r}, which cannot be resolved", "check the spelling, or use the address"
            ) from error
    except UnicodeError:
        raise ConfigurationError(
            f"{name} names the host {host!r}, which is not a valid host name", "check the spelling"
        ) from None
