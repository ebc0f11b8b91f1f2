"""The job queue: on both databases and on Redis a job reaches another process, never before its row is committed."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import pytest

from app.server.job_queue import RedisQueue, SqlQueue, open_queue
from app.store.database import Session
from app.store.store import Store
from tests.queues import redis_url

__all__ = ["redis_url"]

WITHIN = 60.0
Queue = SqlQueue | RedisQueue


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url, peppers=[b"p"])
    store.schema.upgrade()
    yield store
    store.close()


@pytest.fixture
def bell(store: Store) -> Queue:
    return open_queue(None, store.database)


@pytest.fixture
def redis_bell(redis_url: str) -> Queue:
    return RedisQueue(redis_url)


def rings(bell: Queue, count: int) -> list[str]:
    """What the next so many rings say."""
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    consumer = bell.consumer(answers.put, threads=4)
    consumer.start()
    try:
        return [answers.get(timeout=WITHIN) for _ in range(count)]
    finally:
        consumer.end()
        for _, thread in consumer.worker_threads:
            thread.join()


def test_an_enlisted_job_rings_once(bell: Queue, store: Store) -> None:
    names = [f"resp_{number}" for number in range(50)]
    for name in names:
        store.database.transaction(lambda session, name=name: bell.add_in_transaction(name))
        bell.add_after_commit(name)
    assert sorted(rings(bell, len(names))) == sorted(names)
    store.database.transaction(lambda session: bell.add_in_transaction("last"))
    assert rings(bell, 1) == ["last"]


def test_a_rolled_back_job_never_rings(bell: Queue, store: Store) -> None:
    def fail(session: Session) -> None:
        bell.add_in_transaction("never")
        raise LookupError

    with pytest.raises(LookupError):
        store.database.transaction(fail)
    store.database.transaction(lambda session: bell.add_in_transaction("resp_1"))
    assert rings(bell, 1) == ["resp_1"]


def test_over_redis_it_rings_once_its_row_is_there(redis_bell: Queue) -> None:
    redis_bell.add_in_transaction("before")
    redis_bell.add_after_commit("resp_1")
    assert rings(redis_bell, 1) == ["resp_1"]


def test_an_unreachable_redis_fails_no_request() -> None:
    RedisQueue("redis://127.0.0.1:1/0").add_after_commit("resp_1")


def test_nothing_in_a_queue_is_run_as_code(redis_bell: Queue, redis_url: str) -> None:
    import redis

    with redis.Redis.from_url(redis_url) as client:
        client.lpush("huey.redis.antiphon", b"cos\nsystem\n(S'exit 1'\ntR.")
    assert rings(redis_bell, 1) == ["cos\nsystem\n(S'exit 1'\ntR."]
