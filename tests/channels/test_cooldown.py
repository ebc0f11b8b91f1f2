"""Which channel gets a request while some are in cooldown, on trial, or loading their model."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from app.channels.affinity import Affinity
from app.channels.selection import Channels, SelectedChannel
from app.channels.watched_table import WatchedTable
from app.errors import (
    ChannelsBusy,
    UpstreamBroken,
    UpstreamDenied,
    UpstreamError,
    UpstreamFailed,
    UpstreamLimited,
    UpstreamLoading,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from tests.channels.tables import FORMATS, rows, write

TABLE = """
- {name: a, format: demo, models: [one, two], priority: 9, cooldown: {after: 2, for: 30s}, timeout: {first_byte: 5s}}
- {name: b, format: demo, models: [two], cooldown: {after: 2, for: 60s}}
- {name: c1, format: demo, models: [many], priority: 4}
- {name: c2, format: demo, models: [many], priority: 3}
- {name: c3, format: demo, models: [many], priority: 2}
- {name: c4, format: demo, models: [many], priority: 1}
"""


class Clock:
    """Time as the test has it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def channels(tmp_path: Path, clock: Clock) -> Iterator[Channels]:
    watched = WatchedTable(write(tmp_path, rows(TABLE)), dict, FORMATS)
    with closing(Channels(watched, connections=1, clock=clock)) as channels:
        yield channels


def ask(channels: Channels, model: str, *errors: UpstreamError | None, **keys: Any) -> list[str]:
    """The channels that were tried. Each fails with the next error, until none is left."""
    tried = []
    for selected, error in zip(channels.select(model, **keys), errors, strict=False):
        tried.append(selected.channel.name)
        with selected:
            if error is None:
                selected.succeeded()
                break
            selected.failed(error)
    return tried


def put_into_cooldown(channels: Channels, model: str = "one", error: UpstreamError | None = None) -> None:
    for _ in range(2):
        ask(channels, model, error or UpstreamUnreachable("no"))


def failed() -> UpstreamError:
    return UpstreamFailed("no")


def test_three_channels_are_tried_and_no_fourth(channels: Channels) -> None:
    assert ask(channels, "many", *[UpstreamBroken("no")] * 9) == ["c1", "c2", "c3"]


def test_the_only_channel_gets_one_trial_a_second(channels: Channels, clock: Clock) -> None:
    put_into_cooldown(channels)
    ends = clock.now + 30
    while clock.now + 1 < ends:
        assert ask(channels, "one", UpstreamUnreachable("no")) == ["a"]
        with pytest.raises(ChannelsBusy) as busy:
            ask(channels, "one", None)
        assert busy.value.retry_after == 1.0
        clock.wait(1.0)
    (status,) = channels.statuses()
    assert clock.now + status.cooldown_left == pytest.approx(ends)
    assert status.cooldowns == 1


def test_one_trial_at_a_time_until_the_first_event(channels: Channels, clock: Clock) -> None:
    put_into_cooldown(channels)
    with next(channels.select("one")) as trial:
        clock.wait(5)
        with pytest.raises(ChannelsBusy):
            next(channels.select("one"))
        trial.accepted()
        assert ask(channels, "one", None) == ["a"]


def test_a_trial_that_is_not_made_is_given_back(channels: Channels) -> None:
    put_into_cooldown(channels)
    assert next(channels.select("one"), None) is not None
    (status,) = channels.statuses()
    assert status.in_flight == 0


@pytest.mark.parametrize("error", [UpstreamDenied("no"), UpstreamLimited("no", retry_after=20.0)])
def test_a_channel_that_named_its_time_or_takes_no_key_is_not_tried(
    channels: Channels, clock: Clock, error: UpstreamError
) -> None:
    ask(channels, "one", error)
    clock.wait(5)
    with pytest.raises(ChannelsBusy) as busy:
        ask(channels, "one", None)
    assert busy.value.retry_after is not None
    assert busy.value.retry_after > 10


def test_the_one_whose_cooldown_ends_first_is_tried_first_and_then_the_other(channels: Channels, clock: Clock) -> None:
    for _ in range(2):
        ask(channels, "two", UpstreamUnreachable("no"), UpstreamUnreachable("no"))
    tried = []
    for _ in range(3):
        tried += ask(channels, "two", UpstreamUnreachable("no"))
        clock.wait(1.0)
    assert tried == ["a", "b", "a"]


