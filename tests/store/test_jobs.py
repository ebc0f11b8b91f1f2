"""Background responses in the store: the claim of a worker, the events, and the end."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest

from app.contract.records import LIFECYCLE_EVENTS, EventBatch, Job
from app.store.store import Store
from tests.store import rows
from tests.store.turns import OWNER, draft, outcome

FIRST_EVENTS = EventBatch(0, 1, b"event: response.created\ndata: {}\n\nevent: response.queued\ndata: {}\n\n")


def enqueue(store: Store, rings: list[str] | None = None) -> str:
    waiting = draft(background=True)
    store.jobs.enqueue(waiting, b"sealed", FIRST_EVENTS, [].append if rings is None else rings.append)
    return waiting.id


def status(store: Store, response_id: str) -> str:
    stored = store.responses.read(OWNER, response_id)
    assert stored is not None
    return stored.status


def held(store: Store, response_id: str) -> Job:
    job = store.jobs.claim(response_id)
    assert job is not None
    return job


def event_batch(first: int, last: int, item: str = "") -> EventBatch:
    """Events of which the last finishes an item, where there is one."""
    event = {"type": "response.output_item.done", "item": {"type": "message", "id": item}}
    body = b"event: x\ndata: {}\n\n" * (last - first + (not item))
    return EventBatch(first, last, body + (b"event: %b\ndata: %b\n\n" % (b"x", orjson.dumps(event)) if item else b""))


@pytest.fixture
def other(store: Store, database_url: str) -> Iterator[Store]:
    """Another worker's."""
    other = Store(database_url, peppers=[b"p"])
    yield other
    other.close()


def kill(database_url: str, response_id: str) -> None:
    rows.execute(
        database_url,
        "UPDATE worker SET lease_until = 1 WHERE pk = (SELECT worker FROM response WHERE id = ?)",
        (response_id,),
    )


def test_it_waits_with_all_that_its_run_needs(store: Store) -> None:
    rings: list[str] = []
    response_id = enqueue(store, rings)
    assert (status(store, response_id), rings) == ("queued", [response_id])
    job = held(store, response_id)
    assert (job.owner, job.request, job.last) == (OWNER, b"sealed", FIRST_EVENTS.last)
    assert status(store, response_id) == "in_progress"


def test_of_many_claims_one_succeeds(store: Store, other: Store) -> None:
    response_id = enqueue(store)
    stores = [store, other] * 4
    with ThreadPoolExecutor(2) as threads:
        jobs = list(threads.map(lambda store: store.jobs.claim(response_id), stores[:2]))
    assert sum(job is not None for job in jobs) == 1


def test_only_its_holder_writes_events_or_the_end(store: Store, other: Store) -> None:
    waiting = draft(background=True)
    store.jobs.enqueue(waiting, b"sealed", FIRST_EVENTS, [].append)
    held(store, waiting.id)
    other.jobs.claim(waiting.id)
    assert not other.events.append(waiting.id, event_batch(2, 4))
    assert not other.responses.finish(waiting, outcome())
    assert status(store, waiting.id) == "in_progress"
    assert store.responses.finish(waiting, outcome())


def test_its_job_ends_with_it(store: Store, database_url: str) -> None:
    for end in (
        lambda waiting: store.responses.finish(waiting, outcome()),
        lambda waiting: store.responses.cancel(OWNER, waiting.id),
        lambda waiting: store.responses.delete(OWNER, waiting.id),
    ):
        waiting = draft(background=True)
        store.jobs.enqueue(waiting, b"sealed", FIRST_EVENTS, [].append)
        held(store, waiting.id)
        assert end(waiting)
        assert store.jobs.claim(waiting.id) is None
    assert rows.count(database_url, "job") == 0


def test_a_released_job_waits_as_before(store: Store, other: Store) -> None:
    rings: list[str] = []
    response_id = enqueue(store)
    held(store, response_id)
    assert not other.jobs.requeue(response_id, rings.append)
    assert store.jobs.requeue(response_id, rings.append)
    assert (status(store, response_id), rings) == ("queued", [response_id])
    held(other, response_id)
    assert not store.jobs.requeue(response_id, rings.append)


def test_a_postponed_job_is_queued_again_after_its_age(store: Store, other: Store, database_url: str) -> None:
    rings: list[str] = []
    response_id = enqueue(store)
    held(store, response_id)
    assert not other.jobs.postpone(response_id)
    assert store.jobs.postpone(response_id)
    assert status(store, response_id) == "queued"
    assert store.jobs.requeue_waiting(rings.append) == []
    rows.execute(database_url, "UPDATE job SET created_at = created_at - 1000, rung_at = rung_at - 100")
    assert store.jobs.requeue_waiting(rings.append) == []
    rows.execute(database_url, "UPDATE job SET created_at = created_at - 1000, rung_at = rung_at - 1000")
    assert store.jobs.requeue_waiting(rings.append) == rings == [response_id]
    held(other, response_id)


