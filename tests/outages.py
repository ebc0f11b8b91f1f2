"""Database outages: another connection holds the write lock, so that reads succeed and writes time out."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import pymysql


@contextmanager
def outage(url: str) -> Iterator[None]:
    """Blocks all writes to this database."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        with closing(sqlite3.connect(parts.path[1:], isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            yield
            database.execute("ROLLBACK")
        return
    with pymysql.connect(host=parts.hostname, port=parts.port or 0, user=parts.username or "") as connection:
        cursor = connection.cursor()
        cursor.execute("FLUSH TABLES WITH READ LOCK")
        yield
        cursor.execute("UNLOCK TABLES")
