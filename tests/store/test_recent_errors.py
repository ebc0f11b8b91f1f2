"""The newest failures of channels and tool servers: few, found without reading responses, and no longer than these."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from app.contract.records import Attempt, ToolCall
from app.store.recent_errors import LIFETIME, MESSAGE, NEWEST
from app.store.store import Store
from tests.relay.conftest import eventually
from tests.store import rows
from tests.store.turns import OWNER, draft, outcome

LIMITED = Attempt("a", 5, 429, "rate_limit_exceeded", upstream_message="limit  200000,\nused 199120")
REFUSED = Attempt("a", 5, 400, "invalid_value", upstream_message="no such value: 'my secret'")
ANSWERED = Attempt("b", 9, 200)


@pytest.fixture
def database_url(module_database_url: str) -> str:
    return module_database_url


@pytest.fixture
def store(shared_store: Store) -> Store:
    return shared_store


def ended(store: Store, *attempts: Attempt, stored: bool = True, **fields: Any) -> str:
    """A response whose attempts were these."""
    begun = draft(stored=stored, **fields)
    store.responses.finish(begun, outcome(attempts=attempts))
    return begun.id


def found(store: Store, name: str = "a") -> Sequence[Any]:
    return store.recent_errors.channels().get(name, ())


def test_a_failure_is_found_although_another_channel_answered(store: Store) -> None:
    response = ended(store, LIMITED, ANSWERED, request_id="req_1")
    ((_, _, at, status, code, message, owner, id_, request),) = found(store)
    assert (status, code, message) == (429, "rate_limit_exceeded", "limit 200000, used 199120")
    assert (owner, id_, request) == (OWNER, response, "req_1")
    assert at == outcome().completed_at
    assert found(store, "b") == ()


def test_failed_attempts_are_counted_for_their_channel_and_refusals_are_not(store: Store) -> None:
    ended(store, LIMITED, LIMITED, ANSWERED)
    ended(store, REFUSED, ANSWERED)
    begun = draft()
    store.responses.finish(begun, outcome(channel="b", attempts=(ANSWERED,)))
    assert {row["channel"]: row["errors"] for row in store.usage.slots(0) if row["channel"] in "ab"} == {"a": 2, "b": 0}


def test_the_newest_come_first(store: Store) -> None:
    ended(store, LIMITED)
    ended(store, REFUSED)
    assert [error.code for error in found(store)] == ["invalid_value", "rate_limit_exceeded"]


def test_a_response_that_is_ended_later_counts_as_well(store: Store) -> None:
    begun = draft()
    store.responses.begin(begun)
    store.responses.finish(begun, outcome("failed", attempts=(LIMITED,)))
    assert [error.response for error in found(store)] == [begun.id]


def test_nothing_of_an_unstored_request_is_quoted(store: Store) -> None:
    ended(store, REFUSED, LIMITED, stored=False)
    assert [error.message for error in found(store)] == ["limit 200000, used 199120", ""]


def test_a_long_message_is_cut(store: Store) -> None:
    ended(store, Attempt("a", 5, 500, "upstream_error", upstream_message="x" * 1000))
    assert found(store)[0].message == "x" * MESSAGE


def test_only_the_newest_stay(store: Store, database_url: str) -> None:
    for _ in range(NEWEST + 3):
        ended(store, LIMITED)
    last = ended(store, REFUSED)
    other = ended(store, Attempt("c", 1, 500, "upstream_error"))
    assert len(found(store)) == NEWEST
    store.reaper.reap()
    assert rows.count(database_url, "recent_error") == NEWEST + 1
    assert found(store)[0].response == last
    assert found(store, "c")[0].response == other


def test_one_transaction_writes_no_more_than_are_shown(store: Store, database_url: str) -> None:
    ended(store, *[LIMITED] * 50, REFUSED)
    assert rows.count(database_url, "recent_error") == NEWEST
    assert found(store)[0].code == "invalid_value"


def test_an_old_failure_is_forgotten(store: Store, database_url: str) -> None:
    ended(store, LIMITED)
    rows.execute(database_url, f"UPDATE recent_error SET at = {int(time.time()) - LIFETIME - 1}")
    store.reaper.reap()
    assert found(store) == ()


def test_a_deleted_response_leaves_no_words(store: Store) -> None:
    response = ended(store, LIMITED)
    assert store.responses.delete(OWNER, response)
    assert [(error.code, error.message) for error in found(store)] == [("rate_limit_exceeded", "")]


@pytest.mark.parametrize("owner", [OWNER, "eve"])
def test_an_erased_owner_leaves_no_failure(store: Store, owner: str) -> None:
    ended(store, LIMITED)
    for _ in store.maintenance.erase(owner, "erased-1"):
        pass
    assert len(found(store)) == (0 if owner == OWNER else 1)


def test_a_failed_call_of_a_tool_is_one_of_its_server(store: Store) -> None:
    call = ToolCall("mcp_1", "docs", "search", 1_700_000_000_000, milliseconds=3, error="http_error 502")
    store.tool_calls.end(OWNER, "resp_1", [call])
    eventually(lambda: store.recent_errors.tool_servers(), "the writer")
    (error,) = store.recent_errors.tool_servers()["docs"]
    assert (error.code, error.message, error.status) == ("http_error 502", "search", None)
    assert store.recent_errors.channels() == {}
