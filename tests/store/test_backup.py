from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from app.errors import ConfigurationError
from app.store.store import Store
from tests.databases import Server
from tests.store.conftest import PEPPER
from tests.store.turns import OWNER, line, turn


@pytest.fixture
def sqlite(tmp_path: Path) -> Store:
    store = Store(f"sqlite:///{tmp_path}/antiphon.db", peppers=[PEPPER])
    store.schema.upgrade()
    return store


def test_a_copy_is_a_whole_store_for_its_owner_only(sqlite: Store, tmp_path: Path) -> None:
    turns = line(sqlite, 3)
    _, secret = sqlite.tokens.create("laptop", OWNER)
    sqlite.maintenance.backup(tmp_path / "copy.db")
    turn(sqlite, turns[-1])
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    copy = Store(f"sqlite:///{tmp_path}/copy.db", peppers=[PEPPER])
    copy.schema.check()
    assert [link.id for link in copy.responses.chain(OWNER, turns[-1]).links] == turns
    assert copy.maintenance.stats()["rows"]["response"] == 3
    assert copy.tokens.check(secret) is not None
    copy.close()
    sqlite.close()


def test_a_copy_during_writes_holds_whole_turns(sqlite: Store, tmp_path: Path) -> None:
    done = Event()

    def write() -> list[str]:
        written: list[str] = []
        while not done.is_set():
            written += line(sqlite, 5, written[-1] if written else None)
        return written

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write)
        for number in range(5):
            sqlite.maintenance.backup(tmp_path / f"copy{number}.db")
        done.set()
        written = writing.result()
    for number in range(5):
        copy = Store(f"sqlite:///{tmp_path}/copy{number}.db", peppers=[PEPPER])
        copied = [response_id for response_id in written if copy.responses.read(OWNER, response_id)]
        assert copied == written[: len(copied)]
        if copied:
            assert [link.id for link in copy.responses.chain(OWNER, copied[-1]).links] == copied
        counted = copy.maintenance.stats()["rows"]
        assert counted["response"] == counted["content"] == len(copied)
        copy.close()
    sqlite.close()


def test_a_file_that_is_there_is_left_alone(sqlite: Store, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"copy\.db"):
        sqlite.maintenance.backup(tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_text() == "mine"
    with pytest.raises(ConfigurationError) as caught:
        sqlite.maintenance.backup(tmp_path / "none" / "copy.db")
    assert caught.value.fix
    sqlite.close()


def test_where_nothing_is_stored_there_is_nothing_to_copy(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/empty.db", peppers=[PEPPER])
    with pytest.raises(ConfigurationError, match="no database"):
        store.maintenance.backup(tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()
    store.close()


def test_a_server_is_copied_by_its_own_program(mariadb: Server, tmp_path: Path) -> None:
    store = Store(f"mysql://root:hidden@127.0.0.1:{mariadb.port}/chat%20log", peppers=[PEPPER])
    with pytest.raises(ConfigurationError) as caught:
        store.maintenance.backup(tmp_path / "copy.db")
    assert f"mariadb-dump --single-transaction --host=127.0.0.1 --port={mariadb.port}" in caught.value.fix
    assert "hidden" not in caught.value.message + caught.value.fix
    assert not (tmp_path / "copy.db").exists()
    store.close()
