"""What a process remembers of its channels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.channels.selection import Channels
from app.channels.watched_table import WatchedTable
from app.errors import UpstreamBroken, UpstreamFailed
from tests.channels.tables import FORMATS, rows, write


@pytest.fixture
def channels(tmp_path: Path) -> Iterator[Channels]:
    path = write(tmp_path, rows("- {name: a, format: demo, models: [m], cooldown: {after: 2, for: 60s}}"))
    channels = Channels(WatchedTable(path, dict, FORMATS), connections=1)
    yield channels
    channels.close()


def test_the_path_of_the_last_stream_is_remembered_and_is_no_line_of_the_log(
    channels: Channels, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "app.channels.selection")
    selected = next(channels.select("m"))
    for path in ("", "repaired", "bytes", ""):
        selected.note_path(path)
    assert [status.path for status in channels.statuses()] == ["bytes"]
    assert caplog.records == []


def test_a_status_counts_what_speaks_against_a_channel(channels: Channels) -> None:
    selected = next(channels.select("m"))
    selected.failed(UpstreamBroken("no"))
    (status,) = channels.statuses()
    assert (status.failures, status.last_error, status.cooldown_left) == (1, "upstream_protocol_error", 0)
    with selected:
        selected.failed(UpstreamFailed("no"))
        (status,) = channels.statuses()
    assert (status.in_flight, status.failures, status.cooldowns, status.half_open) == (1, 0, 1, True)
    assert 0 < status.cooldown_left <= 60


def test_a_rest_that_passes_is_no_news(channels: Channels) -> None:
    selected = next(channels.select("m"))
    selected.failed(UpstreamBroken("no"))
    selected.failed(UpstreamBroken("no"))
    assert channels.statuses() == channels.statuses()
    before = channels.statuses()
    selected.succeeded()
    assert channels.statuses() != before
