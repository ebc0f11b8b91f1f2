"""A store of each kind with its schema."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.store.store import Store
from tests.databases import database_url, mariadb

__all__ = ["database_url", "mariadb", "store"]

PEPPER = b"p" * 32


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url, peppers=[PEPPER])
    store.schema.upgrade()
    yield store
    store.close()
