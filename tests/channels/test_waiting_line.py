"""Requests of one process wait for a full channel in the order of their arrival."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from app.channels.selection import Channels, SelectedChannel
from app.channels.watched_table import WatchedTable
from app.errors import ChannelsBusy
from app.request_watch import Drain, Watch
from tests.channels.tables import FORMATS, rows, write

PATIENCE = 60.0


class Waiter(threading.Thread):
    """A request that waits in line. `waits` is set once it does."""

    def __init__(self, channels: Channels, entered: list[str], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.waits = threading.Event()
        self.leave = threading.Event()
        self._channels = channels
        self._entered = entered
        self._watch = Watch(None, Drain())

    def run(self) -> None:
        selection = self._channels.select("m", wait=self._wait)
        with next(selection):
            self._entered.append(self.name)
            self.leave.wait(PATIENCE)

    def _wait(self, seconds: float, wake: int | None = None) -> None:
        self.waits.set()
        self._watch.wait(seconds, wake)


@pytest.fixture
def channels(tmp_path: Path) -> Iterator[Channels]:
    row = "- {name: a, format: demo, models: [m], max_concurrency: 1, queue: 8s}"
    channels = Channels(WatchedTable(write(tmp_path, rows(row)), dict, FORMATS), connections=1)
    yield channels
    channels.close()


@contextmanager
def waiting(channels: Channels, entered: list[str], *names: str) -> Iterator[list[Waiter]]:
    waiters = []
    for name in names:
        waiter = Waiter(channels, entered, name)
        waiter.start()
        assert waiter.waits.wait(PATIENCE)
        waiters.append(waiter)
    yield waiters
    for waiter in waiters:
        waiter.leave.set()
    for waiter in waiters:
        waiter.join(PATIENCE)
        assert not waiter.is_alive()


@contextmanager
def entered_one(channels: Channels) -> Iterator[SelectedChannel]:
    """One request in the channel. The selection lives as long as the request, as in an attempt."""
    selection = channels.select("m")
    with next(selection) as selected:
        yield selected
    del selection


def test_the_oldest_request_enters_first(channels: Channels) -> None:
    entered: list[str] = []
    with ExitStack() as stack:
        holding = stack.enter_context(entered_one(channels))
        waiters = stack.enter_context(waiting(channels, entered, "first", "second", "third"))
        assert entered == []
        holding.__exit__(None, None, None)
        for number, waiter in enumerate(waiters, 1):
            waiter.leave.set()
            waiter.join(PATIENCE)
            assert entered[:number] == ["first", "second", "third"][:number]
        holding.__enter__()
    assert entered == ["first", "second", "third"]


def test_a_new_request_does_not_pass_those_that_wait(channels: Channels) -> None:
    entered: list[str] = []
    with entered_one(channels) as holding, waiting(channels, entered, "first") as waiters:
        with pytest.raises(ChannelsBusy):
            next(channels.select("m"))
        assert entered == []
        holding.__exit__(None, None, None)
        waiters[0].leave.set()
        waiters[0].join(PATIENCE)
        holding.__enter__()
    assert entered == ["first"]


def test_a_line_is_gone_with_its_last_request(channels: Channels) -> None:
    entered: list[str] = []
    with entered_one(channels) as holding, waiting(channels, entered, "only") as (waiter,):
        holding.__exit__(None, None, None)
        waiter.leave.set()
        waiter.join(PATIENCE)
        holding.__enter__()
    with entered_one(channels):
        assert entered == ["only"]
