"""Copies all rows into another database, of the other kind or of the same: SQLite to MySQL, or back. Each table is
copied in the order of its keys, so that a copy that broke off goes on after the last row that the target has.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import peewee

from app.errors import ConfigurationError
from app.store import migrations
from app.store.database import Database, Row, Session
from app.store.dialects import SQLITE
from app.store.migrations import Migrations, Schema
from app.store.models import TABLES

ROWS = 500
"""Rows of a batch at most."""
BYTES = 4 * 1024 * 1024
"""Bytes of a batch at most, unless one row has more."""
WAIT = 600
"""Seconds that one statement may take."""
RETRY_SECONDS = 60.0

_MARKER = "copy_source"
_ALIVE = "SELECT COUNT(*) FROM worker WHERE lease_until >= {now}"


@dataclass(frozen=True, slots=True)
class Table:
    """A table as a copy needs it."""

    name: str
    columns: tuple[str, ...]
    keys: tuple[str, ...]
    bodies: tuple[str, ...]
    """Columns that may be large."""

    @classmethod
    def of(cls, model: type[peewee.Model]) -> Table:
        meta: Any = model._meta
        columns = tuple(field.column_name for field in meta.sorted_fields)
        bodies = tuple(
            field.column_name for field in meta.sorted_fields if isinstance(field, peewee.TextField | peewee.BlobField)
        )
        return cls(meta.table_name, columns, tuple(field.column_name for field in meta.get_primary_keys()), bodies)

    @property
    def order(self) -> str:
        return ", ".join(self.keys)

    def key(self, row: Row) -> Row:
        return tuple(row[self.columns.index(name)] for name in self.keys)


@dataclass(frozen=True, slots=True)
class Difference:
    """A table that has another number of rows in the copy."""

    table: str
    source: int
    target: int


class Copy:
    def __init__(self, source: str, target: str) -> None:
        """URLs of two databases. The source has this version's schema."""
        self._source = Database(source, wait=WAIT)
        self._target = Database(target, wait=WAIT)
        self._migrations = Migrations(self._target, target)

    def close(self) -> None:
        self._source.close()
        self._target.close()

    def in_use(self) -> bool:
        """Whether a worker of a gateway is alive on one of the two."""
        return any(
            database.exists and migrations.version(database) > 0 and bool(_count(database, _ALIVE))
            for database in (self._source, self._target)
        )

    def prepare(self) -> None:
        """Gives the target its schema. Raises ConfigurationError unless the target is empty, or half a copy of this
        source."""
        self._migrations.upgrade()
        source = self._fingerprint()
        found = self._target.read(self._marker)
        if found is None and any(map(partial(_has_rows, self._target), TABLES)):
            raise ConfigurationError(
                "The database to copy to has rows of its own.", fix="Name an empty database, or a new file."
            )
        if found not in (None, source):
            raise ConfigurationError(
                "The database to copy to holds half a copy of another database.", fix="Name an empty database."
            )
        self._target.transaction(partial(self._mark, source=source))

    def total(self) -> int:
        """Rows of the source."""
        return sum(_count(self._source, f"SELECT COUNT(*) FROM {Table.of(model).name}") for model in TABLES)

    def run(self) -> Iterator[int]:
        """Copies what the target lacks. Yields the numbers of rows that are there: first those of an earlier run."""
        for table in map(Table.of, TABLES):
            last = self._target.read(partial(_last_key, table=table))
            if last is not None:
                yield _count(self._target, f"SELECT COUNT(*) FROM {table.name}")
            while rows := self._batch(table, last):
                write = partial(self._write, table=table, rows=rows)
                self._target.transaction(write, time.monotonic() + RETRY_SECONDS)
                last = table.key(rows[-1])
                yield len(rows)

    def differences(self) -> list[Difference]:
        """The tables that do not have the same number of rows in both."""
        names = [Table.of(model).name for model in TABLES]
        counts = ((name, f"SELECT COUNT(*) FROM {name}") for name in names)
        compared = (Difference(name, _count(self._source, sql), _count(self._target, sql)) for name, sql in counts)
        return [each for each in compared if each.source != each.target]

    def finish(self) -> None:
        """Makes the target a database of its own."""
        self._target.transaction(lambda session: session.run(f"DROP TABLE {_MARKER}"))

    # --- one batch ----------------------------------------------------------------------------------------------

    def _batch(self, table: Table, last: Row | None) -> list[Row]:
        """The next rows by their key: as many as fit into a batch."""
        condition, parameters = ("", ()) if last is None else self._source.dialect.after(table.keys, last)
        where = f" WHERE {condition}" if condition else ""
        sizes = " + ".join(f"COALESCE(LENGTH({column}), 0)" for column in table.bodies) or "0"
        order = f"{where} ORDER BY {table.order} LIMIT"
        found = self._rows(f"SELECT {sizes} FROM {table.name}{order} {ROWS}", parameters)
        count = _fitting([int(size) for (size,) in found], min(BYTES, (self._target.packet or 4 * BYTES) // 4))
        if not count:
            return []
        return self._rows(f"SELECT {', '.join(table.columns)} FROM {table.name}{order} {count}", parameters)

    def _rows(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        return self._source.read(partial(Session.rows, sql=sql, parameters=parameters))

    def _write(self, session: Session, *, table: Table, rows: Sequence[Row]) -> None:
        insert = self._target.dialect.unless_there(table.name, table.columns)
        if len(rows) == 1 and not session.fits(*_texts(rows[0])):
            _write_in_pieces(session, table, rows[0], insert)
        else:
            session.run_many(insert, (session.large(row) for row in rows))

    # --- whose copy it is ---------------------------------------------------------------------------------------

    def _fingerprint(self) -> str:
        """Tells one database from another: the time of its first step, and its first token."""
        rows = self._rows("SELECT applied_at FROM schema_version WHERE version = 1", ())
        rows += self._rows("SELECT pk, created_at FROM token ORDER BY pk LIMIT 1", ())
        return hashlib.sha256(repr(rows).encode()).hexdigest()[:32]

    def _marker(self, session: Session) -> str | None:
        if not _has_table(session, self._target):
            return None
        row = session.row(f"SELECT source FROM {_MARKER}")
        return str(row[0]) if row else None

    def _mark(self, session: Session, source: str) -> None:
        Schema(session, self._target.dialect).table(_MARKER, "source {id} NOT NULL PRIMARY KEY")
        session.run(self._target.dialect.unless_there(_MARKER, ["source"]), (source,))


def _fitting(sizes: Sequence[int], most: int) -> int:
    """How many of the rows with these sizes fit into so many bytes; at least one."""
    total = 0
    for number, size in enumerate(sizes):
        total += size
        if total > most and number:
            return number
    return len(sizes)


def _write_in_pieces(session: Session, table: Table, row: Row, insert: str) -> None:
    """A statement for each body: together they are too large for one."""
    large = [(name, value) for name, value in zip(table.columns, row, strict=True) if value and name in table.bodies]
    short = ["" if name in dict(large) else value for name, value in zip(table.columns, row, strict=True)]
    session.run(insert, short)
    found = " AND ".join(f"{name} = ?" for name in table.keys)
    for name, value in large:
        session.run(f"UPDATE {table.name} SET {name} = ? WHERE {found}", session.large((value, *table.key(row))))


def _texts(row: Row) -> Iterator[str | bytes]:
    return (value for value in row if isinstance(value, str | bytes))


def _last_key(session: Session, table: Table) -> Row | None:
    order = ", ".join(f"{name} DESC" for name in table.keys)
    return session.row(f"SELECT {table.order} FROM {table.name} ORDER BY {order} LIMIT 1")


def _has_rows(database: Database, model: type[peewee.Model]) -> bool:
    sql = f"SELECT 1 FROM {Table.of(model).name} LIMIT 1"
    return database.read(lambda session: session.row(sql)) is not None


def _has_table(session: Session, database: Database) -> bool:
    if database.dialect is SQLITE:
        sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    else:
        sql = "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?"
    return session.row(sql, (_MARKER,)) is not None


def _count(database: Database, sql: str) -> int:
    row = database.read(lambda session: session.row(sql.format(now=database.dialect.now)))
    return int(row[0]) if row else 0