def test_a_postponed_job_is_put_into_the_queue_while_it_is_queued(store: Store, other: Store) -> None:
    rings: list[str] = []
    response_id = enqueue(store)
    held(store, response_id)
    assert not other.jobs.requeue_postponed(response_id, rings.append)
    assert store.jobs.postpone(response_id)
    assert other.jobs.requeue_postponed(response_id, rings.append)
    assert rings == [response_id]
    assert store.responses.cancel(OWNER, response_id)
    assert not store.jobs.requeue_postponed(response_id, rings.append)


def test_a_job_without_events_survives_one_dead_worker(store: Store, other: Store, database_url: str) -> None:
    response_id = enqueue(store)
    held(other, response_id)
    assert other.events.append(response_id, event_batch(2, LIFECYCLE_EVENTS - 1))
    kill(database_url, response_id)
    assert store.reaper.reap() == 0
    rings: list[str] = []
    assert store.jobs.requeue_waiting(rings.append) == rings == [response_id]
    assert store.jobs.requeue_waiting(rings.append) == []
    held(store, response_id)
    kill(database_url, response_id)
    assert store.reaper.reap() == 1
    assert status(store, response_id) == "failed"


def test_a_dead_worker_leaves_the_items_it_had_finished(store: Store, other: Store, database_url: str) -> None:
    response_id = enqueue(store)
    held(other, response_id)
    assert other.events.append(response_id, event_batch(2, 5, "msg_1"))
    assert other.events.append(response_id, event_batch(6, 8))
    kill(database_url, response_id)
    assert store.reaper.reap() == 1
    failed = store.responses.read(OWNER, response_id)
    assert failed is not None
    assert [item["id"] for item in failed.output_items()] == ["msg_1"]
    assert store.items.in_responses(OWNER, ["msg_1"]).get("msg_1") is not None


def test_one_that_comes_back_finds_it_gone(store: Store, other: Store, database_url: str) -> None:
    waiting = draft(background=True)
    store.jobs.enqueue(waiting, b"sealed", FIRST_EVENTS, [].append)
    held(other, waiting.id)
    kill(database_url, waiting.id)
    assert store.reaper.reap() == 0
    held(store, waiting.id)
    assert not other.events.append(waiting.id, event_batch(2, 4))
    assert not other.responses.finish(waiting, outcome())
    assert other.reaper.running() == set()
    assert store.responses.finish(waiting, outcome())


def test_events_are_read_from_anywhere_in_their_order(store: Store, other: Store) -> None:
    response_id = enqueue(store)
    held(store, response_id)
    for first in range(2, 200, 2):
        assert store.events.append(response_id, event_batch(first, first + 1))
    after, seen = -1, []
    while (page := other.events.read(OWNER, response_id, after)) is not None and page.batches:
        seen += [(batch.first, batch.last) for batch in page.batches]
        after = page.batches[-1].last
    assert seen == [(first, first + 1) for first in range(0, 200, 2)]
    assert other.events.read("eve", response_id, -1) is None


def test_a_batch_that_is_written_again_has_more_in_it(store: Store) -> None:
    response_id = enqueue(store)
    held(store, response_id)
    assert store.events.append(response_id, event_batch(2, 3))
    assert store.events.append(response_id, event_batch(2, 7))
    page = store.events.read(OWNER, response_id, 1)
    assert page is not None
    assert [(batch.first, batch.last) for batch in page.batches] == [(2, 7)]


def test_events_go_some_time_after_the_end(store: Store, database_url: str) -> None:
    waiting = draft(background=True)
    store.jobs.enqueue(waiting, b"sealed", FIRST_EVENTS, [].append)
    held(store, waiting.id)
    rows.execute(database_url, "UPDATE event SET kept_at = 1")
    assert store.events.expire(60) == 0
    assert store.responses.finish(waiting, outcome())
    assert store.events.expire(60) == 0
    rows.execute(database_url, "UPDATE response SET completed_at = 1")
    assert store.events.expire(60) == 1
    assert rows.count(database_url, "event") == 0


def test_a_deleted_response_leaves_no_event(store: Store, database_url: str) -> None:
    response_id = enqueue(store)
    assert store.responses.delete(OWNER, response_id)
    assert store.events.read(OWNER, response_id, -1) is None
    assert rows.count(database_url, "event") == 0


def test_only_what_waited_in_the_queue_can_be_given_back(store: Store) -> None:
    begun = draft()
    store.responses.begin(begun)
    assert not store.jobs.requeue(begun.id, [].append)
    assert status(store, begun.id) == "in_progress"
