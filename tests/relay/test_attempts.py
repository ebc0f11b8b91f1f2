"""The one loop of attempts: which failures go on to the next channel, what counts, and what is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.channels.selection import Channels
from app.channels.watched_table import WatchedTable
from app.contract.records import Attempt
from app.errors import InvalidRequest, UpstreamError, UpstreamFailed, UpstreamRefused, UpstreamUnreachable
from app.relay.attempts import ChannelAttempt, ChannelAttempts
from tests.channels.tables import FORMATS, rows, write

TABLE = """
- {name: a, format: demo, models: [m], priority: 9}
- {name: b, format: demo, models: [m], priority: 1}
"""


class Script:
    """A step that fails as it is written for each attempt, then gives the channel's name."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)

    def run(self, attempt: ChannelAttempt) -> str:
        if self._failures:
            raise self._failures.pop(0)
        return attempt.selected.channel.name


class StreamStep:
    """A step that leaves its attempt open."""

    def run(self, attempt: ChannelAttempt) -> ChannelAttempt:
        attempt.keep_open()
        return attempt


@pytest.fixture
def channels(tmp_path: Path) -> Iterator[Channels]:
    watched = WatchedTable(write(tmp_path, rows(TABLE)), dict, FORMATS)
    with closing(Channels(watched, connections=1)) as channels:
        yield channels


@pytest.fixture
def recorded() -> list[Attempt]:
    return []


def statuses(channels: Channels) -> dict[str, tuple[int, int]]:
    return {status.name: (status.in_flight, status.failures) for status in channels.statuses()}


def test_a_failure_of_a_channel_goes_on_to_the_next(channels: Channels, recorded: list[Attempt]) -> None:
    attempts = ChannelAttempts(channels.select("m"), recorded.append)
    assert attempts.first(Script(UpstreamFailed("no"))) == "b"
    assert [(attempt.channel, attempt.status) for attempt in recorded] == [("a", 502), ("b", 200)]
    assert statuses(channels) == {"a": (0, 1), "b": (0, 0)}


def test_a_refusal_of_the_request_ends_the_loop(channels: Channels, recorded: list[Attempt]) -> None:
    refusal = UpstreamRefused("no")
    attempts = ChannelAttempts(channels.select("m"), recorded.append)
    with pytest.raises(UpstreamRefused) as raised:
        attempts.first(Script(refusal))
    assert raised.value is refusal
    assert [attempt.channel for attempt in recorded] == ["a"]


def test_the_last_failure_is_raised_when_no_channel_is_left(channels: Channels, recorded: list[Attempt]) -> None:
    last = UpstreamUnreachable("no")
    attempts = ChannelAttempts(channels.select("m"), recorded.append)
    with pytest.raises(UpstreamUnreachable) as raised:
        attempts.first(Script(UpstreamFailed("no"), last))
    assert raised.value is last
    assert len(recorded) == 2


def test_a_channel_that_cannot_carry_the_request_is_skipped_and_not_recorded(
    channels: Channels, recorded: list[Attempt]
) -> None:
    attempts = ChannelAttempts(channels.select("m"), recorded.append)
    assert attempts.first(Script(InvalidRequest("no"))) == "b"
    assert [attempt.channel for attempt in recorded] == ["b"]


def test_the_first_reason_for_skipping_is_raised_when_all_were_skipped(
    channels: Channels, recorded: list[Attempt]
) -> None:
    attempts = ChannelAttempts(channels.select("m"), recorded.append)
    with pytest.raises(InvalidRequest, match="first"):
        attempts.first(Script(InvalidRequest("first"), InvalidRequest("second")))


def test_a_failure_that_does_not_count_changes_no_health_and_ends_no_loop(
    channels: Channels, recorded: list[Attempt]
) -> None:
    attempts = ChannelAttempts(channels.select("m"), recorded.append, counted=(UpstreamUnreachable,))
    assert attempts.first(Script(UpstreamRefused("no"))) == "b"
    assert statuses(channels)["a"] == (0, 0)
    attempts = ChannelAttempts(channels.select("m"), recorded.append, counted=(UpstreamUnreachable,))
    assert attempts.first(Script(UpstreamUnreachable("no"))) == "b"
    assert statuses(channels)["a"] == (0, 1)


def test_with_nothing_counted_a_success_forgives_nothing(channels: Channels, recorded: list[Attempt]) -> None:
    ChannelAttempts(channels.select("m"), recorded.append).first(Script(UpstreamFailed("no")))
    assert ChannelAttempts(channels.select("m"), recorded.append, counted=()).first(Script()) == "a"
    assert statuses(channels)["a"] == (0, 1)


def test_another_error_leaves_the_loop_and_the_channel(channels: Channels, recorded: list[Attempt]) -> None:
    attempts = ChannelAttempts(channels.select("m"), recorded.append)
    with pytest.raises(ZeroDivisionError):
        attempts.first(Script(ZeroDivisionError()))
    assert statuses(channels) == {"a": (0, 0)}
    assert recorded == []


def test_an_attempt_that_goes_on_keeps_its_place_until_it_is_closed(
    channels: Channels, recorded: list[Attempt]
) -> None:
    attempts = ChannelAttempts(channels.select("m"), recorded.append)
    attempt = attempts.first(StreamStep())
    assert statuses(channels) == {"a": (1, 0)}
    assert recorded == []
    attempt.failed(UpstreamError("no"))
    attempt.close()
    attempt.close()
    assert statuses(channels) == {"a": (0, 1)}
    assert attempts.first(Script()) == "b"
