"""Trees as they are drawn, and the notes beside them."""

from __future__ import annotations

from app.reports.trees import branch_count, compaction_note, drawn, notes, rounded, summary
from app.store.tree import Node, Tree


def _node(id: str, parent: str | None = None, inferred: bool = False, compacted: bool = False) -> Node:
    return Node(
        key=0,
        id=id,
        parent=parent,
        inferred=inferred,
        owner="ada",
        token=None,
        status="completed",
        stored=True,
        deleted=False,
        streamed=False,
        model="m",
        channel="a",
        upstream_model=None,
        request_id=None,
        created_at=0,
        completed_at=0,
        first_byte_ms=None,
        total_ms=None,
        usage=None,
        attempts=(),
        compacted=compacted,
        compaction=None,
        error=None,
        incomplete_details=None,
    )


NODES = [_node("1"), _node("2", "1"), _node("3", "2"), _node("4", "2", inferred=True), _node("5", "4", compacted=True)]


def test_only_branches_are_indented() -> None:
    assert [(drawing, node.id) for drawing, node in drawn(NODES)] == [
        ("┌ ", "1"),
        ("│ ", "2"),
        ("├─ ", "3"),
        ("└┄ ", "4"),
        ("   │ ", "5"),
    ]
    assert branch_count(NODES) == 2


def test_a_summary_leaves_out_what_there_is_none_of() -> None:
    assert summary(Tree(tuple(NODES), True)) == "5 responses, 2 branches, 1 compaction, 1 inferred link (┊ ┄)"
    assert summary(Tree((NODES[0],), False)) == "1 response; the tree has more responses, not shown here"


def test_a_compaction_shows_the_tokens_that_are_known() -> None:
    assert list(notes(NODES[4])) == ["✂ compacted"]
    assert compaction_note({"before": 182_400, "after": 1200}) == "✂ 182k → 1.2k"
    assert compaction_note({"before": 999}) == "✂ 999 → ?"


def test_large_numbers_are_rounded() -> None:
    assert [rounded(amount) for amount in (0, 999, 1000, 9949, 9950, 182_400)] == [
        *("0", "999", "1.0k", "9.9k", "10k", "182k")
    ]
