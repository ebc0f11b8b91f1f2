"""The lines, nodes and bars of a tree, and the curve of its context, as SVG. The drawing of a row is whole by itself,
so that a row may have any height, and is folded and replaced alone. Numbers stand in attributes: the policy forbids
`style`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor, log10

from markupsafe import Markup

from app.console.tree_layout import Curve, Fold, Line, More, Point, Row, Shape, failed_over
from app.contract.usage import Usage

#: Where the node of a row stands below its top, in rem.
_NODE = ".875rem"
#: Lanes from here on are moved into the lane before them where the screen is narrow.
_DEEP = 4

#: The node of a row: the radius of its circle, and its class.
_CIRCLES = {
    Shape.ASKED: ("n", 0.3125),
    Shape.GOES_ON: ("n", 0.1875),
    Shape.ASKED_UNSTORED: ("n hollow", 0.28125),
    Shape.GOES_ON_UNSTORED: ("n hollow", 0.1875),
    Shape.IN_FLIGHT: ("livering", 0.3125),
}
#: A node that is a symbol: its name, its class and its size.
_SYMBOLS = {
    Shape.COMPACTION: ("cut", "key", 0.875),
    Shape.INCOMPLETE: ("half", "warn", 0.75),
    Shape.FAILED: ("bad", "bad", 0.6875),
}


def row_graph(row: Row) -> Markup:
    """The lanes of a turn."""
    return _row_graph(row.lane, row.above, row.below, row.passing, row.fork, row.shape, row.chain, row.selected)


@lru_cache(maxsize=4096)
def _row_graph(
    lane: int,
    above: Line | None,
    below: Line | None,
    passing: tuple[tuple[int, Line], ...],
    fork: tuple[int, Line] | None,
    shape: Shape,
    chain: bool,
    selected: bool,
) -> Markup:
    parts = [*_passing(passing), *([_fork(*fork)] if fork else [])]
    parts += [_line(lane, above, "0", _NODE)] if above else []
    parts += [_line(lane, below, _NODE, "100%")] if below else []
    return _graph([*parts, *_node(lane, shape, chain, selected)])


def fold_graph(fold: Fold) -> Markup:
    """Three dots in the lane of the turns that are folded."""
    return _fold_graph(fold.lane, fold.first.above, fold.last.below, fold.first.passing, fold.first.chain)


@lru_cache(maxsize=1024)
def _fold_graph(
    lane: int, above: Line | None, below: Line | None, passing: tuple[tuple[int, Line], ...], chain: bool
) -> Markup:
    dots = [_circle(lane, place, 0.09375, _classes("n", chain and "on")) for place in (0.625, 0.875, 1.125)]
    parts = [*_passing(passing), *([_line(lane, above, "0", ".4375rem")] if above else []), *dots]
    return _graph([*parts, *([_line(lane, below, "1.3125rem", "100%")] if below else [])])


def more_graph(more: More) -> Markup:
    """The lanes beside older branches that are not drawn."""
    return _graph(list(_passing(more.passing)))


def _graph(parts: list[Markup]) -> Markup:
    return Markup('<span class="g"><svg aria-hidden="true">{}</svg></span>').format(Markup("").join(parts))


def _x(lane: int) -> str:
    return f"{lane + 0.5625:g}rem".removeprefix("0")


def _deep(lane: int) -> str:
    return f"deep x{lane}" if lane >= _DEEP else ""


def _passing(passing: tuple[tuple[int, Line], ...]) -> Iterator[Markup]:
    for lane, line in passing:
        yield _line(lane, line, "0", "100%", "pass" if lane >= _DEEP else "")


def _line(lane: int, line: Line, top: str, bottom: str, more: str = "") -> Markup:
    names = _classes("l", line.inferred and "inf", line.chain and "on", _deep(lane), more)
    return Markup('<line class="{}" x1="{x}" x2="{x}" y1="{}" y2="{}"/>').format(names, top, bottom, x=_x(lane))


def _fork(lane: int, line: Line) -> Markup:
    """The curve to the next lane."""
    return Markup(
        '<svg class="{}" x="{}" width="1rem" height=".875rem" viewBox="0 0 16 14" overflow="visible">'
        '<path class="{}" d="M0 0C0 9 16 3 16 14"/></svg>'
    ).format(
        "pass" if lane + 1 >= _DEEP else "fork",
        _x(lane),
        _classes("l", line.inferred and "inf", line.chain and "on"),
    )


def _node(lane: int, shape: Shape, chain: bool, selected: bool) -> Iterator[Markup]:
    if selected or shape in _SYMBOLS:
        yield _circle(lane, 0.875, 0.5, "back")
    if selected:
        yield _circle(lane, 0.875, 0.4375, "ring")
    if shape in _SYMBOLS:
        yield _symbol(lane, *_SYMBOLS[shape], selected)
        return
    kind, radius = _CIRCLES[shape]
    yield _circle(lane, 0.875, min(radius, 0.25) if selected else radius, _classes(kind, chain and "on"))


def _symbol(lane: int, name: str, kind: str, size: float, selected: bool) -> Markup:
    size = min(size, 0.625) if selected else size
    return Markup('<use class="{}" href="#i-{}" x="{:g}rem" y="{:g}rem" width="{size}rem" height="{size}rem"/>').format(
        _classes("n", kind, _deep(lane)), name, lane + 0.5625 - size / 2, 0.875 - size / 2, size=size
    )


def _circle(lane: int, y: float, radius: float, names: str) -> Markup:
    return Markup('<circle class="{}" cx="{}" cy="{:g}rem" r="{:g}rem"/>').format(
        _classes(names, _deep(lane)), _x(lane), y, radius
    )


def _classes(*names: str | bool) -> str:
    return " ".join(name for name in names if name and isinstance(name, str))


# --- bars -------------------------------------------------------------------------------------------------------


def context_bar(usage: Usage | None, most: int) -> Markup:
    """What came from the cache, and what was read anew, of the largest context."""
    if usage is None or not most:
        return Markup("")
    cached = min(usage.cached_tokens, usage.input_tokens)
    return _bar(round(100 * cached / most, 1), round(100 * (usage.input_tokens - cached) / most, 1))


def growth_bar(fold: Fold, most: int) -> Markup:
    """The context before a fold, and by how much it grew in it."""
    sizes = [row.turn.usage.input_tokens for row in fold.rows if row.turn.usage]
    if not sizes or not most:
        return Markup("")
    return _bar(round(100 * sizes[0] / most, 1), round(100 * max(0, sizes[-1] - sizes[0]) / most, 1))


@lru_cache(maxsize=4096)
def _bar(light: float, dark: float) -> Markup:
    rects = (("b1", 0.0, light), ("b2", light, dark))
    rect = Markup('<rect class="{}" x="{:g}" width="{:g}" height="6"/>')
    drawn = Markup("").join(rect.format(*values) for values in rects if values[-1])
    bar = Markup('<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">{}</svg>')
    return bar.format(drawn)


# --- the curve --------------------------------------------------------------------------------------------------

_TOP, _BASE = 14.0, 116.0
#: Labels below the curve at most.
_LABELS = 12
_MARKS = 40
#: Branches of the curve that have their names.
_NAMED = 4
#: Links over a curve without bars.
_LINKS = 120


@dataclass(frozen=True, slots=True)
class Bar:
    x: float
    y: float
    height: float
    kind: str


@dataclass(frozen=True, slots=True)
class Stroke:
    kind: str
    points: str


@dataclass(frozen=True, slots=True)
class Mark:
    icon: str
    kind: str
    x: float
    """Percent of the width."""
    y: float


@dataclass(frozen=True, slots=True)
class Label:
    text: str
    x: float
    y: float
    kind: str = ""
    before: bool = False
    """It ends at the place, because behind it there is no room."""


@dataclass(frozen=True, slots=True)
class Link:
    point: Point
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class DrawnCurve:
    length: int
    bars: tuple[Bar, ...]
    strokes: tuple[Stroke, ...]
    grid: tuple[Label, ...]
    limit: float | None
    """Where the gateway compacts."""
    marks: tuple[Mark, ...]
    labels: tuple[Label, ...]
    below: tuple[Label, ...]
    links: tuple[Link, ...]
    cursor: float | None
    """The place of the selected turn in percent."""


class _Scale:
    def __init__(self, curve: Curve, limit: int | None) -> None:
        most = max(curve.most, 1)
        step = _nice(most / 4)
        top = ceil(most / step) * step
        if limit is not None and most * 0.6 < limit < most * 1.6:
            top = max(top, ceil(limit / step) * step)
        self.top = top
        self.grid = [step * number for number in range(1, ceil(top / step))]
        self._length = max(curve.length, 1)

    def y(self, tokens: float) -> float:
        return round(_BASE - (_BASE - _TOP) * tokens / self.top, 1)

    def x(self, at: float) -> float:
        """Percent of the width."""
        return round(100 * (at + 0.5) / self._length, 2)


def _nice(least: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, …."""
    size = 10 ** floor(log10(max(least, 1)))
    return next(int(size * factor) for factor in (1, 2, 5, 10) if size * factor >= least)