def test_no_trial_while_another_channel_serves(channels: Channels) -> None:
    put_into_cooldown(channels, "one")
    assert ask(channels, "two", None) == ["b"]


def test_a_burst_after_a_cooldown_lets_one_request_through(channels: Channels, clock: Clock) -> None:
    put_into_cooldown(channels)
    clock.wait(31)
    burst = 12
    barrier = Barrier(burst)

    def choose(_: int) -> SelectedChannel | None:
        tries = channels.select("one")
        barrier.wait()
        try:
            selected = next(tries)
        except ChannelsBusy:
            return None
        selected.__enter__()
        return selected

    with ThreadPoolExecutor(burst) as pool:
        assert len([selected for selected in pool.map(choose, range(burst)) if selected]) == 1


# --- whose fault it is ------------------------------------------------------------------------------------------


def test_one_owners_server_errors_do_not_shut_out_another_who_was_served(channels: Channels, clock: Clock) -> None:
    ask(channels, "one", None, affinity=Affinity("bob"))
    for _ in range(20):
        assert ask(channels, "one", failed(), affinity=Affinity("alice")) == ["a"]
    clock.wait(61)
    ask(channels, "one", failed(), affinity=Affinity("alice"))
    (status,) = channels.statuses()
    assert status.cooldown_left > 0


def test_the_owners_own_success_proves_nothing(channels: Channels) -> None:
    ask(channels, "one", None, affinity=Affinity("alice"))
    for _ in range(2):
        ask(channels, "one", failed(), affinity=Affinity("alice"))
    (status,) = channels.statuses()
    assert status.cooldown_left > 0


def test_two_owners_server_errors_count(channels: Channels) -> None:
    ask(channels, "one", None, affinity=Affinity("carol"))
    for owner in ("alice", "bob"):
        ask(channels, "one", failed(), affinity=Affinity(owner))
    (status,) = channels.statuses()
    assert status.cooldown_left > 0


@pytest.mark.parametrize("error", [UpstreamUnreachable("no"), UpstreamTimeout("no"), UpstreamBroken("no")])
def test_a_fault_of_the_channel_itself_always_counts(channels: Channels, error: UpstreamError) -> None:
    ask(channels, "one", None, affinity=Affinity("bob"))
    for _ in range(2):
        ask(channels, "one", error, affinity=Affinity("alice"))
    (status,) = channels.statuses()
    assert status.cooldown_left > 0


# --- a model that is being loaded -------------------------------------------------------------------------------


def test_a_server_that_loads_gets_one_request_a_second_up_to_its_first_byte(channels: Channels, clock: Clock) -> None:
    began = clock.now
    tried = ask(channels, "one", *[UpstreamLoading()] * 50, wait=clock.wait)
    assert tried == ["a"] * 5
    assert clock.now - began == pytest.approx(5, abs=0.5)
    (status,) = channels.statuses()
    assert (status.failures, status.cooldown_left, status.last_error) == (0, 0, None)


def test_it_comes_after_the_other_channels(channels: Channels, clock: Clock) -> None:
    errors = [UpstreamLoading(), UpstreamBroken("no"), UpstreamLoading(), None]
    assert ask(channels, "two", *errors, wait=clock.wait) == ["a", "b", "a", "a"]
    clock.wait(1.0)
    assert ask(channels, "two", UpstreamLoading(), None, wait=clock.wait) == ["a", "b"]
    assert ask(channels, "two", None, wait=clock.wait) == ["b"]


def test_waiting_requests_go_on_when_one_has_found_it_loaded(channels: Channels, clock: Clock) -> None:
    ask(channels, "one", UpstreamLoading())
    waiting = channels.select("one", wait=lambda seconds: (clock.wait(0.3), ask(channels, "one", None))[0])
    with pytest.raises(ChannelsBusy):
        next(channels.select("one"))
    clock.wait(0.7)
    with next(waiting) as selected:
        assert selected.channel.name == "a"


def test_loading_costs_nothing_of_the_retry_budget(channels: Channels, clock: Clock) -> None:
    for _ in range(40):
        assert ask(channels, "two", UpstreamLoading(), None) == ["a", "b"]
        clock.wait(1.0)
