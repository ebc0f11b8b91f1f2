"""How many runs of a process may wait with their thread, and what happens to the others."""

from __future__ import annotations

from typing import Any

import pytest

from app.relay.background.waiting_places import WaitingPlaces
from tests.conftest import MakeGateway
from tests.gateway import Gateway
from tests.relay.background.conftest import await_post
from tests.relay.conftest import SOME_TEXT, eventually
from tests.upstream import ScriptedUpstream, stalled

BODY = {"model": "m", "background": True, "input": "hello"}
#: The time in seconds after which the store queues a postponed response again by itself.
LEASE = 300


@pytest.mark.parametrize(("threads", "of_one", "of_all"), [(32, 8, 16), (4, 1, 2), (3, 0, 0), (1, 0, 0)])
def test_a_quarter_of_the_threads_waits_for_one_token_and_half_for_all(threads: int, of_one: int, of_all: int) -> None:
    places = WaitingPlaces(threads)
    assert [places.take(1) for _ in range(threads)].count(True) == of_one
    assert sum(places.take(token) for token in range(2, 40) for _ in range(threads)) == of_all - of_one


def test_postponed_responses_come_back_in_their_order_and_once() -> None:
    places = WaitingPlaces(4)
    for token, response_id in ((1, "a"), (2, "b"), (1, "c"), (1, "a")):
        places.postpone(token, response_id)
    assert [places.next_postponed(1) for _ in range(3)] == ["a", "c", None]
    assert [places.next_postponed(token) for token in (2, 2, 3)] == ["b", None, None]


def test_a_place_is_taken_once_and_left_at_the_end() -> None:
    places = WaitingPlaces(4)
    with places.place(1) as one, places.place(1) as other:
        assert [one.take(), one.take(), other.take()] == [True, True, False]
    with places.place(1) as next_one:
        assert next_one.take()
    assert places.take(1)


def test_runs_that_wait_for_a_limit_leave_threads_to_other_tokens(
    gateway: MakeGateway, upstream: ScriptedUpstream
) -> None:
    running = gateway([upstream.channel()], lease=LEASE, worker_processes=1, worker_threads=4)
    limited = running.new_token("limited", "--owner", "tests", "--concurrency", "1")
    upstream.enqueue(stalled(after=SOME_TEXT))
    waiting = [_created(running, token=limited) for _ in range(9)]
    await_post(upstream)
    other = _created(running)
    _await(running, other, "completed")
    assert {_status(running, each) for each in waiting} <= {"queued", "in_progress"}
    cancelled = waiting.pop(-3)
    assert running.post(f"/responses/{cancelled}/cancel", {}).json()["status"] == "cancelled"
    upstream.release()
    for each in waiting:
        _await(running, each, "completed")
    assert _status(running, cancelled) == "cancelled"
    assert len(upstream.bodies) == len([other, *waiting])


def _created(gateway: Gateway, **keys: Any) -> str:
    return str(gateway.post("/responses", BODY, **keys).json()["id"])


def _status(gateway: Gateway, response_id: str) -> str:
    return str(gateway.get(f"/responses/{response_id}").json()["status"])


def _await(gateway: Gateway, response_id: str, status: str) -> None:
    eventually(lambda: _status(gateway, response_id) == status, f"{response_id} to be {status}")
