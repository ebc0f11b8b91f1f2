"""Ends that the database could not take when they came, and rows that their own worker does not know."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from app import ids
from app.contract.records import Claim, Conversation, ConversationTurn, EventBatch, Outcome
from app.contract.usage import Usage
from app.errors import StoreUnavailable
from app.store.database import Unwritable
from app.store.store import Store
from tests.outages import outage
from tests.relay.conftest import eventually
from tests.store import rows
from tests.store.conftest import PEPPER
from tests.store.turns import OWNER, draft, outcome

PATIENCE = 60.0
ERROR = {"code": "storage_unavailable", "message": "The response store is not available."}


def failed(says: str = "half an answer") -> Outcome:
    return outcome("failed", says=says, error=ERROR, usage=Usage(input_tokens=3, output_tokens=4, estimated=True))


def test_an_unwritten_end_is_written_later(store: Store, database_url: str) -> None:
    """One outage for all: it takes as long as the database's own timeouts."""
    begun, end, unstored = draft(), failed(), draft(stored=False)
    claim, first, second = Claim("key", "f"), ids.new("resp"), ids.new("resp")
    store.responses.begin(begun)
    assert store.idempotency.claim(1, claim, first) is None
    with outage(database_url):
        store.responses.note(unstored, failed())
        with pytest.raises(StoreUnavailable):
            store.responses.finish(begun, outcome())
        store.responses.finish_later(begun, end)
        store.unwritten.drain(0.1)
        store.idempotency.release(1, claim, first)
        assert store.reaper.running() == set()
        assert store.responses.read(OWNER, begun.id).status == "in_progress"  # type: ignore[union-attr]
    eventually(lambda: _all_written(store), "the ends to be written", PATIENCE)
    written = store.responses.read(OWNER, begun.id)
    assert written is not None
    assert (written.status, written.error) == ("failed", ERROR)
    assert (written.input, written.output, written.usage) == (begun.input, end.output, end.usage)
    assert rows.execute(database_url, "SELECT status FROM response WHERE id = ?", (unstored.id,)) == [("failed",)]
    assert sum(day["requests"] for day in store.usage.since("2000-01-01")) == 2
    assert store.idempotency.claim(1, claim, second) is None


def _all_written(store: Store) -> bool:
    store.unwritten.retry()
    return store.maintenance.stats()["writer"]["unwritten"] == 0


def test_all_follow_once_one_is_written(store: Store, database_url: str) -> None:
    begun = [draft() for _ in range(100)]
    for each in begun:
        store.responses.begin(each)
        store.responses.finish_later(each, failed())
    store.unwritten.retry()
    sql = "SELECT COUNT(*) FROM response WHERE status = 'failed'"
    eventually(lambda: rows.execute(database_url, sql) == [(len(begun),)], "the ends to be written", PATIENCE)


def test_half_a_character_is_replaced_and_the_row_written(store: Store) -> None:
    begun = replace(draft(), model="m\udcff")
    end = replace(outcome("failed", error=None), upstream_id="up_\ud83d", upstream_model="\ude00")
    store.responses.begin(begun)
    assert store.responses.finish(begun, end)
    found = store.responses.read(OWNER, begun.id)
    assert found is not None
    assert (found.status, found.model) == ("failed", "m\N{REPLACEMENT CHARACTER}")
    assert store.responses.read(OWNER, "resp_\ud83d") is None


def test_an_end_that_no_attempt_can_write_is_given_up(store: Store) -> None:
    """As a number too large for its column: no return of a database will help."""
    begun, endless = draft(), outcome("failed", usage=Usage(input_tokens=2**70, output_tokens=0))
    store.responses.begin(begun)
    with pytest.raises(Unwritable):
        store.responses.finish(begun, endless)
    store.responses.finish_later(begun, endless)
    eventually(lambda: _all_written(store), "the end to be given up", PATIENCE)
    assert store.responses.read(OWNER, begun.id).status == "in_progress"  # type: ignore[union-attr]
    assert store.reaper.running() == {begun.id}


def test_a_response_that_was_cancelled_meanwhile_keeps_its_status_and_what_its_client_saw(store: Store) -> None:
    begun = draft()
    store.responses.begin(begun)
    ended = failed()
    store.responses.finish_later(begun, ended)
    assert store.responses.cancel(OWNER, begun.id)
    store.unwritten.drain(PATIENCE)
    found = store.responses.read(OWNER, begun.id)
    assert found is not None
    assert (found.status, found.error, found.output) == ("cancelled", None, ended.output)


def test_the_first_end_counts(store: Store) -> None:
    begun = draft()
    store.responses.begin(begun)
    store.responses.finish_later(begun, failed())
    store.responses.finish_later(begun, outcome("cancelled"))
    store.unwritten.drain(PATIENCE)
    assert store.responses.read(OWNER, begun.id).status == "failed"  # type: ignore[union-attr]


