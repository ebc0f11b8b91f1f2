"""The size of the store, for operators. It counts all rows, so requests must not use it."""

from __future__ import annotations

from typing import Any

from app.store.database import Database, Session
from app.store.dialects import SQLITE
from app.store.models import TABLES

_MYSQL_SIZE = (
    "SELECT COALESCE(SUM(data_length + index_length), 0) FROM information_schema.tables WHERE table_schema = DATABASE()"
)


def gather(database: Database) -> dict[str, Any]:
    return database.read(lambda session: _gather(session, database))


def _gather(session: Session, database: Database) -> dict[str, Any]:
    tables = [model._meta.table_name for model in TABLES]
    statuses = "SELECT status, COUNT(*) FROM response WHERE deleted_at IS NULL GROUP BY status"
    return {
        "database": database.dialect.name,
        "bytes": _size(session, database),
        "rows": {table: _one(session, f"SELECT COUNT(*) FROM {table}") for table in tables},
        "statuses": {str(status): int(count) for status, count in session.rows(statuses)},
    }


def _size(session: Session, database: Database) -> int:
    if database.dialect is SQLITE:
        return _one(session, "PRAGMA page_count") * _one(session, "PRAGMA page_size")
    return _one(session, _MYSQL_SIZE)


def _one(session: Session, sql: str) -> int:
    row = session.row(sql)
    return int(row[0]) if row else 0
