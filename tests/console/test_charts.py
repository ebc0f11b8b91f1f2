"""The charts of the overview as numbers."""

from __future__ import annotations

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from app.console.charts import BASE, HEIGHT, LEFT, TOP, Charts, charts
from app.reports.overview import FigureSums, Overview, Step
from app.reports.usage import Percentiles

NOTHING = FigureSums(0, 0, 0, 0, 0, None, 0, Percentiles())
Values = tuple[int, int, int | None, int | None]
#: Half of the answers are never slower than nineteen of twenty.
TIMES = st.just((None, None)) | st.tuples(st.integers(0, 60_000), st.integers(0, 60_000)).map(sorted)
VALUES = st.tuples(st.integers(0, 10**7), st.integers(0, 3), TIMES).map(lambda one: (one[0], one[1], *one[2]))


def drawn(values: list[Values], *, by_hour: bool = True) -> Charts:
    length = 3600 if by_hour else 86_400
    steps = [
        Step(place * length, FigureSums(requests, failed, 0, 0, 0, None, 0, Percentiles(p50, p95)))
        for place, (requests, failed, p50, p95) in enumerate(values)
    ]
    return charts(Overview("1", by_hour, steps, NOTHING, NOTHING, 0, {}))


@given(st.lists(VALUES, min_size=1, max_size=90), st.booleans())
def test_everything_lies_within_the_chart(values: list[Values], by_hour: bool) -> None:
    found = drawn(values, by_hour=by_hour)
    assert len(found.bars) == sum(requests > 0 for requests, *_ in values)
    assert len(found.failures) == sum(failed > 0 for _, failed, *_ in values)
    for bar in found.bars:
        assert TOP <= bar.y < BASE
        assert abs(bar.y + bar.height - BASE) < 0.11
    assert all(0 < mark.y <= HEIGHT and LEFT < mark.x < 100 for mark in found.failures)
    assert all(LEFT < label.x < 100 for label in found.labels)
    assert 1 <= len(found.labels) <= 31 or len(values) < 3
    for points in chain(found.p50, found.p95):
        assert len(points.split()) > 1
        for point in points.split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= len(values)
            assert 0 <= y <= BASE
    assert found.requests_grid[-1].y == TOP


def test_the_grid_has_round_numbers_above_the_highest_value() -> None:
    found = drawn([(145, 0, 740, 4400), (8, 2, 660, 3300)])
    assert [line.text for line in found.requests_grid] == ["50", "100", "150"]
    assert [line.text for line in found.times_grid] == ["2 s", "4 s", "6 s"]
    assert found.busiest is not None
    assert found.busiest.step.sums.requests == 145
    assert [line.text for line in drawn([(2, 0, 20, 90)]).requests_grid] == ["1", "2", "3"]
    assert [line.text for line in drawn([(2, 0, 20, 90)]).times_grid] == ["0.1 s", "0.2 s", "0.3 s"]


def test_a_step_without_a_value_interrupts_the_line_and_a_value_alone_is_seen() -> None:
    found = drawn([(1, 0, 100, 100), (1, 0, 200, 200), (0, 0, None, None), (1, 0, 300, 300)])
    assert [len(points.split()) for points in found.p50] == [2, 2]
    assert found.p50[1].split()[0].startswith("3.3,")


def test_without_requests_nothing_is_drawn_but_the_frame() -> None:
    found = drawn([(0, 0, None, None)] * 24)
    assert (found.bars, found.failures, found.p50, found.p95) == ([], [], [], [])
    assert (found.busiest, found.last_p50) == (None, None)
    assert [line.text for line in found.requests_grid] == ["1", "2", "3"]


def test_days_are_labelled_from_the_newest_one() -> None:
    found = drawn([(1, 0, None, None)] * 30, by_hour=False)
    assert found.labels[-1].text == "30 Jan"
    assert len(found.labels) == 8
