"""One gateway in front of all caches, and its store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.store.store import Store
from tests.caches.share_table import House, house


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("caches")) as running:
        yield running


@pytest.fixture(scope="module")
def store(running: House) -> Iterator[Store]:
    store = Store(running.gateway.database_url, peppers=[b"p"])
    yield store
    store.close()
