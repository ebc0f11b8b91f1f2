from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest

from app import ids
from app.contract.records import Conversation, ConversationTurn
from app.errors import ConfigurationError
from app.store import copying
from app.store.copying import Copy, Difference
from app.store.models import TABLES
from app.store.store import Store
from tests import stored_data
from tests.databases import Server
from tests.store import rows
from tests.store.conftest import PEPPER
from tests.store.turns import OWNER, chain_ids, draft, line, outcome, turn


@pytest.fixture(params=["sqlite", "mariadb"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of either kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/copy.db"
        return
    server: Server = request.getfixturevalue("mariadb")
    yield server.new_database()


@pytest.fixture
def filled(store: Store, database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a database with rows that need several batches."""
    monkeypatch.setattr(copying, "ROWS", 4)
    monkeypatch.setattr(copying, "BYTES", 2000)
    store.tokens.create("laptop", OWNER, models=["small"], retention=86_400)
    store.tokens.rotate("laptop", 60)
    ended = line(
        store, 9, settings=b'{"instructions":"sei h\\u00f6flich \xe2\x98\x83"}', says="☃ it's \\ 'quoted' %s ?\n" * 9
    )
    turn(store, ended[3], says="x" * 5000)
    for number in range(6):
        first = ConversationTurn(created_at=1, input=b'[{"type":"message","id":"msg_%d"}]' % number)
        store.conversations.create(OWNER, Conversation(ids.new("conv"), 1), first)
    return database_url


def test_a_copy_has_every_value_and_goes_on_as_the_original(filled: str, target: str) -> None:
    with closing(Copy(filled, target)) as copy:
        assert not copy.in_use()
        copy.prepare()
        assert sum(copy.run()) == copy.total()
        assert copy.differences() == []
        copy.finish()
    for model in TABLES:
        sql = f"SELECT * FROM {model._meta.table_name}"
        assert sorted(map(repr, stored_data.select(target, sql))) == sorted(map(repr, stored_data.select(filled, sql)))
    with closing(Store(target, peppers=[PEPPER])) as moved, closing(Store(filled, peppers=[PEPPER])) as original:
        moved.schema.check()
        ((tip,),) = rows.execute(filled, "SELECT id FROM response WHERE depth = 9")
        assert chain_ids(moved, tip) == chain_ids(original, tip)
        assert chain_ids(moved, turn(moved, tip))[:-1] == chain_ids(original, tip)
    with closing(Copy(filled, target)) as again, pytest.raises(ConfigurationError, match="rows of its own"):
        again.prepare()


def test_a_copy_that_broke_off_goes_on(filled: str, target: str) -> None:
    with closing(Copy(filled, target)) as copy:
        copy.prepare()
        total = copy.total()
        before = sum(islice(copy.run(), 4))
        assert 0 < before < total
    with closing(Copy(filled, target)) as copy:
        copy.prepare()
        assert sum(copy.run()) == total
        assert copy.differences() == []


def test_rows_that_differ_in_number_are_named(filled: str, target: str) -> None:
    with closing(Copy(filled, target)) as copy:
        copy.prepare()
        assert sum(copy.run()) == copy.total()
        rows.execute(target, "DELETE FROM content WHERE response = 2")
        assert copy.differences() == [Difference("content", 10, 9)]


def test_half_a_copy_of_another_database_is_refused(filled: str, target: str, tmp_path: Path) -> None:
    with closing(Copy(filled, target)) as copy:
        copy.prepare()
        next(copy.run())
    other = f"sqlite:///{tmp_path}/other.db"
    with closing(Store(other, peppers=[PEPPER])) as store:
        store.schema.upgrade()
        rows.execute(other, "UPDATE schema_version SET applied_at = 1")
    with closing(Copy(other, target)) as copy, pytest.raises(ConfigurationError, match="another database"):
        copy.prepare()


def test_a_row_that_one_statement_cannot_take_is_written_in_pieces(
    store: Store, database_url: str, mariadb: Server
) -> None:
    half = "x" * 9_000_000
    begun = draft(says=half)
    assert store.responses.finish(begun, outcome(says=half))
    target = mariadb.new_database()
    with closing(Copy(database_url, target)) as copy:
        copy.prepare()
        assert sum(copy.run()) == copy.total()
        assert copy.differences() == []
    lengths = "SELECT LENGTH(input), LENGTH(output) FROM content"
    assert rows.execute(target, lengths) == rows.execute(database_url, lengths)


def test_a_database_that_a_worker_uses_is_recognised(store: Store, database_url: str, target: str) -> None:
    store.leases.renew()
    with closing(Copy(database_url, target)) as copy:
        assert copy.in_use()
    with closing(Copy(target, database_url)) as copy:
        assert copy.in_use()
    store.leases.end()
    with closing(Copy(database_url, target)) as copy:
        assert not copy.in_use()
