"""A store of each kind with its schema."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.store.database import Session
from app.store.models import TABLES
from app.store.store import Store

__all__ = ["shared_store", "store"]

PEPPER = b"p" * 32


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url, peppers=[PEPPER])
    store.schema.upgrade()
    yield store
    store.close()


@pytest.fixture
def shared_store(module_database_url: str) -> Iterator[Store]:
    """A store of each kind whose database the tests of one file share. Its tables are empty."""
    store = Store(module_database_url, peppers=[PEPPER])
    store.schema.upgrade()
    store.database.transaction(_empty)
    yield store
    store.close()


def _empty(session: Session) -> None:
    for model in TABLES:
        session.run(f"DELETE FROM {model._meta.table_name}")  # type: ignore[attr-defined]
