"""The state of one channel: what may enter it, and what an outcome changes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.channels.health import Health, Need, Place, RetryBudget
from app.contract.channel import Cooldown
from app.errors import UpstreamBroken, UpstreamDenied

ONE_FAILURE = Cooldown(after=1, seconds=30.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock)


def test_of_a_burst_as_many_enter_as_there_are_places(health: Health) -> None:
    with ThreadPoolExecutor(8) as threads:
        places = list(threads.map(lambda _: health.claim(Need.AVAILABLE, 3), range(64)))
    assert [place for place in places if place is not None] == [Place.ORDINARY] * 3
    assert not health.available(3)
    health.leave(Place.ORDINARY)
    assert health.available(3)


def test_a_failure_begins_a_cooldown_that_one_trial_ends(health: Health, clock: Clock) -> None:
    health.failed(UpstreamBroken("no"), ONE_FAILURE, "ada", Place.ORDINARY)
    assert not health.available(None)
    assert health.cooldown_left == 30.0
    assert health.claim(Need.AVAILABLE, None) is None
    assert health.claim(Need.TRIAL, None) is Place.TRIAL
    assert health.claim(Need.TRIAL, None) is None
    health.succeeded("ada", Place.TRIAL)
    health.leave(Place.TRIAL)
    assert health.available(None)


def test_a_failed_trial_lengthens_no_cooldown(health: Health, clock: Clock) -> None:
    health.failed(UpstreamBroken("no"), ONE_FAILURE, "ada", Place.ORDINARY)
    clock.now += 10
    place = health.claim(Need.TRIAL, None)
    assert place is Place.TRIAL
    health.failed(UpstreamBroken("no"), ONE_FAILURE, "ada", place)
    health.leave(place)
    assert health.cooldown_left == 20.0


def test_a_refused_key_allows_no_trial(health: Health, clock: Clock) -> None:
    health.failed(UpstreamDenied("no"), ONE_FAILURE, "ada", Place.ORDINARY)
    assert health.is_firm
    assert health.claim(Need.TRIAL, None) is None
    clock.now += 30
    assert health.claim(Need.AVAILABLE, None) is Place.TRIAL


def test_a_channel_that_loads_its_model_gets_one_request_a_second(health: Health, clock: Clock) -> None:
    assert health.note_loading()
    assert not health.note_loading()
    assert health.claim(Need.LOADED, None) is None
    clock.now += 1
    assert health.claim(Need.LOADED, None) is Place.ORDINARY
    assert health.claim(Need.LOADED, None) is None
    health.accepted(Place.ORDINARY)
    assert health.available(None)


def test_a_retry_is_paid_for_by_five_requests() -> None:
    budget = RetryBudget()
    while budget.withdraw():
        pass
    for _ in range(5):
        assert not budget.withdraw()
        budget.deposit()
    assert budget.withdraw()
