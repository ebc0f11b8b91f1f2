"""The layout of one conversation's tree: a row is a turn, a lane is a branch, as in `git log --graph`. Pure and linear
in the number of turns: nodes in, rows with lanes, folds and names out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby, islice
from statistics import median
from typing import NamedTuple

from app.contract.records import RUNNING
from app.reports.tree_names import NAMELESS, TreeLinks, TreeNames, is_placed, tree_names
from app.store.tree import Node

LANES = 6
"""Deeper branches stay in the last lane and say where they come from."""
FOLDED = 3
"""So many turns in a row make a fold."""
LONG_BRANCH = 20
"""A side branch of more turns is folded as a whole."""
BRANCHES = 8
"""Branches that are drawn at one turn; older ones are asked for."""


class Shape(StrEnum):
    """`goes on`: with the results of tools, or with what is not known."""

    ASKED = "asked"
    GOES_ON = "goes-on"
    ASKED_UNSTORED = "asked-unstored"
    GOES_ON_UNSTORED = "goes-on-unstored"
    COMPACTION = "compaction"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    IN_FLIGHT = "in-flight"


class Line(NamedTuple):
    inferred: bool = False
    """The parent was inferred."""
    chain: bool = False
    """It belongs to the chain of the selected turn."""


class Row(NamedTuple):
    """One turn as it is drawn, by itself: no line reaches into another row."""

    turn: Node
    name: str
    lane: int
    shape: Shape
    above: Line | None = None
    """From the top of the row to its node."""
    below: Line | None = None
    """From its node to the bottom of the row."""
    passing: tuple[tuple[int, Line], ...] = ()
    """Lines of other lanes, from the top of the row to its bottom."""
    fork: tuple[int, Line] | None = None
    """The lane that its branch leaves here, and the line of the curve."""
    origin: str | None = None
    """The name of its parent, where no line in its own lane leads there."""
    tip: bool = False
    selected: bool = False
    chain: bool = False
    """It is the selected turn or one of its ancestors."""
    first_inferred: bool = False
    """The parent is inferred, and that of the turn before it is not."""
    keep: bool = False
    """It is never folded."""
    asked_for: bool = False
    """It is selected, or a search has found it: no fold of a whole branch hides it either."""
    channel_changed: bool = True
    """Its channel is not that of the turn before it."""

    @property
    def anchor(self) -> str:
        """The same in every drawing: a turn without a place has none to be named by."""
        return f"t{self.name}" if self.name and self.name != NAMELESS else f"t-{self.turn.id[-12:]}"


@dataclass(frozen=True, slots=True)
class Fold:
    """Rows that are drawn as one until they are asked for."""

    rows: tuple[Row, ...]

    lane: int

    @property
    def first(self) -> Row:
        """The first turn of its lane."""
        return next(row for row in self.rows if row.lane == self.lane)

    @property
    def last(self) -> Row:
        return next(row for row in reversed(self.rows) if row.lane == self.lane)

    @property
    def tools(self) -> list[tuple[str, int]]:
        """The tools called, the most frequent first."""
        calls: Counter[str] = Counter()
        for row in self.rows:
            calls.update(row.turn.outline.calls if row.turn.outline else {})
        return calls.most_common()

    @property
    def troubles(self) -> list[tuple[str, int]]:
        """What a whole branch hides that is otherwise drawn."""
        shapes = Counter(row.shape for row in self.rows)
        words = {Shape.COMPACTION: "compacted", Shape.INCOMPLETE: "incomplete", Shape.FAILED: "failed"}
        return [(word, shapes[shape]) for shape, word in words.items() if shapes[shape]]

    @property
    def cached_share(self) -> float | None:
        used = [row.turn.usage for row in self.rows if row.turn.usage]
        tokens = sum(usage.input_tokens for usage in used)
        return sum(usage.cached_tokens for usage in used) / tokens if tokens else None

    @property
    def output_tokens(self) -> int | None:
        used = [row.turn.usage.output_tokens for row in self.rows if row.turn.usage]
        return sum(used) if used else None

    @property
    def first_byte_ms(self) -> float | None:
        """The median."""
        times = [row.turn.first_byte_ms for row in self.rows if row.turn.first_byte_ms is not None]
        return median(times) if times else None

    @property
    def total_ms(self) -> int | None:
        times = [row.turn.total_ms for row in self.rows if row.turn.total_ms is not None]
        return sum(times) if times else None


@dataclass(frozen=True, slots=True)
class More:
    """Older branches of one turn that are not drawn."""

    parent: Node
    name: str
    lane: int
    passing: tuple[tuple[int, Line], ...]
    branches: int
    turns: int


Entry = Row | Fold | More


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the reader looks at."""

    selected: str | None = None
    tip: str | None = None
    """The trunk is the line to this turn; None: to the newest one."""
    found: Collection[str] = ()
    """Turns that a search has found."""
    whole: Collection[str] = ()
    """Turns whose branches are all drawn."""
    unfolded: Collection[str] = ()
    """First turns of folds that are opened; `None` members are ignored."""
    folds: bool = True
    fresh_from: int | None = None
    """Turns with this key or a higher one are never folded: they have arrived while the page was open."""


