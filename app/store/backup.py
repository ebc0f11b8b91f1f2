"""Copies a SQLite database while it is in use. For a database server, the error names the server's own program."""

from __future__ import annotations

import os
from pathlib import Path

from app.errors import ConfigurationError
from app.store import migrations
from app.store.database import PRIVATE, Database
from app.store.dialects import SQLITE


def copy(database: Database, file: Path) -> None:
    """Writes a new file, complete and synced to the disk. On an error the file is removed."""
    if database.dialect is not SQLITE:
        raise ConfigurationError(
            "A MySQL database is copied with its own program, not with this command.",
            fix=f"Run: mariadb-dump --single-transaction {database.address} > FILE",
        )
    if migrations.version(database) == 0:
        raise ConfigurationError("There is no database yet to copy.", fix="Run: antiphon init")
    _create(file)
    try:
        # Into the empty file, so that the copy is private from its first byte on.
        database.read(lambda session: session.run("VACUUM INTO ?", (str(file),)))
        _sync(file)
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def _create(file: Path) -> None:
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE))
    except OSError as error:
        raise ConfigurationError(f"Cannot write {file}: {error.strerror}.", fix="Name a file you may write.") from error


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
