"""What a first start or a command can find out about its settings before it uses them: files, directories, hosts.

A worker that replaces another one is not held up by any of this: what was there at the start may be away for a moment.
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
        raise ConfigurationError(f"{_DATABASE} names {file}, and there is no directory {folder}", f"mkdir -p {folder}")
    if file.exists() and not file.is_file():
        raise ConfigurationError(f"{_DATABASE} names {file}, which is not a file", "name a file")
    if not os.access(folder, os.W_OK | os.X_OK) or (file.exists() and not os.access(file, os.R_OK | os.W_OK)):
        raise ConfigurationError(
            f"{_DATABASE} names {file}, which this user cannot write",
            "SQLite writes the file and others beside it: check the owner of both, or run this as the gateway's user",
        )
    if file.exists() and not _is_database(file):
        raise ConfigurationError(f"{_DATABASE} names {file}, which is not a SQLite database", "name another file")


def _is_database(file: Path) -> bool:
    """An empty one becomes one."""
    with file.open("rb") as opened:
        return opened.read(len(_SQLITE)) in (b"", _SQLITE)


def _check_host(name: str, url: str) -> None:
    """A host that does not exist is a mistake; a resolver that does not answer is not."""
    host = urlsplit(url).hostname
    if host is None:
        return
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror as error:
        if error.errno == socket.EAI_NONAME:
            raise ConfigurationError(
                f"{name} names the host {host!r}, which cannot be resolved", "check its spelling, or give its address"
            ) from error
    except UnicodeError:
        raise ConfigurationError(f"{name} names the host {host!r}, which is no host's name", "check it") from None