NOTHING_WANTED = Wanted()


@dataclass(frozen=True, slots=True)
class Layout:
    entries: tuple[Entry, ...]
    names: Mapping[str, str]
    """By the id of the turn."""
    trunk: tuple[Node, ...]
    """From the root to the tip."""
    tips: tuple[Node, ...]
    """The newest first."""
    branches: int
    """Beside the trunk."""
    lanes: int
    chain: frozenset[str]
    """The selected turn and its ancestors."""

    def rows(self) -> Iterator[Row]:
        """Every drawn row, those in folds too."""
        for entry in self.entries:
            if isinstance(entry, Row):
                yield entry
            elif isinstance(entry, Fold):
                yield from entry.rows


def lay_out(nodes: Sequence[Node], wanted: Wanted = NOTHING_WANTED, names: TreeNames | None = None) -> Layout:
    """Each node below its parent. The line that the reader looks at stays straight; at a fork the other branches come
    directly under the forked turn, oldest first, and then the line goes on. `names`: of these nodes, where they are
    known.
    """
    family = _Family(nodes, wanted)
    names = names or tree_names(family)
    drawn = list(_Drawing(family, names, wanted).rows())
    tips = [node for node in family.nodes if family.is_tip(node)]
    return Layout(
        entries=tuple(_folded(drawn, wanted) if wanted.folds else drawn),
        names=names.names,
        trunk=family.trunk(),
        tips=tuple(sorted(tips, key=lambda node: node.key, reverse=True)),
        branches=max(0, len(tips) - 1),
        lanes=1 + max((entry.lane for entry in drawn), default=0),
        chain=family.chain,
    )


# --- who follows whom -------------------------------------------------------------------------------------------


class _Family(TreeLinks):
    """The nodes of a tree, and what the reader looks at in it."""

    def __init__(self, nodes: Sequence[Node], wanted: Wanted) -> None:
        super().__init__(nodes)
        self._newest = self._newest_below()
        self._wanted_line = self.line_to(wanted.tip)
        self.chain = self.line_to(wanted.selected)
        self.looked_at = self.lines_to((*filter(None, (wanted.selected,)), *wanted.found, *wanted.unfolded))
        """The turns that the reader has asked for, and their ancestors."""

    def _newest_below(self) -> dict[str, tuple[bool, int]]:
        """Of each node: whether it or a descendant lives, and the highest key among those that do."""
        newest: dict[str, tuple[bool, int]] = {}
        for node in reversed(self.order):
            own = (is_placed(node) or node.status in RUNNING, node.key)
            newest[node.id] = max([own, *(newest[child.id] for child in self.children.get(node.id, ()))])
        return newest

    def split(self, node: Node) -> tuple[list[Node], Node | None]:
        """The side branches of a node, oldest first, and the child that goes on in its lane."""
        children = self.children.get(node.id, [])
        if len(children) < 2:
            return [], next(iter(children), None)
        main = max(children, key=lambda child: (child.id in self._wanted_line, self._newest[child.id]))
        return [child for child in children if child is not main], main

    def roots(self) -> list[Node]:
        """The one with the line that the reader looks at comes last, as a trunk does after its branches."""
        return sorted(self.children[None], key=lambda node: (node.id in self._wanted_line, self._newest[node.id]))

    def trunk(self) -> tuple[Node, ...]:
        roots = self.roots()
        line: list[Node] = []
        node = roots[-1] if roots else None
        while node is not None:
            line.append(node)
            node = self.split(node)[1]
        return tuple(line)


