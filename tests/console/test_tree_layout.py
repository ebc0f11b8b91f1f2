"""The layout of trees: order, lanes, names, lines, folds and the curve."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.console.tree_layout import (
    BRANCHES,
    LANES,
    LONG_BRANCH,
    POINTS,
    Entry,
    Fold,
    Layout,
    Line,
    More,
    Row,
    Shape,
    Wanted,
    curve,
    failed_over,
    lay_out,
)
from app.reports.tree_names import is_placed
from app.store.tree import Node

from .nodes import ASKED, id_of, line, turn, used

FLAT = Wanted(folds=False)
FAILED_OVER: dict[str, Any] = {"attempts": ({"channel": "a", "error": "rate_limited", "ms": 1}, {"channel": "b"})}


def _names(layout: Layout) -> list[str]:
    return [row.name for row in layout.rows()]


def _drawn(layout: Layout) -> list[str]:
    """What one sees: `15`, `6 turns`, `42 more`."""
    words: list[str] = []
    for entry in layout.entries:
        if isinstance(entry, Row):
            words.append(f"{'  ' * entry.lane}{entry.name}")
        elif isinstance(entry, Fold):
            words.append(f"{'  ' * entry.lane}{len(entry.rows)} turns")
        else:
            words.append(f"{'  ' * entry.lane}{entry.branches} more")
    return words


# --- order, lanes, names ----------------------------------------------------------------------------------------


def test_a_branch_stands_under_its_fork_and_the_line_to_the_newest_tip_goes_on() -> None:
    nodes = [*line(1, 4), *line(5, 6, parent=2, branch=2), turn(7, 4)]
    layout = lay_out(nodes, FLAT)
    assert _drawn(layout) == ["1", "2", "  3b", "  4b", "3", "4", "5"]
    assert [node.key for node in layout.trunk] == [1, 2, 3, 4, 7]
    assert [node.key for node in layout.tips] == [7, 6]
    assert layout.branches == 1


def test_the_line_to_the_wanted_tip_is_straight_and_no_name_changes() -> None:
    nodes = [*line(1, 4), *line(5, 6, parent=2, branch=2), turn(7, 4)]
    layout = lay_out(nodes, replace(FLAT, tip=id_of(6)))
    assert _drawn(layout) == ["1", "2", "  3", "  4", "  5", "3b", "4b"]


def test_a_tip_that_was_continued_meanwhile_leads_on_to_the_newest() -> None:
    nodes = line(1, 5)
    assert [node.key for node in lay_out(nodes, replace(FLAT, tip=id_of(3))).trunk] == [1, 2, 3, 4, 5]


def test_branches_get_letters_in_the_order_of_their_first_turns() -> None:
    nodes = [*line(1, 2), *(turn(key, 1, branch=key) for key in range(3, 33))]
    names = lay_out(nodes, FLAT).names
    assert [names[id_of(key)] for key in (2, 3, 27, 28, 29, 32)] == ["2", "2b", "2z", "2aa", "2ab", "2ae"]


def test_the_store_says_which_child_goes_on_in_a_branch() -> None:
    slow, quick = turn(2, 1, branch=9), turn(3, 1, branch=1)
    names = lay_out([turn(1), slow, quick], FLAT).names
    assert names == {id_of(1): "1", slow.id: "2b", quick.id: "2"}


def test_unstored_turns_are_named_after_their_inferred_parents() -> None:
    unstored: dict[str, Any] = {"stored": False, "inferred": True, "branch": None}
    nodes = [turn(1), turn(2, 1, **unstored), turn(3, 2, **unstored), turn(4, 2, **unstored), turn(5, 4, **unstored)]
    layout = lay_out(nodes, FLAT)
    assert [layout.names[id_of(key)] for key in (1, 2, 3, 4, 5)] == ["1", "2", "3", "3b", "4b"]
    assert _drawn(layout) == ["1", "2", "  3", "3b", "4b"]


def test_a_turn_that_ended_badly_has_no_place_and_is_a_leaf_under_its_parent() -> None:
    nodes = [*line(1, 3), turn(4, 2, status="failed", branch=None), turn(5, 3, status="cancelled", branch=None)]
    layout = lay_out(nodes, FLAT)
    assert _drawn(layout) == ["1", "2", "  –", "3", "–"]
    assert [row.tip for row in layout.rows()] == [False, False, False, True, False]
    assert [row.shape for row in layout.rows() if row.name == "–"] == [Shape.FAILED, Shape.FAILED]


def test_a_turn_in_flight_has_no_name_yet_and_belongs_to_the_line() -> None:
    layout = lay_out([*line(1, 2), turn(3, 2, status="in_progress", branch=None, outline=None)], FLAT)
    assert [(row.name, row.shape) for row in layout.rows()][-1] == ("", Shape.IN_FLIGHT)
    assert layout.trunk[-1].key == 3


def test_a_retry_of_the_first_turn_is_a_branch_of_the_same_depth() -> None:
    layout = lay_out([turn(1), turn(2, retry_of=id_of(1), branch=2), turn(3, 2, branch=2)], FLAT)
    assert layout.names == {id_of(1): "1", id_of(2): "1b", id_of(3): "2b"}


def test_the_retry_of_a_failed_first_turn_is_the_first_turn() -> None:
    nodes = [turn(1, status="failed", branch=None), turn(2, retry_of=id_of(1), branch=2), turn(3, 2, branch=2)]
    assert _names(lay_out(nodes, FLAT)) == ["–", "1", "2"]


def test_deep_branches_stay_in_the_last_lane_and_say_where_they_come_from() -> None:
    spine = line(1, 10)
    newer = [turn(1000 - node.key, node.key, branch=node.key + 1) for node in spine]
    layout = lay_out([*spine, *newer], FLAT)
    assert layout.lanes == LANES
    apart = [row for row in layout.rows() if row.above is None and row.fork is None and row.turn.parent is not None]
    assert len(apart) == 2 * (len(spine) - LANES)
    for row in apart:
        assert row.lane == LANES - 1
        assert row.origin == layout.names[row.turn.parent or ""]


# --- lines ------------------------------------------------------------------------------------------------------


def test_each_row_is_drawn_alone() -> None:
    solid = Line()
    nodes = [*line(1, 3), turn(4, 2, branch=2), turn(5, 3)]
    first, fork, side, after, tip = lay_out(nodes, FLAT).rows()
    assert (first.above, first.below, first.passing) == (None, solid, ())
    assert (fork.above, fork.below, fork.fork) == (solid, solid, None)
    assert (side.above, side.below, side.fork, side.passing) == (None, None, (0, solid), ((0, solid),))
    assert (side.origin, after.origin) == ("2", None)
    assert (after.above, after.below) == (solid, solid)
    assert (tip.above, tip.below) == (solid, None)


def test_the_chain_of_the_selected_turn_runs_through_the_lanes() -> None:
    nodes = [*line(1, 3), turn(4, 2, branch=2), turn(5, 2, branch=3), turn(6, 3)]
    rows = {row.turn.key: row for row in lay_out(nodes, replace(FLAT, selected=id_of(5))).rows()}
    on, off = Line(chain=True), Line()
    assert [key for key, row in rows.items() if row.chain] == [1, 2, 5]
    assert rows[2].below == on
    assert rows[4].passing == ((0, on),)
    assert rows[5].fork == (0, on)
    assert rows[5].passing == ((0, off),)
    assert rows[3].above == off


def test_a_line_to_an_inferred_parent_says_so() -> None:
    nodes = [turn(1), turn(2, 1, inferred=True, branch=None), turn(3, 2)]
    first, second, third = lay_out(nodes, FLAT).rows()
    assert first.below == second.above == Line(inferred=True)
    assert second.below == third.above == Line()
    assert [row.first_inferred for row in (first, second, third)] == [False, True, False]


# --- folds ------------------------------------------------------------------------------------------------------


def test_three_turns_in_a_row_fold() -> None:
    assert _drawn(lay_out(line(1, 5))) == ["1", "3 turns", "5"]
    assert _drawn(lay_out(line(1, 4))) == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    "facts",
    [
        {"outline": ASKED},
        {"status": "incomplete"},
        FAILED_OVER,
        {"inferred": True},
    ],
    ids=["asked", "incomplete", "failed over", "first inferred"],
)
def test_what_a_reader_looks_for_is_not_folded(facts: dict[str, Any]) -> None:
    nodes = [replace(node, **facts) if node.key == 5 else node for node in line(1, 9)]
    assert _drawn(lay_out(nodes)) == ["1", "3 turns", "5", "3 turns", "9"]


def test_a_compaction_and_the_turn_before_it_are_not_folded() -> None:
    nodes = [replace(node, compacted=node.key == 6) for node in line(1, 10)]
    assert _drawn(lay_out(nodes)) == ["1", "3 turns", "5", "6", "3 turns", "10"]


def test_the_selected_turn_and_what_a_search_has_found_are_not_folded() -> None:
    layout = lay_out(line(1, 13), Wanted(selected=id_of(5), found=[id_of(9)]))
    assert _drawn(layout) == ["1", "3 turns", "5", "3 turns", "9", "3 turns", "13"]


def test_a_fold_opens_when_it_is_asked_for() -> None:
    assert _drawn(lay_out(line(1, 5), Wanted(unfolded=[id_of(2)]))) == ["1", "2", "3", "4", "5"]


def test_turns_that_arrive_while_the_page_is_open_do_not_fold() -> None:
    assert _drawn(lay_out(line(1, 9), Wanted(fresh_from=5))) == ["1", "3 turns", "5", "6", "7", "8", "9"]


def test_a_long_side_branch_folds_to_its_first_turn_a_fold_and_its_tip() -> None:
    side = line(100, 108, parent=1, branch=2, outline=ASKED)
    side += [turn(109, 105, branch=3), *line(110, 121, parent=108, branch=2, outline=ASKED)]
    nodes = [turn(1), *side, turn(300, 1)]
    layout = lay_out(nodes)
    assert _drawn(layout) == ["1", "  2b", f"  {LONG_BRANCH} turns", "  22b", "2"]
    (fold,) = [entry for entry in layout.entries if isinstance(entry, Fold)]
    assert (fold.first.name, fold.last.name) == ("3b", "21b")
    looked_at = lay_out(nodes, Wanted(selected=id_of(109)))
    assert id_of(109) in {entry.turn.id for entry in looked_at.entries if isinstance(entry, Row)}


def test_a_fold_of_a_whole_branch_says_what_it_hides() -> None:
    side = [replace(node, compacted=node.key == 110) for node in line(100, 130, parent=1, branch=2)]
    layout = lay_out([turn(1), *side, turn(300, 1)])
    (fold,) = [entry for entry in layout.entries if isinstance(entry, Fold)]
    assert fold.troubles == [("compacted", 1)]


def test_of_many_branches_the_newest_are_drawn() -> None:
    nodes = [turn(1), *(turn(key, 1, branch=key) for key in range(2, 53)), turn(99, 1)]
    layout = lay_out(nodes)
    assert _drawn(layout)[:3] == ["1", "  43 more", "  2as"]
    assert len(layout.entries) == 1 + 1 + BRANCHES + 1
    assert not any(isinstance(entry, More) for entry in lay_out(nodes, Wanted(whole=[id_of(1)])).entries)
    assert id_of(5) in {row.turn.id for row in lay_out(nodes, Wanted(found=[id_of(5)])).rows()}


def test_a_fold_sums_up_its_turns() -> None:
    nodes = [replace(node, **used(1000, 250)) for node in line(1, 5)]
    (fold,) = [entry for entry in lay_out(nodes).entries if isinstance(entry, Fold)]
    assert fold.tools == [("exec_command", 3)]
    assert (fold.cached_share, fold.output_tokens, fold.first_byte_ms, fold.total_ms) == (0.25, 30, 700, 6000)


# --- the curve --------------------------------------------------------------------------------------------------


def test_the_curve_follows_the_line_and_the_branches_begin_at_their_forks() -> None:
    nodes = [replace(node, **used(node.key * 100, 50)) for node in [*line(1, 4), turn(5, 2, branch=2), turn(6, 4)]]
    drawn = curve(lay_out(nodes))
    assert [(point.at, point.tokens) for point in drawn.points] == [(0, 100), (1, 200), (2, 300), (3, 400), (4, 600)]
    assert [[(point.at, point.tokens) for point in branch] for branch in drawn.branches] == [[(1, 200), (2, 500)]]
    assert drawn.bars
    assert drawn.most == 600


def test_the_curve_shows_a_compaction_from_before_to_after() -> None:
    cut = turn(2, 1, compacted=True, compaction={"before": 182_000, "after": 9400}, **used(182_000, 5))
    (_, point) = curve(lay_out([turn(1, **used(100)), cut])).points
    assert (point.tokens, point.after) == (182_000, 9400)


def test_a_long_line_has_no_bars_and_few_points_and_keeps_its_peaks() -> None:
    nodes = [replace(node, **used(9999 if node.key == 1234 else node.key)) for node in line(1, 3000)]
    drawn = curve(lay_out(nodes))
    assert not drawn.bars
    assert len(drawn.points) <= POINTS
    assert drawn.most == 9999


# --- any tree ---------------------------------------------------------------------------------------------------

STATUSES = ("completed",) * 6 + ("incomplete", "failed", "cancelled", "in_progress")


@st.composite
def trees(draw: st.DrawFn) -> list[Node]:
    """Any shape: chains, stars, retries, and parents that are inferred, missing or younger than their children."""
    nodes: list[Node] = []
    for key in range(1, draw(st.integers(1, 60)) + 1):
        near = st.integers(max(1, key - 3), key)
        parent = draw(st.one_of(near, st.integers(1, key + 1))) if key > 1 else None
        facts: dict[str, Any] = {
            "status": draw(st.sampled_from(STATUSES)),
            "outline": draw(st.sampled_from([ASKED, turn(0).outline, None])),
            "compacted": draw(st.integers(0, 9)) == 0,
            "stored": draw(st.booleans()),
            "branch": draw(st.integers(1, 4)),
            **(FAILED_OVER if draw(st.integers(0, 9)) == 0 else {}),
        }
        if draw(st.integers(0, 9)) == 0 and key > 1:
            nodes.append(turn(key, None, retry_of=id_of(draw(st.integers(1, key))), **facts))
        else:
            nodes.append(turn(key, parent, inferred=parent is not None and draw(st.booleans()), **facts))
    return nodes


def _wanted(nodes: list[Node]) -> st.SearchStrategy[Wanted]:
    ids = st.sampled_from([node.id for node in nodes])
    return st.builds(
        Wanted,
        selected=st.one_of(st.none(), ids),
        tip=st.one_of(st.none(), ids),
        found=st.lists(ids, max_size=2),
        whole=st.just([node.id for node in nodes]),
    )


@given(st.data())
@settings(max_examples=40)
def test_every_turn_is_drawn_once_below_its_parent(data: st.DataObject) -> None:
    nodes = data.draw(trees())
    layout = lay_out(nodes, data.draw(_wanted(nodes)))
    drawn = [row.turn.id for row in layout.rows()]
    assert sorted(drawn) == sorted(node.id for node in nodes)
    place = {id_: at for at, id_ in enumerate(drawn)}
    rows = {row.turn.id: row for row in layout.rows()}
    for row in rows.values():
        if row.above is not None or row.fork is not None:
            above = row.turn.parent if row.turn.parent in rows else row.turn.retry_of
            assert above is not None
            assert place[above] < place[row.turn.id]
    placed = [row.name for row in rows.values() if is_placed(row.turn)]
    assert len(placed) == len(set(placed))
    assert len({row.anchor for row in rows.values()}) == len(rows)


@given(st.data())
@settings(max_examples=40)
def test_lanes_never_collide_and_every_line_leads_somewhere(data: st.DataObject) -> None:
    nodes = data.draw(trees())
    layout = lay_out(nodes, replace(data.draw(_wanted(nodes)), folds=False))
    open_lanes: dict[int, Line] = {}
    for row in layout.rows():
        passing = dict(row.passing)
        assert row.lane not in passing
        assert len(passing) == len(row.passing)
        assert set(passing) == set(open_lanes) - {row.lane}
        assert (row.above is not None) == (row.lane in open_lanes)
        if row.above is not None:
            assert open_lanes[row.lane].inferred == row.above.inferred
        if row.fork is not None:
            assert row.fork[0] in passing
        open_lanes = passing | ({row.lane: row.below} if row.below is not None else {})
    assert open_lanes == {}


@given(st.data())
@settings(max_examples=40)
def test_folds_hide_nothing_that_is_looked_for(data: st.DataObject) -> None:
    nodes = data.draw(trees())
    wanted = data.draw(_wanted(nodes))
    visible = {entry.turn.id for entry in lay_out(nodes, wanted).entries if isinstance(entry, Row)}
    for fold in (entry for entry in lay_out(nodes, wanted).entries if isinstance(entry, Fold)):
        assert len(fold.rows) >= 3
        for row in fold.rows:
            assert row.turn.id not in {wanted.selected, *wanted.found}
            if len(fold.rows) < LONG_BRANCH - 1:
                assert row.turn.outline is None or not row.turn.outline.asked
                assert not row.tip
                assert not row.turn.compacted
                assert not failed_over(row.turn)
                assert row.turn.status == "completed"
                assert row.fork is None
    assert {wanted.selected, *wanted.found} - {None} <= visible


@given(trees(), st.data())
@settings(max_examples=40)
def test_the_names_do_not_depend_on_what_is_looked_at(nodes: list[Node], data: st.DataObject) -> None:
    first = lay_out(nodes, data.draw(_wanted(nodes)))
    assert first.names == lay_out(nodes, data.draw(_wanted(nodes))).names


# --- big trees --------------------------------------------------------------------------------------------------


def _calls(nodes: list[Node]) -> int:
    """Python functions that a layout calls: a measure of its work that no other load of the machine changes."""
    count = 0

    def profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        lay_out(nodes)
    finally:
        sys.setprofile(None)
    return count


def _with_branches(turns: int, branches: int) -> list[Node]:
    length = turns // (branches + 1)
    trunk = line(1, turns - branches * length)
    sides = [
        node
        for number in range(branches)
        for node in line(10_000 + number * 1000, 9_999 + number * 1000 + length, 1 + number, branch=2 + number)
    ]
    return [*trunk, *sides, turn(99_999, trunk[-1].key)]


@pytest.mark.parametrize("shape", ["branches", "line", "star", "comb"])
def test_the_work_grows_with_the_number_of_turns(shape: str) -> None:
    make = {
        "branches": lambda turns: _with_branches(turns, turns // 40),
        "line": lambda turns: line(1, turns),
        "star": lambda turns: [turn(1), *(turn(key, 1, branch=key) for key in range(2, turns))],
        "comb": lambda turns: [node for key in range(1, turns, 2) for node in _tooth(key)],
    }[shape]
    small, large = _calls(make(1000)), _calls(make(5000))
    assert large < small * 7


def _tooth(key: int) -> list[Node]:
    """A turn that goes on in a branch of its parent's, beside a leaf that is younger."""
    above = key - 2 if key > 2 else None
    return [turn(key, above, branch=key), turn(key + 1, key, branch=10_000 + key)]


def test_a_large_tree_is_folded_to_what_one_can_read() -> None:
    layout = lay_out(_with_branches(2000, 50))
    assert len(layout.tips) == 51
    assert len(layout.entries) < 400
    assert Counter(type(entry) for entry in layout.entries)[Fold] >= 50


def test_a_chain_of_five_thousand_turns_is_one_fold() -> None:
    entries: tuple[Entry, ...] = lay_out(line(1, 5000)).entries
    assert [type(entry) for entry in entries] == [Row, Fold, Row]


def test_nothing_is_drawn_for_no_turns() -> None:
    layout = lay_out([])
    assert (layout.entries, layout.trunk, layout.tips) == ((), (), ())
    assert curve(layout).most == 0
