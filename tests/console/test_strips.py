"""The strip of a channel's day."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from app.console.strips import strip_of
from app.reports.channel_overview import SLOTS, Outcomes

NOTHING = (0,) * SLOTS
_BAR = re.compile(r"M([\d.]+) ([\d.]+)h[\d.]+v([\d.]+)h-[\d.]+z")


def bars(path: str) -> list[tuple[float, float, float]]:
    """Left, top and height of each bar; the path is made of nothing else."""
    assert path == "M0 0" or not _BAR.sub("", path)
    return [(float(x), float(y), float(h)) for x, y, h in _BAR.findall(path)]


def test_a_day_without_a_request_is_one_silence() -> None:
    strip = strip_of(Outcomes(NOTHING, NOTHING, (False,) * SLOTS))
    assert [bars(path) for path in strip] == [[(0, 1, 20)], [], [], []]


def test_the_highest_bar_reaches_the_top_and_the_lowest_can_be_seen() -> None:
    strip = strip_of(Outcomes((*NOTHING[2:], 1, 1000), NOTHING, (False,) * SLOTS))
    assert bars(strip.ok) == [(286.1, 19.5, 1.5), (287.1, 1, 20)]


counts = st.lists(st.integers(0, 10**9), min_size=SLOTS, max_size=SLOTS)


@given(counts, counts, st.lists(st.booleans(), min_size=SLOTS, max_size=SLOTS))
def test_every_bar_stays_in_its_place(answered: list[int], errors: list[int], cooldown: list[bool]) -> None:
    strip = strip_of(Outcomes(answered, errors, cooldown))
    ok, bad, cool = bars(strip.ok), bars(strip.bad), bars(strip.cool)
    assert [int(x) for x, _, _ in ok] == [place for place, count in enumerate(answered) if count]
    assert all(y > 0.9 and 20.9 < y + height < 21.1 for _, y, height in ok)
    assert [int(x) for x, _, _ in bad] == [place for place, count in enumerate(errors) if count]
    assert all(y == 22.5 and height <= 8 for _, y, height in bad)
    assert [int(x) for x, _, _ in cool] == [place for place, is_cool in enumerate(cooldown) if is_cool]