# --- lines ------------------------------------------------------------------------------------------------------


class _Task(NamedTuple):
    """A node that is to be drawn, or the older branches of one, which are not."""

    node: Node
    lane: int
    kind: str
    """root, main, apart (from a parent in its own lane, with other rows between), side, or more."""
    parent_line: Line | None = None
    """The parent's lane from this row on."""
    hidden: tuple[Node, ...] = ()


class _Drawing:
    def __init__(self, family: _Family, names: TreeNames, wanted: Wanted) -> None:
        self._family = family
        self._names = names
        self._wanted = wanted
        self._found = frozenset(wanted.found)
        self._open: dict[int, Line] = {}
        """The lanes that go on below the row."""

    def rows(self) -> Iterator[Row | More]:
        for root in self._family.roots():
            waiting = [_Task(root, 0, "root")]
            while waiting:
                task = waiting.pop()
                if task.kind == "more":
                    yield self._more(task)
                else:
                    row, following = self._row(task)
                    yield row
                    waiting.extend(reversed(following))

    def _more(self, task: _Task) -> More:
        turns = sum(1 for _ in self._below(task.hidden))
        name = self._names.names[task.node.id]
        return More(task.node, name, task.lane, self._passing(task.lane), len(task.hidden), turns)

    def _below(self, nodes: Sequence[Node]) -> Iterator[Node]:
        waiting = list(nodes)
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(self._family.children.get(node.id, ()))

    def _row(self, task: _Task) -> tuple[Row, list[_Task]]:
        node, lane = task.node, task.lane
        line = self._line(node)
        if task.parent_line is not None:
            self._open[lane - 1] = task.parent_line
        self._open.pop(lane, None)
        sides, main = self._family.split(node)
        passing = self._passing(lane)
        shown, hidden = self._shown(node, sides)
        following = self._following(lane, shown, hidden, node, main)
        below = self._open.get(lane)
        parent = self._family.by_id.get(self._family.above(node) or "")
        row = Row(
            turn=node,
            name=self._names.names[node.id],
            lane=lane,
            shape=shape(node),
            above=line if task.kind == "main" else None,
            below=below,
            passing=passing,
            fork=(lane - 1, line) if task.kind == "side" else None,
            origin=self._names.names[parent.id] if parent and task.kind in ("side", "apart") else None,
            tip=self._family.is_tip(node),
            selected=node.id == self._wanted.selected,
            chain=node.id in self._family.chain,
            first_inferred=node.inferred and (parent is None or not parent.inferred),
            keep=self._keep(task, node, parent, sides),
            asked_for=node.id == self._wanted.selected or node.id in self._found,
            channel_changed=parent is None or parent.channel != node.channel,
        )
        return row, following

    def _following(
        self, lane: int, shown: Sequence[Node], hidden: tuple[Node, ...], node: Node, main: Node | None
    ) -> list[_Task]:
        """What is drawn below a row, in order. Notes the line that leaves the row in its lane."""
        if main is None:
            return []
        capped = lane + 1 >= LANES
        sides = [
            _Task(side, lane, "apart") if capped else _Task(side, lane + 1, "side", self._trunk_line(main, shown[at:]))
            for at, side in enumerate(shown, 1)
        ]
        more = [_Task(node, lane + (not capped), "more", hidden=hidden)] if hidden else []
        if capped and (sides or more):
            return [*more, *sides, _Task(main, lane, "apart")]
        self._open[lane] = self._trunk_line(main, shown)
        return [*more, *sides, _Task(main, lane, "main")]

    def _trunk_line(self, main: Node, sides: Sequence[Node]) -> Line:
        """The parent's lane above these side branches: it is part of their chain too."""
        chain = self._family.chain
        is_chain = main.id in chain or (bool(sides) and any(side.id in chain for side in sides))
        return Line(main.inferred or main.parent is None, is_chain)

    def _line(self, node: Node) -> Line:
        return Line(node.inferred or node.parent is None, node.id in self._family.chain)

    def _passing(self, lane: int) -> tuple[tuple[int, Line], ...]:
        return tuple([(other, line) for other, line in sorted(self._open.items()) if other != lane])

    def _shown(self, node: Node, sides: list[Node]) -> tuple[list[Node], tuple[Node, ...]]:
        """The newest side branches and those that the reader looks at; the other ones are hidden."""
        if len(sides) <= BRANCHES or node.id in self._wanted.whole:
            return sides, ()
        ids = {side.id for side in sides[-BRANCHES:]} | self._family.looked_at
        return [side for side in sides if side.id in ids], tuple(side for side in sides if side.id not in ids)

    def _keep(self, task: _Task, node: Node, parent: Node | None, sides: Sequence[Node]) -> bool:
        family = self._family
        children = family.children.get(node.id, ())
        fresh = self._wanted.fresh_from
        return (
            task.kind != "main"
            or bool(sides)
            or not children
            or family.is_tip(node)
            or (node.outline is not None and node.outline.asked)
            or node.compacted
            or any(child.compacted for child in children)
            or failed_over(node)
            or node.status != "completed"
            or (node.inferred and parent is not None and not parent.inferred)
            or node.id == self._wanted.selected
            or node.id in self._found
            or (fresh is not None and node.key >= fresh)
        )


