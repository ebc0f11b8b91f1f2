"""What is at work over all workers, and the end of a response that another caller cancelled."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest

from app.contract.records import ChannelStatus
from app.contract.usage import Usage
from app.errors import NotFound
from app.relay.cancellation import cancel
from app.relay.lease_keeper import RunningStreams
from app.reports.in_flight import in_flight_report
from app.store.store import Store
from tests.store import rows
from tests.store.test_jobs import enqueue, held
from tests.store.turns import OWNER, draft, outcome


@pytest.fixture
def other(store: Store, database_url: str) -> Iterator[Store]:
    """Another worker's."""
    other = Store(database_url, peppers=[b"p"])
    yield other
    other.close()


def listed(store: Store, scope: str | None = None) -> list[tuple[str, str, str | None]]:
    return [(one.id, one.status, one.channel) for one in in_flight_report(scope, store).responses]


def test_every_worker_lists_what_all_workers_run(store: Store, other: Store) -> None:
    token, _ = store.tokens.create("laptop", OWNER)
    first, second = draft(token=token.key, client="codex", created_at=5), draft(owner="bob", created_at=6)
    store.responses.begin(first, "near")
    other.responses.begin(second)
    waiting = enqueue(store)
    for reader in (store, other):
        assert listed(reader) == [
            (first.id, "in_progress", "near"),
            (second.id, "in_progress", None),
            (waiting, "queued", None),
        ]
    found = in_flight_report(None, other).responses[0]
    assert (found.owner, found.token, found.client, found.model) == (OWNER, "laptop", "codex", "small")
    assert found.seconds > 1_000_000
    held(other, waiting)
    store.responses.finish(first, outcome())
    assert listed(store) == [(second.id, "in_progress", None), (waiting, "in_progress", None)]


def test_an_owner_sees_no_other_and_nothing_of_the_workers(store: Store) -> None:
    own, foreign = draft(created_at=5), draft(owner="bob")
    for each in (own, foreign):
        store.responses.begin(each)
    waiting = enqueue(store)
    store.leases.renew([ChannelStatus("near", in_flight=9)])
    report = in_flight_report(OWNER, store)
    assert [one.id for one in report.responses] == [own.id, waiting]
    assert (report.unlisted, report.workers) == (None, [])
    assert in_flight_report("eve", store).wire() == {"responses": [], "unlisted": None, "workers": 0}


def test_requests_without_a_row_are_counted_by_the_reports_of_live_workers(store: Store, other: Store) -> None:
    store.responses.begin(draft())
    store.leases.renew([ChannelStatus("near", in_flight=3), ChannelStatus("far", in_flight=1)])
    # A turn that runs tools has a row and no exchange.
    other.responses.begin(draft())
    other.leases.renew([ChannelStatus("near")])
    report = in_flight_report(None, store)
    assert (len(report.responses), report.unlisted, len(report.workers)) == (2, 3, 2)
    store.leases.end()
    assert in_flight_report(None, other).unlisted == 0


def test_a_channel_that_accepts_later_is_noted_until_the_end(store: Store, database_url: str) -> None:
    begun = draft()
    store.responses.begin(begun, "first")
    store.responses.note_channel(begun.id, "second")
    # The writer keeps the order.
    store.responses.begin(draft())
    assert ("second", begun.id) in [(one.channel, one.id) for one in store.in_flight.read(None)[0]]
    store.responses.finish(begun, outcome(channel="third"))
    store.responses.note_channel(begun.id, "late")
    store.responses.begin(draft())
    assert rows.execute(database_url, "SELECT channel FROM response WHERE id = ?", (begun.id,)) == [("third",)]


@pytest.mark.parametrize("scope", [None, OWNER])
def test_a_cancelled_stream_keeps_its_output_and_counts_once_and_not_as_failed(
    store: Store, other: Store, database_url: str, scope: str | None
) -> None:
    begun = draft(client="codex")
    store.responses.begin(begun, "first")
    assert cancel(scope, other, RunningStreams(), begun.id) == OWNER
    late = outcome("failed", usage=Usage(7, output_tokens=2, estimated=True), channel="first", first_byte_ms=4)
    assert not store.responses.finish(begun, late)
    assert not store.responses.finish(begun, late)
    found = store.responses.read(OWNER, begun.id)
    assert found is not None
    assert (found.status, found.output, found.error) == ("cancelled", late.output, None)
    assert found.usage is not None
    assert (found.usage.input_tokens, found.usage.output_tokens) == (7, 2)
    sums = "SELECT requests, failed, output_tokens, channel, first_0 FROM usage_day"
    assert rows.execute(database_url, sums) == [(1, 0, 2, "first", 1)]
    item = orjson.loads(late.output)[0]["id"]
    assert rows.execute(database_url, "SELECT COUNT(*) FROM item WHERE id = ?", (item,)) == [(1,)]


def test_a_deleted_stream_gets_no_output(store: Store, database_url: str) -> None:
    begun = draft()
    store.responses.begin(begun)
    store.responses.delete(OWNER, begun.id)
    store.responses.finish(begun, outcome())
    assert rows.execute(database_url, "SELECT COUNT(*) FROM item") == [(0,)]
    assert rows.execute(database_url, "SELECT COUNT(*) FROM content") == [(0,)]


def test_what_has_ended_stays_and_what_is_foreign_is_unknown(store: Store) -> None:
    begun, unstored = draft(), draft(stored=False)
    store.responses.begin(begun)
    store.responses.note(unstored, outcome())
    for scope, response_id in (("bob", begun.id), (None, "resp_none"), (None, "x y"), (None, unstored.id)):
        with pytest.raises(NotFound):
            cancel(scope, store, RunningStreams(), response_id)
    store.responses.finish(begun, outcome())
    assert cancel(None, store, RunningStreams(), begun.id) is None
    found = store.responses.read(OWNER, begun.id)
    assert found is not None
    assert found.status == "completed"


def test_a_stream_of_the_same_worker_stops_at_once(store: Store) -> None:
    begun, running, stopped = draft(), RunningStreams(), []
    store.responses.begin(begun)
    running.add(begun.id, lambda: stopped.append(begun.id))
    cancel(OWNER, store, running, begun.id)
    assert stopped == [begun.id]
