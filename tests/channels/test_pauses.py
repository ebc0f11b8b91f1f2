"""Paused channels get no new requests, in whatever state they are, and others serve in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from app.channels.affinity import Affinity
from app.channels.pauses import Pauses
from app.channels.selection import Channels
from app.channels.watched_table import WatchedTable
from app.contract.pauses import RETRY_SECONDS, Pause
from app.errors import ChannelsBusy, StoreUnavailable, UpstreamBroken, UpstreamLoading
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
        self.is_down = False
        self.reads = 0

    def load(self) -> Sequence[Pause]:
        self.reads += 1
        if self.is_down:
            raise StoreUnavailable("no")
        return self.pauses


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
    channels.pauses.refresh()
    assert names(channels) == ["second"]


def test_a_pause_ends_by_itself_while_the_database_is_down(channels: Channels, shared: Shared, clock: Clock) -> None:
    shared.pauses = [paused("first", 60)]
    assert names(channels) == ["second"]
    shared.is_down = True
    with pytest.raises(StoreUnavailable):
        channels.pauses.refresh()
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
    channels.pauses.refresh()
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
        channels.pauses.refresh()
        occupied.__exit__(None, None, None)

    with pytest.raises(ChannelsBusy, match="are paused"):
        next(channels.select("m", wait=_while_waiting(channels, pause)))


def test_a_pause_that_begins_while_a_model_is_loaded_counts(channels: Channels, shared: Shared) -> None:
    def pause() -> None:
        shared.pauses = [Pause("first", NOON)]
        channels.pauses.refresh()

    selection = channels.select("alone", wait=_while_waiting(channels, pause))
    with next(selection) as selected:
        selected.failed(UpstreamLoading())
    assert list(selection) == []


def test_a_paused_channel_is_reported_before_its_first_request(channels: Channels, shared: Shared) -> None:
    shared.pauses = [paused("second")]
    (status,) = channels.statuses()
    assert (status.name, status.paused) == ("second", "paused")
    assert [channel.name for channel in channels.usable()] == ["first"]
