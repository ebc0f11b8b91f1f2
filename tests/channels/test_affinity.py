"""The channel of a conversation: the same for all its turns, on every worker and host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from mmap import mmap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.channels.affinity import SIZE, Affinity, RecentChannels
from app.channels.selection import Channels
from app.channels.watched_table import WatchedTable
from app.errors import UpstreamFailed
from tests.channels.tables import FORMATS, rows, write

TABLE = """
- {name: light, format: responses, base_url: "http://127.0.0.1:1/v1", api_key: k, models: [m]}
- {name: heavy, format: responses, base_url: "http://127.0.0.1:2/v1", api_key: k, models: [m], weight: 3}
- {name: spare, format: responses, base_url: "http://127.0.0.1:3/v1", api_key: k, models: [m], priority: -1}
"""

MakeChannels = Callable[..., Channels]


@pytest.fixture(scope="module")
def make_channels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeChannels]:
    """Each has its own memory, as on another machine, unless they are given one."""
    path: Path = write(tmp_path_factory.mktemp("table"), rows(TABLE))
    opened: list[Channels] = []

    def make(recent: RecentChannels | None = None) -> Channels:
        opened.append(Channels(WatchedTable(path, dict, FORMATS), connections=1, recent=recent))
        return opened[-1]

    yield make
    for channels in opened:
        channels.close()


def first(channels: Channels, affinity: Affinity) -> str:
    with closing(channels.select("m", affinity)) as selection:  # type: ignore[type-var]
        return next(selection).channel.name


def answer(channels: Channels, affinity: Affinity, *failing: str) -> str:
    """The channel that answers the turn while some are failing."""
    for selected in channels.select("m", affinity):
        with selected:
            if selected.channel.name not in failing:
                selected.succeeded()
                return selected.channel.name
            selected.failed(UpstreamFailed("It failed."))
    raise AssertionError("no channel was left")


@given(owner=st.text(), session=st.text(min_size=1))
def test_all_workers_agree_on_the_channel_of_a_conversation(
    make_channels: MakeChannels, owner: str, session: str
) -> None:
    affinity = Affinity(owner, session=session)
    assert first(make_channels(), affinity) == first(make_channels(), affinity) != "spare"


def test_conversations_spread_by_weight(make_channels: MakeChannels) -> None:
    channels = make_channels()
    counts = Counter(first(channels, Affinity("ada", session=f"session {number}")) for number in range(2000))
    assert counts.keys() == {"light", "heavy"}
    # Three quarters, within four standard deviations. The names are fixed, so the numbers are as well.
    assert 1420 < counts["heavy"] < 1580


def test_owners_with_the_same_key_are_drawn_apart(make_channels: MakeChannels) -> None:
    channels = make_channels()
    assert len({first(channels, Affinity(f"owner {number}", session="main")) for number in range(20)}) == 2


def test_a_conversation_without_a_name_is_known_by_its_beginning(make_channels: MakeChannels) -> None:
    channels = make_channels()
    inputs = [("Be brief.", {"role": "user", "content": f"{n}"}) for n in range(20)]
    beginnings = [Affinity("ada", beginning=partial(tuple, input)) for input in inputs]
    drawn = [first(channels, affinity) for affinity in beginnings]
    assert set(drawn) == {"light", "heavy"}
    assert [first(make_channels(), affinity) for affinity in beginnings] == drawn


def test_the_channel_of_the_parent_comes_before_the_draw(make_channels: MakeChannels) -> None:
    channels = make_channels()
    for channel in ("light", "heavy"):
        drawn = {first(channels, Affinity("ada", channel, session=f"{number}")) for number in range(10)}
        assert drawn == {channel}


def test_priority_comes_before_the_channel_of_the_parent(make_channels: MakeChannels) -> None:
    assert first(make_channels(), Affinity("ada", "spare", session="s")) != "spare"


def test_a_conversation_that_has_moved_stays_where_it_is(make_channels: MakeChannels) -> None:
    channels, affinity = make_channels(), Affinity("ada", session="s")
    home = answer(channels, affinity)
    other = answer(channels, affinity, home)
    assert other != home
    assert answer(channels, affinity) == other
    # Another machine has not seen it and goes on as before.
    assert answer(make_channels(), affinity) == home
    # After the way back nothing is remembered.
    assert answer(channels, affinity, other) == home
    assert answer(channels, affinity) == home


def test_workers_of_one_machine_share_where_conversations_have_moved(make_channels: MakeChannels) -> None:
    memory = mmap(-1, SIZE)
    one, two = (make_channels(RecentChannels(memory)) for _ in range(2))
    affinity = Affinity("ada", session="s")
    home = answer(one, affinity)
    other = answer(one, affinity, home)
    assert answer(two, affinity) == other != home
    assert answer(two, affinity, other) == home
    assert answer(one, affinity) == home


def test_conversations_that_share_a_place_are_told_apart() -> None:
    recent, names = RecentChannels(), ("light", "heavy")
    one, two = (number.to_bytes(8) for number in (7, 7 + SIZE))
    recent.put(one, "light")
    assert (recent.get(one, names), recent.get(two, names)) == ("light", None)
    recent.put(two, "heavy")
    assert (recent.get(one, names), recent.get(two, names)) == (None, "heavy")
    recent.drop(one)
    assert recent.get(two, names) == "heavy"
    recent.drop(two)
    assert recent.get(two, names) is None
    recent.put(one, "gone")
    assert recent.get(one, names) is None