def drawn_curve(curve: Curve, names: Mapping[str, str], selected: str | None, limit: int | None) -> DrawnCurve:
    """`limit`: tokens at which the gateway compacts, if it does."""
    scale = _Scale(curve, limit)
    shown = limit if limit is not None and limit <= scale.top else None
    at = next((point for point in curve.points if point.turn.id == selected), None)
    return DrawnCurve(
        length=max(curve.length, 1),
        bars=tuple(_bars(curve, scale)),
        strokes=tuple(_strokes(curve, scale)),
        grid=tuple(
            Label(_short(tokens), 0, scale.y(tokens))
            for tokens in scale.grid
            if shown is None or abs(scale.y(tokens) - scale.y(shown)) > 24
        ),
        limit=None if shown is None else scale.y(shown),
        marks=tuple(_marks(curve, scale, selected))[-_MARKS:],
        labels=tuple(_labels(curve, scale, names)),
        below=tuple(_below(curve, scale, at)),
        links=tuple(_links(curve)),
        cursor=None if at is None else scale.x(at.at),
    )


def _short(tokens: int) -> str:
    return f"{tokens / 1000:g}k" if tokens >= 1000 else str(tokens)


def _bars(curve: Curve, scale: _Scale) -> Iterator[Bar]:
    if not curve.bars:
        return
    for point in curve.points:
        cached, top = scale.y(point.cached), scale.y(point.tokens)
        if point.cached:
            yield Bar(round(point.at + 0.14, 2), cached, round(_BASE - cached, 1), "b1")
        if point.tokens > point.cached:
            yield Bar(round(point.at + 0.14, 2), top, round(cached - top, 1), "b2")


