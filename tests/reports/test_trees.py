"""Trees as they are drawn, and the notes beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from app.reports.trees import branch_count, compaction_note, drawn, notes, rounded, summary
from app.store.tree import Node, Tree
from tests.console.nodes import PLAIN


def _node(id: str, parent: str | None = None, **facts: Any) -> Node:
    return replace(PLAIN, id=id, parent=parent, **{"first_byte_ms": None, "total_ms": None, "outline": None, **facts})


NODES = [_node("1"), _node("2", "1"), _node("3", "2"), _node("4", "2", inferred=True), _node("5", "4", compacted=True)]


def test_only_branches_are_indented() -> None:
    assert [(drawing, node.id) for drawing, node in drawn(NODES)] == [
        ("┌ ", "1"),
        ("│ ", "2"),
        ("├─ ", "3"),
        ("└┄ ", "4"),
        ("   │ ", "5"),
    ]
    assert branch_count(NODES) == 1
    failed = [_node("6", "2", status="failed"), _node("7", "5"), _node("8", "5", status="cancelled")]
    assert branch_count([*NODES, *failed]) == 1


def _drawing(*nodes: Node) -> list[tuple[str, str]]:
    return [(drawing, node.id) for drawing, node in drawn(nodes)]


def test_of_retries_the_one_that_goes_on_or_else_the_newest_is_in_the_line() -> None:
    retried = [_node("2", "1"), _node("3", "1", retry_of="2"), _node("4", "1", retry_of="2")]
    assert _drawing(_node("1"), *retried) == [("┌ ", "1"), ("↻ ", "2"), ("↻ ", "3"), ("│ ", "4")]
    assert _drawing(_node("1"), *retried, _node("5", "3")) == [
        *(("┌ ", "1"), ("↻ ", "2"), ("↻ ", "4"), ("│ ", "3"), ("│ ", "5"))
    ]
    assert _drawing(_node("1"), _node("2", retry_of="1"), _node("3", "2")) == [("↻ ", "1"), ("┌ ", "2"), ("│ ", "3")]


def test_a_retry_beside_a_branch_stands_at_its_margin() -> None:
    nodes = [_node("1"), _node("2", "1"), _node("3", "1"), _node("4", "1", retry_of="3"), _node("5", "2")]
    nodes += [_node("6", "2", retry_of="5")]
    assert _drawing(*nodes) == [("┌ ", "1"), ("↻ ", "3"), ("├─ ", "2"), ("│  ↻ ", "5"), ("│  │ ", "6"), ("└─ ", "4")]


def test_retries_that_both_go_on_are_branches() -> None:
    nodes = [_node("1"), _node("2", "1"), _node("3", "1", retry_of="2"), _node("4", "2"), _node("5", "3")]
    assert [drawing for drawing, _ in _drawing(*nodes)] == ["┌ ", "├─ ", "│  │ ", "└─ ", "   │ "]
    assert summary(Tree(tuple(nodes), True)) == "5 responses, 1 branch"
    assert summary(Tree(tuple(nodes[:3]), True)) == "3 responses, 1 retry (↻)"


def test_the_edges_between_threads_are_noted() -> None:
    assert list(notes(_node("2", started_by="resp_0123456789abcdef0123", subagent="review"))) == [
        "review started by resp_0123456789abcd"
    ]
    assert list(notes(_node("1", started=("resp_2", "resp_3")))) == ["started resp_2, resp_3"]


def test_a_summary_leaves_out_what_there_is_none_of() -> None:
    assert summary(Tree(tuple(NODES), True)) == "5 responses, 1 branch, 1 compaction, 1 inferred link (┊ ┄)"
    assert summary(Tree((NODES[0],), False)) == "1 response; the tree has more responses, not shown here"


def test_a_compaction_shows_the_tokens_that_are_known() -> None:
    assert list(notes(NODES[4])) == ["✂ compacted"]
    assert compaction_note({"before": 182_400, "after": 1200}) == "✂ 182k → 1.2k"
    assert compaction_note({"before": 999}) == "✂ 999 → ?"


def test_large_numbers_are_rounded() -> None:
    assert [rounded(amount) for amount in (0, 999, 1000, 9949, 9950, 182_400)] == [
        *("0", "999", "1.0k", "9.9k", "10k", "182k")
    ]