def shape(node: Node) -> Shape:
    if node.status in RUNNING:
        return Shape.IN_FLIGHT
    if not is_placed(node):
        return Shape.FAILED
    if node.compacted:
        return Shape.COMPACTION
    if node.status == "incomplete":
        return Shape.INCOMPLETE
    asked = node.outline is not None and node.outline.asked
    if not node.stored or node.deleted:
        return Shape.ASKED_UNSTORED if asked else Shape.GOES_ON_UNSTORED
    return Shape.ASKED if asked else Shape.GOES_ON


def failed_over(node: Node) -> bool:
    """Another channel or a second attempt has answered."""
    return len(node.attempts) > 1 and any(attempt.get("error") for attempt in node.attempts)


# --- folds ------------------------------------------------------------------------------------------------------


def _folded(rows: Sequence[Row | More], wanted: Wanted) -> list[Entry]:
    """First long side branches as a whole, then what is left, run by run."""
    whole: list[Entry] = []
    at = 0
    while at < len(rows):
        row = rows[at]
        end = _branch_end(rows, at) if isinstance(row, Row) and row.fork is not None else at + 1
        inner = rows[at + 1 : end]
        tip = _tip_of(inner, row.lane)
        if len(inner) >= LONG_BRANCH and tip is not None and not _shows(inner[:tip], wanted):
            hidden = tuple(entry for entry in inner[:tip] if isinstance(entry, Row))
            whole += [row, Fold(hidden, row.lane), *inner[tip:]]
            at = end
        else:
            whole.append(row)
            at += 1
    return list(_runs(whole, wanted))


def _branch_end(rows: Sequence[Row | More], start: int) -> int:
    """Behind the last row of the branch that begins at `start`."""
    lane = rows[start].lane
    end = start + 1
    while end < len(rows) and rows[end].lane >= lane and not _begins(rows[end], lane):
        end += 1
    return end


def _begins(row: Row | More, lane: int) -> bool:
    """Whether the row begins another branch in this lane."""
    return row.lane == lane and (isinstance(row, More) or row.fork is not None)


def _tip_of(inner: Sequence[Row | More], lane: int) -> int | None:
    """Where the branch's own tip stands, which stays with what is below it."""
    own = [at for at, entry in enumerate(inner) if entry.lane == lane]
    tips = [at for at in own if isinstance(row := inner[at], Row) and row.tip]
    return next(iter(tips or own[-1:]), None)


