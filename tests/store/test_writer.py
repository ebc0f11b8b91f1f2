from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from app.contract.usage import Usage
from app.errors import StoreUnavailable
from app.store.database import Database, Session, Unwritable
from app.store.store import Store
from app.store.writer import BACKLOG, Writer
from tests.store import rows
from tests.store.turns import OWNER, draft, outcome


class Page:
    """The simplest group: a session, and a word at the end."""

    flushed = 0

    def __init__(self, session: Session) -> None:
        self.session = session

    def flush(self) -> None:
        Page.flushed += 1

    def put(self, number: int) -> int:
        self.session.run("INSERT INTO leaf (pk) VALUES (?)", (number,))
        return number


class Gate:
    """A job that holds the writer until it is opened, so that those behind it become one group."""

    def __init__(self, writer: Writer[Page]) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        writer.post(self.hold)
        self.reached.wait(10)

    def hold(self, _: Page) -> None:
        self.reached.set()
        self.open.wait(10)


@pytest.fixture
def writer(database_url: str) -> Iterator[Writer[Page]]:
    database = Database(database_url)
    database.create()
    database.transaction(lambda session: session.run("CREATE TABLE leaf (pk INTEGER PRIMARY KEY)"))
    writer: Writer[Page] = Writer(database, Page, limit=8)
    yield writer
    writer.close()
    database.close()


def leaves(url: str) -> list[int]:
    return [pk for (pk,) in rows.execute(url, "SELECT pk FROM leaf ORDER BY pk")]


def test_a_job_returns_after_its_commit(writer: Writer[Page], database_url: str) -> None:
    assert writer.do(lambda page: page.put(7)) == 7
    assert leaves(database_url) == [7]


def test_jobs_that_wait_share_a_transaction(writer: Writer[Page], database_url: str) -> None:
    gate = Gate(writer)
    before = Page.flushed
    with ThreadPoolExecutor(8) as threads:
        written = [threads.submit(writer.do, lambda page, n=n: page.put(n)) for n in range(8)]
        while writer.waiting < 8:
            pass
        gate.open.set()
        assert sorted(job.result() for job in written) == list(range(8))
    assert Page.flushed - before == 2


def test_one_rows_fault_fails_only_its_own_request(writer: Writer[Page], database_url: str) -> None:
    writer.do(lambda page: page.put(3))
    gate = Gate(writer)
    with ThreadPoolExecutor(8) as threads:
        written = [threads.submit(writer.do, lambda page, n=n: page.put(n)) for n in range(6)]
        while writer.waiting < 6:
            pass
        gate.open.set()
        faults = [job.exception() for job in written]
    assert [fault is None for fault in faults] == [True, True, True, False, True, True]
    assert leaves(database_url) == list(range(6))


def test_a_job_that_raises_leaves_nothing_and_spares_the_others(writer: Writer[Page], database_url: str) -> None:
    def broken(page: Page) -> None:
        page.put(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        writer.do(broken)
    assert writer.do(lambda page: page.put(2)) == 2
    assert leaves(database_url) == [2]


def test_a_job_whose_deadline_passes_before_its_turn_is_never_written(writer: Writer[Page], database_url: str) -> None:
    gate = Gate(writer)
    with pytest.raises(StoreUnavailable):
        writer.do(lambda page: page.put(1), seconds=0.01)
    gate.open.set()
    writer.do(lambda page: page.put(2))
    assert leaves(database_url) == [2]


def test_unawaited_jobs_are_dropped_when_the_queue_is_full(writer: Writer[Page], database_url: str) -> None:
    gate = Gate(writer)
    for number in range(BACKLOG + 5):
        writer.post(partial(Page.put, number=number))
    assert writer.dropped == 5
    gate.open.set()
    writer.close()
    assert leaves(database_url) == list(range(BACKLOG))


def test_a_closed_writer_takes_nothing_more(writer: Writer[Page]) -> None:
    writer.close()
    with pytest.raises(StoreUnavailable):
        writer.do(lambda page: page.put(1))
    writer.post(lambda page: page.put(1))


def test_a_bad_response_among_good_ones_fails_alone(store: Store) -> None:
    drafts = [draft() for _ in range(20)]

    def finish(number: int) -> bool:
        usage = Usage(input_tokens=2**70 if number == 7 else 1)
        return store.responses.finish(drafts[number], outcome(usage=usage))

    with ThreadPoolExecutor(20) as threads:
        written = [threads.submit(finish, number) for number in range(20)]
        failed = [number for number, job in enumerate(written) if job.exception() is not None]
    assert failed == [7]
    assert isinstance(written[7].exception(), Unwritable)
    assert [store.responses.read(OWNER, it.id) is not None for it in drafts].count(True) == 19
    assert store.usage.since("2000-01-01")[0]["requests"] == 19
