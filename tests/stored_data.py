"""What a gateway has stored, read without its code: every value of every table, or the bytes of SQLite's files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pymysql

from tests.gateway import Gateway

JSON = dict[str, Any]


def written(gateway: Gateway) -> bytes:
    """The log and all stored data. With SQLite this is the content of its files, pages of deleted rows as well."""
    if urlsplit(gateway.database_url).scheme == "sqlite":
        stored = [file.read_bytes() for file in gateway.directory.iterdir() if file.name.startswith("antiphon.db")]
        assert stored
    else:
        stored = list(values(gateway.database_url))
    return b"\n".join([*stored, gateway.log.encode()])


def values(url: str) -> Iterator[bytes]:
    """Every value of every table."""
    with closing(_connect(url)) as database:
        for table in _tables(database):
            for row in _rows(database, f"SELECT * FROM {table}"):
                for value in row.values():
                    yield value if isinstance(value, bytes) else str(value).encode()


def select(url: str, sql: str, parameters: Sequence[Any] = ()) -> list[JSON]:
    """Rows by the names of their columns. Parameters stand as `?`."""
    with closing(_connect(url)) as database:
        return _rows(database, sql, parameters)


def _connect(url: str) -> Any:
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return sqlite3.connect(parts.path[1:])
    return pymysql.connect(
        host=parts.hostname, port=parts.port or 0, user=parts.username or "", database=parts.path[1:]
    )


def _tables(database: Any) -> list[str]:
    sqlite = "SELECT name FROM sqlite_master WHERE type = 'table'"
    sql = sqlite if isinstance(database, sqlite3.Connection) else "SHOW TABLES"
    return [str(name) for row in _rows(database, sql) for name in row.values()]


def _rows(database: Any, sql: str, parameters: Sequence[Any] = ()) -> list[JSON]:
    cursor = database.cursor()
    cursor.execute(sql if isinstance(database, sqlite3.Connection) else sql.replace("?", "%s"), parameters)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
