"""Calls of tools in the store: committed before they leave, answered once, gone with their response."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from app.contract.records import EventBatch, ToolCall
from app.store.errors import AlreadyAnswered
from app.store.store import Store
from tests.relay.conftest import eventually
from tests.store import rows
from tests.store.test_jobs import enqueue, held, kill, status
from tests.store.test_pruning import prune
from tests.store.turns import OWNER, turn

CALL = ToolCall("mcp_1", "docs", "search", 1_700_000_000_000)
ENDED = replace(CALL, milliseconds=12, size=345, error="http_error 502")
HOSTED = replace(CALL, item_id="ws_1", milliseconds=3, size=4, result=b'{"text":"found"}')


def approved(item_id: str, request: str = "mcpr_1") -> ToolCall:
    return replace(CALL, item_id=item_id, approval_request_id=request)


def ended(store: Store, response: str, calls: Sequence[ToolCall]) -> None:
    """Writes the ends and waits for the writer."""
    store.tool_calls.end(OWNER, response, calls)
    eventually(lambda: store.tool_calls.of_response(OWNER, response) == list(calls), "the writer")


def test_a_call_is_there_before_it_ends_and_says_how_it_ended(store: Store) -> None:
    response = turn(store)
    store.tool_calls.begin(OWNER, response, [CALL, replace(CALL, item_id="ws_1")])
    assert store.tool_calls.of_response(OWNER, response) == [CALL, replace(CALL, item_id="ws_1")]
    ended(store, response, [ENDED, HOSTED])
    assert store.tool_calls.of_response("eve", response) == []


def test_the_same_mark_may_be_written_twice(store: Store) -> None:
    store.tool_calls.begin(OWNER, "resp_1", [approved("mcp_1")])
    store.tool_calls.begin(OWNER, "resp_1", [approved("mcp_1")])
    assert len(store.tool_calls.of_response(OWNER, "resp_1")) == 1


def test_an_approval_request_is_answered_once(store: Store) -> None:
    store.tool_calls.begin(OWNER, "resp_1", [approved("mcp_1")])
    with pytest.raises(AlreadyAnswered) as refused:
        store.tool_calls.begin(OWNER, "resp_2", [replace(CALL, item_id="mcp_3"), approved("mcp_2")])
    assert refused.value.request_id == "mcpr_1"
    # None of the calls of a refused turn has a mark.
    assert store.tool_calls.of_response(OWNER, "resp_2") == []
    store.tool_calls.begin("eve", "resp_3", [approved("mcp_4")])


def test_of_two_answers_at_once_one_has_its_call_leave(store: Store) -> None:
    def answer(number: int) -> bool:
        response, call = f"resp_{number}", approved(f"mcp_{number}")
        try:
            store.tool_calls.begin(OWNER, response, [replace(call, started_at=0)])
            store.tool_calls.start(OWNER, response, [call])
        except AlreadyAnswered:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(answer, range(8))) == 1


def test_an_answer_whose_call_never_left_may_be_given_again(store: Store) -> None:
    store.tool_calls.begin(OWNER, "resp_1", [replace(approved("mcp_1"), started_at=0)])
    # The same turn may find its own answer, and a later one takes it over.
    store.tool_calls.begin(OWNER, "resp_1", [replace(approved("mcp_1"), started_at=0)])
    ended(store, "resp_1", [replace(approved("mcp_1"), started_at=0, milliseconds=0, error="cancelled")])
    store.tool_calls.begin(OWNER, "resp_2", [replace(approved("mcp_2"), started_at=0)])
    assert store.tool_calls.of_response(OWNER, "resp_1") == []
    with pytest.raises(AlreadyAnswered):
        store.tool_calls.start(OWNER, "resp_1", [approved("mcp_1")])
    for _ in "as after a commit whose answer was lost", "and again":
        store.tool_calls.start(OWNER, "resp_2", [approved("mcp_2")])
    assert store.tool_calls.of_response(OWNER, "resp_2") == [approved("mcp_2")]
    with pytest.raises(AlreadyAnswered):
        store.tool_calls.begin(OWNER, "resp_3", [replace(approved("mcp_3"), started_at=0)])


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "incomplete"])
@pytest.mark.parametrize("repeatable", [True, False])
def test_a_call_that_left_is_repeated_only_if_it_may_be_and_its_response_failed(
    store: Store, status: str, repeatable: bool
) -> None:
    response = turn(store, status=status)
    store.tool_calls.begin(OWNER, response, [approved("mcp_1")])
    again = replace(approved("mcp_2"), started_at=0, repeatable=repeatable)
    if repeatable and status in ("failed", "cancelled"):
        store.tool_calls.begin(OWNER, "resp_2", [again])
        assert store.tool_calls.of_response(OWNER, "resp_2") == [again]
    else:
        with pytest.raises(AlreadyAnswered):
            store.tool_calls.begin(OWNER, "resp_2", [again])


def test_a_denial_may_be_repeated_and_not_be_taken_back(store: Store) -> None:
    denied = replace(approved("mcpr_1"), started_at=0)
    for response in ("resp_1", "resp_2"):
        store.tool_calls.begin(OWNER, response, [denied])
    with pytest.raises(AlreadyAnswered):
        store.tool_calls.begin(OWNER, "resp_3", [replace(approved("mcp_3"), started_at=0, repeatable=True)])
    # An approval whose call never left can still become a denial.
    store.tool_calls.begin(OWNER, "resp_4", [replace(approved("mcp_4", "mcpr_4"), started_at=0)])
    store.tool_calls.begin(OWNER, "resp_5", [replace(approved("mcpr_4", "mcpr_4"), started_at=0)])
    with pytest.raises(AlreadyAnswered):
        store.tool_calls.start(OWNER, "resp_4", [approved("mcp_4", "mcpr_4")])


def test_a_run_that_has_only_answered_is_run_again(store: Store, database_url: str) -> None:
    response = enqueue(store)
    held(store, response)
    store.tool_calls.begin(OWNER, response, [replace(approved("mcp_1"), started_at=0)])
    kill(database_url, response)
    assert store.reaper.reap() == 0
    assert status(store, response) != "failed"


def test_results_of_unstored_responses_are_not_written(store: Store) -> None:
    store.tool_calls.begin(OWNER, "resp_1", [replace(CALL, item_id="ws_1")])
    store.tool_calls.end(OWNER, "resp_1", [replace(HOSTED, stored=False)])
    written = replace(HOSTED, result=None)
    eventually(lambda: store.tool_calls.of_response(OWNER, "resp_1") == [written], "the writer")


def test_hidden_results_are_found_by_their_owner_until_the_response_is_deleted(store: Store) -> None:
    response = turn(store)
    store.tool_calls.begin(OWNER, response, [replace(CALL, item_id="ws_1")])
    ended(store, response, [HOSTED])
    asked = ["ws_1", "ws_2", "x" * 5000, *map(str, range(1200))]
    assert store.tool_calls.results(OWNER, asked) == {"ws_1": HOSTED.result}
    assert store.tool_calls.results("eve", asked) == store.tool_calls.results(OWNER, []) == {}
    assert store.responses.delete(OWNER, response)
    assert store.tool_calls.results(OWNER, ["ws_1"]) == {}
    assert store.tool_calls.of_response(OWNER, response) == [replace(HOSTED, result=None)]


def test_calls_are_pruned_with_their_response(store: Store, database_url: str) -> None:
    old, young = turn(store), turn(store)
    for response in (old, young):
        store.tool_calls.begin(OWNER, response, [replace(CALL, item_id=f"mcp_{response}")])
    rows.age(database_url, [old], 40)
    prune(store)
    assert store.tool_calls.of_response(OWNER, old) == []
    assert len(store.tool_calls.of_response(OWNER, young)) == 1


def test_a_run_that_has_called_a_tool_is_not_run_again(store: Store, database_url: str) -> None:
    response = enqueue(store)
    held(store, response)
    store.tool_calls.begin(OWNER, response, [CALL])
    assert not store.jobs.requeue(response, [].append)
    kill(database_url, response)
    assert store.reaper.reap() == 1
    assert status(store, response) == "failed"


def test_events_before_the_first_output_do_not_count(store: Store, database_url: str) -> None:
    response = enqueue(store)
    held(store, response)
    assert store.events.append(response, EventBatch(2, 2, b"event: x\ndata: {}\n\n"))
    kill(database_url, response)
    assert store.reaper.reap() == 0