def _shows(inner: Sequence[Row | More], wanted: Wanted) -> bool:
    """Whether the branch holds something that the reader looks at, or that is not a turn."""
    fresh = wanted.fresh_from
    return any(
        isinstance(row, More)
        or row.asked_for
        or row.shape is Shape.IN_FLIGHT
        or row.turn.id in wanted.unfolded
        or (fresh is not None and row.turn.key >= fresh)
        for row in inner
    )


def _runs(entries: Sequence[Entry], wanted: Wanted) -> Iterator[Entry]:
    def kind(entry: Entry) -> int | None:
        return entry.lane if isinstance(entry, Row) and not entry.keep else None

    for lane, group in groupby(entries, kind):
        run = list(group)
        rows = tuple(entry for entry in run if isinstance(entry, Row))
        if lane is None or len(run) < FOLDED or any(row.turn.id in wanted.unfolded for row in rows):
            yield from run
        else:
            yield Fold(rows, lane)


# --- the curve --------------------------------------------------------------------------------------------------

BARS = 200
"""Turns up to which each has a bar. A longer line is a line only."""
POINTS = 1000
"""Points of a line at most."""


@dataclass(frozen=True, slots=True)
class Point:
    """The context of one turn: `tokens` were sent, of which `cached` came from the cache."""

    turn: Node
    at: int
    """Where it stands on the line: 0 for the first turn, 1 for the second."""
    tokens: int
    cached: int
    inferred: bool
    chain: bool
    after: int | None = None
    """What a compaction left."""


@dataclass(frozen=True, slots=True)
class Curve:
    points: tuple[Point, ...]
    """Along the trunk."""
    branches: tuple[tuple[Point, ...], ...]
    """Each begins at its fork."""
    length: int
    """Turns of the line."""
    bars: bool

    @property
    def most(self) -> int:
        return max((point.tokens for line in (self.points, *self.branches) for point in line), default=0)


def curve(layout: Layout) -> Curve:
    """The size of the context along the trunk, and along the newest branches that leave it."""
    points = [_point(node, at, layout.chain) for at, node in enumerate(layout.trunk)]
    known = _thinned([point for point in points if point is not None])
    sides = tuple(map(_thinned, _side_lines(layout, points)))
    return Curve(known, sides, len(layout.trunk), len(layout.trunk) <= BARS)


def _point(node: Node, at: int, chain: Collection[str]) -> Point | None:
    if node.usage is None:
        return None
    note = (node.compaction or {}) if node.compacted else {}
    before, after = note.get("before"), note.get("after")
    tokens = before if isinstance(before, int) else node.usage.input_tokens
    cached = min(node.usage.cached_tokens, tokens)
    left = after if isinstance(after, int) else None
    return Point(node, at, tokens, cached, node.inferred, node.id in chain, left)


def _side_lines(layout: Layout, trunk: Sequence[Point | None]) -> list[list[Point]]:
    """A line for each drawn branch that leaves the trunk: the newest ones."""
    places = {node.id: at for at, node in enumerate(layout.trunk)}
    branches: list[list[Node]] = []
    for row in layout.rows():
        if row.lane == 1 and row.turn.id not in places:
            if row.fork is not None:
                branches.append([])
            if branches:
                branches[-1].append(row.turn)

    def line(turns: Sequence[Node]) -> list[Point]:
        fork = places.get(turns[0].parent or "", 0)
        points = (_point(turn, at, layout.chain) for at, turn in enumerate(turns, fork + 1) if is_placed(turn))
        return [point for point in (trunk[fork], *points) if point is not None]

    drawn = (points for turns in sorted(branches, key=_newest, reverse=True) if len(points := line(turns)) > 1)
    return list(islice(drawn, BRANCHES))[::-1]


def _newest(turns: Sequence[Node]) -> int:
    """The key of the last turn that has a point."""
    return next((turn.key for turn in reversed(turns) if is_placed(turn) and turn.usage), 0)


def _thinned(points: Sequence[Point]) -> tuple[Point, ...]:
    """At most `POINTS`, so chosen that peaks and compactions stay."""
    if len(points) <= POINTS:
        return tuple(points)
    size = -(-len(points) // POINTS)
    groups = (points[at : at + size] for at in range(0, len(points), size))
    return tuple(max(group, key=lambda point: (point.after is not None, point.tokens)) for group in groups)
