from __future__ import annotations

import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import peewee
import pymysql
import pytest

from app.errors import ConfigurationError, StoreUnavailable, TooLargeToStore
from app.store.database import Database, Session, Unwritable
from app.store.store import Store
from tests.databases import Server
from tests.store import rows
from tests.store.turns import OWNER, chain_ids, draft, line, outcome, turn


@pytest.mark.parametrize(
    "url",
    ["", "postgres://a/b", "sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://a/b", "mysql://host", "x.db"],
)
def test_a_url_that_names_no_database_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Database(url)
    assert caught.value.fix


def test_a_relative_file_stays_where_it_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = Database("sqlite:///here.db")
    monkeypatch.chdir("/")
    database.create()
    database.ping()
    database.close()
    assert (tmp_path / "here.db").exists()


def test_a_file_that_is_gone_is_not_replaced_by_an_empty_one(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/a.db", peppers=[b"p"])
    store.schema.upgrade()
    stored = turn(store)
    (tmp_path / "a.db").rename(tmp_path / "elsewhere.db")
    with pytest.raises(StoreUnavailable):
        # Although a connection to it is open.
        store.database.ping()
    store.close()
    with pytest.raises(StoreUnavailable):
        store.responses.read(OWNER, stored)
    assert not (tmp_path / "a.db").exists()
    (tmp_path / "elsewhere.db").rename(tmp_path / "a.db")
    assert store.responses.read(OWNER, stored)
    store.close()


def test_a_password_is_unquoted(mariadb: Server) -> None:
    mariadb.run("CREATE OR REPLACE USER odd IDENTIFIED BY 'p@ss:/w%rd'")
    mariadb.run("CREATE DATABASE IF NOT EXISTS odd")
    mariadb.run("GRANT ALL ON odd.* TO odd")
    database = Database(f"mysql://odd:p%40ss%3A%2Fw%25rd@127.0.0.1:{mariadb.port}/odd")
    database.ping()
    database.close()
    wrong = Database(f"mysql://odd:wrong@127.0.0.1:{mariadb.port}/odd")
    with pytest.raises(StoreUnavailable):
        wrong.ping()


def test_a_database_that_is_not_there_is_unavailable_and_quotes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for url in (f"sqlite:///{tmp_path}/no/folder/a.db", "mysql://root:hidden@127.0.0.1:1/none"):
        store = Store(url, peppers=[b"p"])
        with pytest.raises(StoreUnavailable) as caught:
            store.database.ping()
        assert caught.value.code == "storage_unavailable"
        with pytest.raises(StoreUnavailable):
            store.responses.read(OWNER, "resp_1")
        with pytest.raises(StoreUnavailable):
            store.responses.finish(draft(says="private words"), outcome())
        store.close()
    assert "private words" not in caplog.text
    assert "database error" in caplog.text
    assert "hidden" not in caplog.text


def test_a_fault_of_a_row_is_logged_without_its_values(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Unwritable):
        store.responses.finish(draft(created_at=2**70, says="private words"), outcome())
    assert "private words" not in caplog.text


def test_readers_go_on_while_another_process_holds_the_write_lock(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/a.db", peppers=[b"p"])
    store.schema.upgrade()
    turns = line(store, 3)
    holder = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert chain_ids(store, turns[-1]) == turns
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(turn, store, turns[-1])
        assert store.responses.read(OWNER, turns[0]) is not None
        holder.execute("COMMIT")
        assert chain_ids(store, waiting.result())[:-1] == turns
    holder.close()
    store.close()


def test_connections_that_were_killed_are_replaced_unseen(store: Store, database_url: str, mariadb: Server) -> None:
    turns = line(store, 2)
    if database_url.startswith("mysql"):
        _kill_all(mariadb)
        assert chain_ids(store, turns[-1]) == turns
        _kill_all(mariadb)
        last = turn(store, turns[-1])
        assert chain_ids(store, last) == [*turns, last]
        assert store.responses.delete(OWNER, last)


def _kill_all(server: Server) -> None:
    with pymysql.connect(host="127.0.0.1", port=server.port, user="root", autocommit=True) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT id FROM information_schema.processlist WHERE user = 'root' AND id <> CONNECTION_ID()")
        for (process,) in cursor.fetchall():
            cursor.execute(f"KILL {process}")


def test_a_frozen_server_fails_every_read_and_serves_again_after_the_thaw(mariadb: Server) -> None:
    mariadb.run("CREATE DATABASE frozen")
    store = Store(mariadb.url("frozen"), peppers=[b"p"])
    store.schema.upgrade()
    turns = line(store, 2)
    with mariadb.frozen(), ThreadPoolExecutor(12) as threads:
        reads = [threads.submit(store.responses.chain, OWNER, turns[-1]) for _ in range(12)]
        assert [type(read.exception()) for read in reads] == [StoreUnavailable] * len(reads)
    mariadb.await_start()
    store.close()
    thawed = Store(mariadb.url("frozen"), peppers=[b"p"])
    assert chain_ids(thawed, turns[-1]) == turns
    thawed.close()
    mariadb.run("DROP DATABASE frozen")


def test_no_connection_is_lost_by_failures(store: Store, database_url: str) -> None:
    database = Database(database_url)
    for _ in range(60):
        with pytest.raises(StoreUnavailable):
            database.read(lambda session: session.rows("SELECT nothing FROM nowhere"))
        with pytest.raises(ZeroDivisionError):
            database.transaction(lambda session: session.run("DELETE FROM item") // 0)
    database.ping()
    database.close()


def test_a_statement_over_the_packet_size_is_refused_before_it_is_sent(mariadb: Server) -> None:
    mariadb.run("CREATE DATABASE narrow")
    store = Store(mariadb.url("narrow"), peppers=[b"p"])
    store.schema.upgrade()
    turn(store)
    with pytest.raises(TooLargeToStore, match="max_allowed_packet"):
        store.responses.finish(draft(input=b'["' + b"x" * 17_000_000 + b'"]'), outcome())
    turn(store)
    store.close()
    mariadb.run("DROP DATABASE narrow")


def test_the_sqlite_file_is_laid_out_for_turns(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    store = Store(url, peppers=[b"p"])
    store.schema.upgrade()
    store.close()
    assert rows.execute(url, "SELECT page_size FROM pragma_page_size") == [(16384,)]
    assert rows.execute(url, "SELECT journal_mode FROM pragma_journal_mode") == [("wal",)]


def test_an_existing_sqlite_file_keeps_its_page_size(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as older:
        older.execute("PRAGMA page_size = 8192")
        older.execute("PRAGMA journal_mode = wal")
        older.execute("CREATE TABLE something (id INTEGER)")
    store = Store(f"sqlite:///{tmp_path}/a.db", peppers=[b"p"])
    store.schema.upgrade()
    turns = line(store, 3)
    assert chain_ids(store, turns[-1]) == turns
    store.close()
    assert rows.execute(f"sqlite:///{tmp_path}/a.db", "SELECT page_size FROM pragma_page_size") == [(8192,)]


def test_the_sqlite_file_is_its_owners_alone(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/a.db", peppers=[b"p"])
    store.schema.upgrade()
    turn(store)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {"a.db": 0o600, "a.db-wal": 0o600, "a.db-shm": 0o600}
    store.close()


def test_an_existing_sqlite_file_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch(0o640)
    (tmp_path / "a.db").chmod(0o640)
    store = Store(f"sqlite:///{tmp_path}/a.db", peppers=[b"p"])
    store.schema.upgrade()
    store.close()
    assert stat.S_IMODE((tmp_path / "a.db").stat().st_mode) == 0o640


class Busy(sqlite3.OperationalError):
    sqlite_errorname = "SQLITE_BUSY"


@pytest.mark.parametrize(
    "passing",
    [
        peewee.OperationalError(Busy("database is locked"), "database is locked"),
        *(peewee.OperationalError(code, "") for code in (1213, 1205, 1020, 1180, 1047, 2006, 2013)),
        peewee.InterfaceError(0, ""),
    ],
    ids=repr,
)
def test_a_transaction_is_run_again_as_a_whole_when_its_fault_passes(
    store: Store, database_url: str, passing: peewee.PeeweeException
) -> None:
    database = Database(database_url)
    tries: list[int] = []

    def write(session: Session) -> int:
        tries.append(session.insert("INSERT INTO branch (parent, fork) VALUES (NULL, NULL)"))
        if len(tries) < 3:
            raise passing
        return len(tries)

    assert database.transaction(write) == 3
    assert database.read(lambda session: session.rows("SELECT COUNT(*) FROM branch")) == [(1,)]
    database.close()


def test_a_fault_that_stays_is_not_tried_for_ever(store: Store, database_url: str) -> None:
    database = Database(database_url)
    tries: list[int] = []

    def write(session: Session) -> None:
        tries.append(1)
        raise peewee.OperationalError(1213, "")

    with pytest.raises(StoreUnavailable):
        database.transaction(write)
    assert 1 < len(tries) <= 5
    database.close()


def test_a_write_lock_that_stays_ends_in_an_error(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/a.db", peppers=[b"p"])
    store.schema.upgrade()
    holder = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        store.responses.delete(OWNER, "resp_1")
    holder.execute("COMMIT")
    assert store.responses.delete(OWNER, turn(store))
    holder.close()
    store.close()