def test_a_conversation_gets_nothing_of_it(store: Store) -> None:
    conversation = Conversation(f"conv_{ids.new('x')[2:]}", int(time.time()), {})
    store.conversations.create(OWNER, conversation, ConversationTurn(created_at=1, input=b"[]", output=b"[]"))
    begun = draft(conversation=conversation.id)
    store.responses.begin(begun)
    store.responses.finish_later(begun, failed())
    store.unwritten.drain(PATIENCE)
    assert store.responses.read(OWNER, begun.id).status == "failed"  # type: ignore[union-attr]
    assert store.conversations.items(OWNER, conversation.id, order="asc", after=None, limit=10) == []


def test_a_response_without_a_row_is_written_whole(store: Store) -> None:
    never_begun, end = draft(), outcome("cancelled", says="too late")
    store.responses.finish_later(never_begun, end)
    store.unwritten.drain(PATIENCE)
    found = store.responses.read(OWNER, never_begun.id)
    assert found is not None
    assert (found.status, found.input, found.output) == ("cancelled", never_begun.input, end.output)


def test_beyond_the_limit_an_end_is_written_without_its_output(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/large.db", peppers=[PEPPER])
    store.schema.upgrade()
    begun = [draft() for _ in range(3)]
    for each, size in zip(begun, (40 << 20, 40 << 20, 1000), strict=True):
        store.responses.begin(each)
        store.responses.finish_later(each, failed("x" * size))
    store.unwritten.drain(PATIENCE)
    found = [store.responses.read(OWNER, each.id) for each in begun]
    assert [(each.status, each.error) for each in found if each] == [("failed", ERROR)] * 3
    assert [len(each.output) > 2 for each in found if each] == [True, False, True]
    assert all(each.input == begun[0].input for each in found if each)
    store.close()


def test_an_end_that_no_statement_can_hold_is_written_without_its_output(store: Store, database_url: str) -> None:
    begun = draft()
    store.responses.begin(begun)
    store.responses.finish_later(begun, failed("x" * 17_000_000))
    store.unwritten.drain(PATIENCE)
    found = store.responses.read(OWNER, begun.id)
    assert found is not None
    assert found.status == "failed"
    assert (len(found.output) > 2) == database_url.startswith("sqlite")


def test_a_claim_whose_commit_was_not_confirmed_is_its_own(store: Store) -> None:
    claim, response_id = Claim("key", "f"), ids.new("resp")
    assert store.idempotency.claim(1, claim, response_id) is None
    assert store.idempotency.claim(1, claim, response_id) is None


# --- rows that their own worker does not know -------------------------------------------------------------------


@pytest.fixture
def short_lease(store: Store, database_url: str) -> Iterator[Store]:
    """A worker with a short lease."""
    short_lease = Store(database_url, peppers=[PEPPER], lease=1)
    yield short_lease
    short_lease.close()


def test_a_living_worker_fails_what_it_does_not_know_after_a_lease(short_lease: Store) -> None:
    unknown, known, late, job = (draft() for _ in range(4))
    for each in (unknown, known, late):
        short_lease.responses.begin(each)
    short_lease.jobs.enqueue(job, b"{}", EventBatch(0, 0, b""), lambda _: None)
    short_lease.jobs.claim(job.id)
    short_lease.responses.finish_later(late, failed())
    assert short_lease.reaper.reap_own({known.id}) == 0
    assert eventually(lambda: short_lease.reaper.reap_own({known.id}), "the lease to pass") == 1
    found = short_lease.responses.read(OWNER, unknown.id)
    assert found is not None
    assert found.error is not None
    assert (found.status, found.error["code"]) == ("failed", "gateway_interrupted")
    assert short_lease.reaper.running() == {known.id, job.id}


def test_a_row_that_becomes_known_in_time_is_spared(short_lease: Store) -> None:
    begun = draft()
    short_lease.responses.begin(begun)
    until = time.monotonic() + 2 * short_lease.leases.lease
    short_lease.reaper.reap_own(())
    while time.monotonic() < until:
        assert short_lease.reaper.reap_own({begun.id}) == 0
    assert short_lease.reaper.reap_own(()) == 0
    assert short_lease.responses.finish(begun, outcome())


def test_another_worker_leaves_them_alone(store: Store, short_lease: Store) -> None:
    begun, own = draft(), draft()
    store.responses.begin(begun)
    short_lease.responses.begin(own)
    assert eventually(lambda: short_lease.reaper.reap_own(()), "the lease to pass") == 1
    assert store.reaper.running() == {begun.id}
    assert orjson.loads(store.responses.read(OWNER, begun.id).input)  # type: ignore[union-attr]
