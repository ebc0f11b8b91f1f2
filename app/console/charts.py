"""The charts of the overview as numbers for SVG: bars and lines over the steps of a period. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.reports.overview import Overview, Step

#: Height of a chart in pixels, of its upper grid line and of its base line.
HEIGHT, TOP, BASE = 104, 14, 88
#: The part of the width, in percent, that the labels of the grid take.
LEFT = 6
GRID = 3
#: First figures of the distance between two grid lines.
_ROUND = (1, 2, 3, 5, 10)
#: Pixels between the end of a bar and its mark, and the highest place of a mark.
_MARK, _HIGHEST_MARK = 7, 5
#: Labels below a chart at most.
_LABELS = 8


@dataclass(frozen=True, slots=True)
class Label:
    x: float
    """In percent of the width."""
    text: str


@dataclass(frozen=True, slots=True)
class GridLine:
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Bar:
    """`x` counts steps; everything else is pixels."""

    x: float
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Mark:
    x: float
    """In percent of the width."""
    y: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A step with its words, which the reader sees when pointing at it."""

    x: float
    width: float
    """Both in percent of the width."""
    name: str
    step: Step


@dataclass(frozen=True, slots=True)
class Charts:
    """The two charts of a period, over the same steps."""

    steps: int
    labels: Sequence[Label]
    hits: Sequence[Hit]
    bars: Sequence[Bar]
    failures: Sequence[Mark]
    requests_grid: Sequence[GridLine]
    busiest: Hit | None
    """None without a request."""
    p50: Sequence[str]
    """Lines as SVG has their points. A step without a value interrupts a line."""
    p95: Sequence[str]
    times_grid: Sequence[GridLine]
    last_p50: float | None
    """Where the line ends, in pixels from above."""
    last_p95: float | None


def charts(overview: Overview) -> Charts:
    steps = overview.steps
    name = _hour if overview.by_hour else _day
    most = max(step.sums.requests for step in steps)
    requests = _scale(most, 1)
    slowest = max((step.sums.first_token.p95 or 0 for step in steps), default=0)
    times = _scale(slowest / 1000, 0.1)
    width = (100 - LEFT) / len(steps)
    hits = [
        Hit(round(LEFT + place * width, 2), round(width, 2), name(step.begins_at), step)
        for place, step in enumerate(steps)
    ]
    bars = [_bar(place, step, requests) for place, step in enumerate(steps)]
    p50 = [step.sums.first_token.p50 for step in steps]
    p95 = [step.sums.first_token.p95 for step in steps]
    return Charts(
        len(steps),
        [Label(round(hit.x + width / 2, 2), _short(hit, overview)) for hit in _labelled(hits, overview)],
        hits,
        [bar for bar in bars if bar.height],
        [
            Mark(round(hit.x + width / 2, 2), max(_HIGHEST_MARK, round(bar.y - _MARK, 1)))
            for hit, bar in zip(hits, bars, strict=True)
            if hit.step.sums.failed
        ],
        [GridLine(_y(requests * line, requests), f"{requests * line:g}") for line in range(1, GRID + 1)],
        max(hits, key=lambda hit: hit.step.sums.requests) if most else None,
        list(_lines(p50, times)),
        list(_lines(p95, times)),
        [GridLine(_y(times * line, times), f"{times * line:g} s") for line in range(1, GRID + 1)],
        _last(p50, times),
        _last(p95, times),
    )


def _scale(most: float, least: float) -> float:
    """The distance of the grid lines, so that the highest value lies below the third."""
    power = least
    while True:
        for figure in _ROUND:
            if figure * power * GRID >= most:
                return round(figure * power, 6)
        power *= 10


def _y(value: float, scale: float) -> float:
    return round(BASE - (BASE - TOP) * value / (scale * GRID), 1)


def _bar(place: int, step: Step, scale: float) -> Bar:
    """A request is seen however many there are in other steps."""
    count = step.sums.requests
    y = min(_y(count, scale), BASE - 1) if count else float(BASE)
    return Bar(round(place + 0.12, 2), y, round(BASE - y, 1))


def _lines(values: Sequence[int | None], scale: float) -> Iterator[str]:
    """A value alone between two gaps is a short line, so that it is seen."""
    points: list[str] = []
    for place, value in enumerate([*values, None]):
        if value is not None:
            points.append(f"{place + 0.5:g},{_y(value / 1000, scale):g}")
        elif points:
            yield " ".join(points) if len(points) > 1 else _short_line(points[0])
            points = []


def _short_line(point: str) -> str:
    x, y = point.split(",")
    return f"{float(x) - 0.2:g},{y} {float(x) + 0.2:g},{y}"


def _last(values: Sequence[int | None], scale: float) -> float | None:
    return next((_y(value / 1000, scale) for value in reversed(values) if value is not None), None)


def _labelled(hits: Sequence[Hit], overview: Overview) -> Iterator[Hit]:
    if overview.by_hour and len(hits) > _LABELS:
        return (hit for hit in hits if time.localtime(hit.step.begins_at).tm_hour % 3 == 0)
    every = -(-len(hits) // _LABELS)
    # Counted from the newest one.
    return (hit for place, hit in enumerate(hits) if (len(hits) - 1 - place) % every == 0)


def _short(hit: Hit, overview: Overview) -> str:
    return time.strftime("%H", time.localtime(hit.step.begins_at)) if overview.by_hour else hit.name


def _hour(begins_at: int) -> str:
    return time.strftime("%H:%M", time.localtime(begins_at))


def _day(begins_at: int) -> str:
    """The sums of a day are those of UTC."""
    return time.strftime("%-d %b", time.gmtime(begins_at))
