"""Paused channels get no new requests, in whatever state they are, and others serve in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.channels.affinity import Affinity
from app.channels.pauses import Pauses
from app.channels.selection import Channels
from app.channels.watched_table import WatchedTable
from app.contract.pauses import RETRY_SECONDS, Orders, Pause
from app.errors import (
    ChannelsBusy,
    StoreUnavailable,
    UpstreamBroken,
    UpstreamDenied,
    UpstreamError,
    UpstreamLoading,
)
from tests.channels.tables import FORMATS, rows, write

TABLE = """
- {name: first, format: demo, models: [m, alone], priority: 10, cooldown: {after: 1, for: 60s}}
- {name: second, format: demo, models: [m], max_concurrency: 1, queue: 5s}
"""
NOON = 1_800_000_000


class Shared:
    """The pauses in a database that can be down."""

    def __init__(self) -> None:
        self.pauses: list[Pause] = []
        self.cooldowns_ended: dict[str, int] = {}
        self.is_down = False
        self.reads = 0

    def read(self) -> Orders:
        self.reads += 1
        if self.is_down:
            raise StoreUnavailable("no")
        return Orders(self.pauses, self.cooldowns_ended)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def shared() -> Shared:
    return Shared()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def channels(tmp_path: Path, shared: Shared, clock: Clock) -> Iterator[Channels]:
    path = write(tmp_path, rows(TABLE))
    pauses = Pauses(shared, clock)
    channels = Channels(WatchedTable(path, dict, FORMATS), connections=1, clock=clock, pauses=pauses)
    yield channels
    channels.close()


def paused(name: str, seconds: float = 60.0) -> Pause:
    return Pause(name, NOON, NOON + round(seconds), "ada", "secret reason", seconds)


def names(channels: Channels, model: str = "m") -> list[str]:
    return [selected.channel.name for selected in channels.select(model)]


def test_a_paused_channel_is_left_out_and_the_next_one_serves(channels: Channels, shared: Shared) -> None:
    shared.pauses = [paused("first")]
    assert names(channels) == ["second"]


def test_a_conversation_goes_elsewhere(channels: Channels, shared: Shared) -> None:
    shared.pauses = [paused("first")]
    affinity = Affinity(channel="first")
    assert [selected.channel.name for selected in channels.select("m", affinity)] == ["second"]


def test_a_request_reads_no_database(channels: Channels, shared: Shared) -> None:
    for _ in range(5):
        names(channels)
    assert shared.reads == 1
    shared.pauses = [paused("first")]
    assert names(channels) == ["first", "second"]
    channels.refresh()
    assert names(channels) == ["second"]


def test_a_pause_ends_by_itself_while_the_database_is_down(channels: Channels, shared: Shared, clock: Clock) -> None:
    shared.pauses = [paused("first", 60)]
    assert names(channels) == ["second"]
    shared.is_down = True
    with pytest.raises(StoreUnavailable):
        channels.refresh()
    clock.now += 59
    assert names(channels) == ["second"]
    clock.now += 1
    assert names(channels) == ["first", "second"]


def test_a_database_that_is_down_pauses_nothing(channels: Channels, shared: Shared) -> None:
    shared.is_down = True
    assert names(channels) == ["first", "second"]


@pytest.mark.parametrize(
    ("pauses", "wait", "words"),
    [
        ([paused("first", 42.5), paused("second", 99)], 42.5, "first: paused until 2027-01-15 08:00:42 UTC"),
        ([Pause("first", NOON), Pause("second", NOON)], RETRY_SECONDS, "second: draining"),
        ([Pause("first", NOON), paused("second", 0.2)], 1.0, "first: draining"),
    ],
)
def test_the_refusal_says_until_when_and_neither_who_nor_why(
    channels: Channels, shared: Shared, pauses: list[Pause], wait: float, words: str
) -> None:
    shared.pauses = pauses
    with pytest.raises(ChannelsBusy) as refused:
        names(channels)
    assert words in refused.value.message
    assert "are paused" in refused.value.message
    assert "ada" not in refused.value.message
    assert "secret" not in refused.value.message
    assert refused.value.retry_after == wait


def test_the_refusal_names_pauses_among_other_reasons(channels: Channels, shared: Shared) -> None:
    shared.pauses = [Pause("first", NOON)]
    occupied = next(channels.select("m"))
    with occupied, pytest.raises(ChannelsBusy, match=r"\(first: draining, second: full\)") as refused:
        names(channels)
    assert refused.value.retry_after == 1.0


def test_a_channel_in_cooldown_gets_no_trial_while_it_is_paused(channels: Channels, shared: Shared) -> None:
    with next(channels.select("alone")) as selected:
        selected.failed(UpstreamBroken("no"))
    shared.pauses = [paused("first")]
    channels.refresh()
    with pytest.raises(ChannelsBusy, match="are paused"):
        names(channels, "alone")


def _while_waiting(channels: Channels, act: Callable[[], None]) -> Callable[..., None]:
    """Acts during the first wait. A selection that waits for ever would fail."""
    calls = iter(range(1000))

    def wait(seconds: float, wake: int | None = None) -> None:
        if next(calls) == 0:
            act()
        clock = channels._clock
        assert isinstance(clock, Clock)
        clock.now += max(seconds, 0.001)

    return wait


def test_a_pause_that_begins_while_a_request_waits_for_a_slot_counts(channels: Channels, shared: Shared) -> None:
    shared.pauses = [paused("first")]
    occupied = next(channels.select("m"))
    occupied.__enter__()

    def pause() -> None:
        shared.pauses = [Pause("first", NOON), Pause("second", NOON)]
        channels.refresh()
        occupied.__exit__(None, None, None)

    with pytest.raises(ChannelsBusy, match="are paused"):
        next(channels.select("m", wait=_while_waiting(channels, pause)))


def test_a_pause_that_begins_while_a_model_is_loaded_counts(channels: Channels, shared: Shared) -> None:
    def pause() -> None:
        shared.pauses = [Pause("first", NOON)]
        channels.refresh()

    selection = channels.select("alone", wait=_while_waiting(channels, pause))
    with next(selection) as selected:
        selected.failed(UpstreamLoading())
    assert list(selection) == []


def test_a_paused_channel_is_reported_before_its_first_request(channels: Channels, shared: Shared) -> None:
    shared.pauses = [paused("second")]
    (status,) = channels.statuses()
    assert (status.name, status.paused) == ("second", "paused")
    assert [channel.name for channel in channels.usable()] == ["first"]


def fail(channels: Channels, error: UpstreamError) -> None:
    with next(channels.select("alone")) as selected:
        selected.failed(error)


def test_an_order_ends_a_cooldown_once(channels: Channels, shared: Shared) -> None:
    for at in (NOON, NOON + 1):
        fail(channels, UpstreamDenied("no"))
        with pytest.raises(ChannelsBusy):
            names(channels, "alone")
        shared.cooldowns_ended = {"first": at, "second": at, "unknown": at}
        channels.refresh()
        # One request tests it; the others wait for its outcome.
        with next(channels.select("alone")), pytest.raises(ChannelsBusy):
            names(channels, "alone")
        fail(channels, UpstreamDenied("no"))
        channels.refresh()
        with pytest.raises(ChannelsBusy):
            names(channels, "alone")
        shared.cooldowns_ended = {}
        channels.refresh()
        shared.cooldowns_ended = {"first": at + 100}
        channels.refresh()
        with next(channels.select("alone")) as selected:
            selected.succeeded()
        assert names(channels, "alone") == ["first"]
