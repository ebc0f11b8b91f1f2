"""A conversation as a drawn tree: one line a response, only branches are indented."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.store.tree import Node, Tree

#: In front of a response: the first of a tree, the child of the response above, a branch, the last branch.
#: The keys say whether the link to the parent is inferred.
_ROOT = "┌ "
_CHILD = {False: "│ ", True: "┊ "}
_BRANCH = {False: "├─ ", True: "├┄ "}
_LAST_BRANCH = {False: "└─ ", True: "└┄ "}
_BRANCHES = (*_BRANCH.values(), *_LAST_BRANCH.values())


def drawn(nodes: Sequence[Node]) -> Iterator[tuple[str, Node]]:
    """Each response below its parent, with the lines to draw in front of it."""
    known = {node.id for node in nodes}
    children: defaultdict[str | None, list[Node]] = defaultdict(list)
    for node in nodes:
        children[node.parent if node.parent in known else None].append(node)
    waiting = [(_ROOT, "", node) for node in reversed(children[None])]
    while waiting:
        drawing, margin, node = waiting.pop()
        yield drawing, node
        waiting.extend(reversed(_drawn_below(children[node.id], margin)))


def _drawn_below(children: Sequence[Node], margin: str) -> list[tuple[str, str, Node]]:
    if len(children) == 1:
        return [(margin + _CHILD[children[0].inferred], margin, children[0])]
    return [
        (margin + _LAST_BRANCH[child.inferred], margin + "   ", child)
        if child is children[-1]
        else (margin + _BRANCH[child.inferred], margin + "│  ", child)
        for child in children
    ]


def notes(node: Node) -> Iterator[str]:
    """What is unusual about a response, a few words each."""
    if node.compaction is not None and "failed" in node.compaction:
        yield f"compaction failed: {node.compaction['failed']}"
    elif node.compacted:
        yield compaction_note(node.compaction or {})
    if failed := [attempt for attempt in node.attempts if attempt.get("error")]:
        yield "⚠ " + ", ".join(f"{attempt['channel']} {attempt['error']}" for attempt in failed)
    if node.error and node.error.get("code") and not failed:
        yield str(node.error["code"])
    if node.incomplete_details and node.incomplete_details.get("reason"):
        yield str(node.incomplete_details["reason"])
    if node.usage and node.usage.estimated:
        yield "≈ estimated"
    if not node.stored:
        yield "not stored"


def compaction_note(compaction: Mapping[str, Any]) -> str:
    """The tokens before and after, as far as they are known."""
    before, after = compaction.get("before"), compaction.get("after")
    if before is None:
        return "✂ compacted"
    return f"✂ {rounded(before)} → {rounded(after) if after is not None else '?'}"


def rounded(amount: int) -> str:
    """`950`, `1.2k`, `12k`."""
    if amount < 1000:
        return str(amount)
    return f"{amount / 1000:.1f}k" if amount < 9950 else f"{amount / 1000:,.0f}k"


def summary(tree: Tree) -> str:
    """The number of responses, branches, compactions and inferred links; a number that is 0 is left out."""
    nodes = tree.nodes
    counts = (
        counted(len(nodes), "response", "responses"),
        counted(branch_count(nodes), "branch", "branches"),
        counted(sum(node.compacted for node in nodes), "compaction", "compactions"),
        counted(sum(node.inferred for node in nodes), "inferred link (┊ ┄)", "inferred links (┊ ┄)"),
    )
    return ", ".join(filter(None, counts)) + ("" if tree.whole else "; the tree has more responses, not shown here")


def branch_count(nodes: Sequence[Node]) -> int:
    return sum(drawing.endswith(_BRANCHES) for drawing, _ in drawn(nodes))


def counted(count: int, singular: str, plural: str) -> str:
    """`1 branch`, `2 branches`; empty for 0."""
    return f"{count:,} {singular if count == 1 else plural}" if count else ""