def _strokes(curve: Curve, scale: _Scale) -> Iterator[Stroke]:
    """The line of the trunk in pieces of one kind, then those of the branches."""
    kind, piece = "", list[str]()
    for before, point in zip((None, *curve.points), curve.points, strict=False):
        now = _classes(point.chain and "acc", point.inferred and "dot")
        place = f"{point.at + 0.5:g},{scale.y(point.tokens)}"
        if before is not None:
            left = before.tokens if before.after is None else before.after
            start = f"{before.at + 0.5:g},{scale.y(left)}"
            if now != kind or before.after is not None:
                yield from _piece(kind, piece)
                piece = [start]
        kind = now
        piece.append(place)
        if point.after is not None:
            drop = f"{point.at + 0.5:g}"
            yield Stroke("dot", f"{drop},{scale.y(point.tokens)} {drop},{scale.y(point.after)}")
    yield from _piece(kind, piece)
    for branch in curve.branches:
        yield Stroke("dash", " ".join(f"{point.at + 0.5:g},{scale.y(point.tokens)}" for point in branch))


def _piece(kind: str, points: list[str]) -> Iterator[Stroke]:
    if len(points) > 1:
        yield Stroke(kind, " ".join(points))


def _marks(curve: Curve, scale: _Scale, selected: str | None) -> Iterator[Mark]:
    for point in curve.points:
        x, above = scale.x(point.at), max(_TOP - 4, scale.y(point.tokens) - 11)
        if point.after is not None or point.turn.compacted:
            yield Mark("cut", "strong", x, scale.y(point.tokens))
        elif failed_over(point.turn):
            yield Mark("warn", "warn", x, 10.0 if point.turn.id == selected else above)
        elif point.turn.status == "incomplete":
            yield Mark("half", "warn", x, above)


def _labels(curve: Curve, scale: _Scale, names: Mapping[str, str]) -> Iterator[Label]:
    for point in curve.points:
        if point.after is not None:
            words = f"{_rounded(point.tokens)} → {_rounded(point.after)}"
            yield Label(words, scale.x(point.at), scale.y(point.tokens) - 3, "strong", before=scale.x(point.at) > 20)
    for branch in curve.branches[-_NAMED:]:
        end = branch[-1]
        yield Label(names[end.turn.id], min(scale.x(end.at), 96), scale.y(end.tokens) + 3)


def _rounded(tokens: int) -> str:
    if tokens < 1000:
        return str(tokens)
    return f"{tokens / 1000:.1f}k" if tokens < 9950 else f"{tokens / 1000:.0f}k"


def _below(curve: Curve, scale: _Scale, at: Point | None) -> Iterator[Label]:
    step = 1 if curve.length <= _LABELS else _nice(curve.length / _LABELS)
    places = {0, *range(step - 1, curve.length, step)}
    if at is not None:
        places = {place for place in places if abs(place - at.at) > step / 3} | {at.at}
    for place in sorted(places):
        yield Label(str(place + 1), scale.x(place), 130, "acc" if at is not None and place == at.at else "")


def _links(curve: Curve) -> Iterator[Link]:
    step = 1 if curve.bars else ceil(len(curve.points) / _LINKS)
    width = 100 * step / max(curve.length, 1)
    for point in curve.points[::step]:
        yield Link(point, round(100 * point.at / max(curve.length, 1), 2), round(width, 2))
