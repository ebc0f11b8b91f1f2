"""The differences between SQLite and MySQL. Every other file of the store writes its SQL once, with `?` for each
parameter, and takes the few words that differ from its dialect.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Dialect(ABC):
    name: str
    begin: str
    now: str
    """The database's clock in unix seconds. Leases of several hosts are compared only on this clock."""
    share: str
    """Ends a SELECT inside a transaction that keeps its row from being deleted before the commit."""
    hold: str
    """Ends a SELECT inside a transaction that locks its rows exclusively until the commit."""
    body: str
    """The SQL placeholder for a body from `parameter`."""
    types: Mapping[str, str]
    """Words of the schema: `{key}`, `{id}`, `{name}`, `{body}`, … as migrations write them."""

    @abstractmethod
    def statement(self, sql: str) -> str:
        """A statement in the driver's own spelling."""

    @abstractmethod
    def unless_there(self, table: str, columns: Sequence[str]) -> str:
        """An INSERT that leaves an existing row with the same key unchanged, and still fails for every other reason."""

    @abstractmethod
    def add(self, table: str, key: Sequence[str], counters: Sequence[str]) -> str:
        """An INSERT that adds its counters to those of the row with the same key."""

    @abstractmethod
    def parameter(self, body: bytes) -> bytes | str:
        """A body as the driver takes it."""

    @abstractmethod
    def after(self, columns: Sequence[str], key: Sequence[Any]) -> tuple[str, tuple[Any, ...]]:
        """The condition, with its parameters, for rows that come after `key` in the order of these columns, in the form
        for which the database uses an index."""

    def insert(self, table: str, columns: Sequence[str]) -> str:
        return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


class SQLite(Dialect):
    __slots__ = ()

    def statement(self, sql: str) -> str:
        return sql

    def parameter(self, body: bytes) -> bytes | str:
        # Bytes are copied once; a string would be decoded first and encoded again.
        return body

    def unless_there(self, table: str, columns: Sequence[str]) -> str:
        return f"{self.insert(table, columns)} ON CONFLICT DO NOTHING"

    def add(self, table: str, key: Sequence[str], counters: Sequence[str]) -> str:
        sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in counters)
        return f"{self.insert(table, [*key, *counters])} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sums}"

    def after(self, columns: Sequence[str], key: Sequence[Any]) -> tuple[str, tuple[Any, ...]]:
        return f"({', '.join(columns)}) > ({', '.join('?' * len(columns))})", tuple(key)


class MySQL(Dialect):
    __slots__ = ()

    def statement(self, sql: str) -> str:
        return sql.replace("%", "%%").replace("?", "%s").replace(" AS BLOB)", " AS BINARY)")

    def parameter(self, body: bytes) -> bytes | str:
        return body.decode()

    def unless_there(self, table: str, columns: Sequence[str]) -> str:
        # INSERT IGNORE would also swallow a value that is too long.
        return f"{self.insert(table, columns)} ON DUPLICATE KEY UPDATE {columns[0]} = {table}.{columns[0]}"

    def add(self, table: str, key: Sequence[str], counters: Sequence[str]) -> str:
        sums = ", ".join(f"{name} = {name} + VALUES({name})" for name in counters)
        return f"{self.insert(table, [*key, *counters])} ON DUPLICATE KEY UPDATE {sums}"

    def after(self, columns: Sequence[str], key: Sequence[Any]) -> tuple[str, tuple[Any, ...]]:
        first, value = columns[0], key[0]
        if len(columns) == 1:
            return f"{first} > ?", (value,)
        rest, parameters = self.after(columns[1:], key[1:])
        return f"({first} > ? OR ({first} = ? AND {rest}))", (value, value, *parameters)


SQLITE = SQLite(
    name="sqlite",
    begin="BEGIN IMMEDIATE",
    now="CAST(strftime('%s', 'now') AS INTEGER)",
    share="",
    hold="",
    body="CAST(? AS TEXT)",
    types={
        "key": "INTEGER PRIMARY KEY",
        "own": "INTEGER PRIMARY KEY",
        "int": "INTEGER",
        "flag": "INTEGER NOT NULL DEFAULT 0",
        "id": "TEXT",
        "word": "TEXT",
        "name": "TEXT",
        "body": "TEXT",
        "blob": "BLOB",
        "real": "REAL",
        "table": "",
        "clustered": "WITHOUT ROWID",
    },
)

_ASCII = "CHARACTER SET ascii COLLATE ascii_bin"
_UTF8 = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"

MYSQL = MySQL(
    name="mysql",
    begin="BEGIN",
    now="UNIX_TIMESTAMP()",
    share=" LOCK IN SHARE MODE",
    hold=" FOR UPDATE",
    body="?",
    types={
        "key": "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY",
        "own": "BIGINT NOT NULL PRIMARY KEY",
        "int": "BIGINT",
        "flag": "TINYINT NOT NULL DEFAULT 0",
        "id": f"VARCHAR(64) {_ASCII}",
        "word": f"VARCHAR(16) {_ASCII}",
        "name": f"VARCHAR(191) {_UTF8}",
        "body": f"LONGTEXT {_UTF8}",
        "blob": "BLOB",
        "real": "DOUBLE",
        "table": "ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        "clustered": "ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    },
)
