"""A conversation as a drawn tree: one line a response, only branches are indented."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from app.contract.outline import outline
from app.relay.inferred_parents import identity
from app.reports.tree_names import is_placed
from app.store.prompt_digests import unpacked
from app.store.store import Store
from app.store.tree import Excerpt, Node, Tree

#: Enough of an id to find the response by: its prefix, its second, and the start of its random part.
SHORT = 19

OUTLINES = 200
"""Turns whose content is read for what their rows do not say."""
SIBLINGS = 500
"""Turns whose inputs are compared."""

#: In front of a response: the first of a tree, the child of the response above, a branch, the last branch.
#: The keys say whether the link to the parent is inferred.
_ROOT = "┌ "
_CHILD = {False: "│ ", True: "┊ "}
_BRANCH = {False: "├─ ", True: "├┄ "}
_LAST_BRANCH = {False: "└─ ", True: "└┄ "}
#: A response that was asked for again and that nothing continues.
_RETRIED = "↻ "
_BRANCHES = (*_BRANCH.values(), *_LAST_BRANCH.values())


def load_tree(store: Store, scope: str | None, response_id: str, selected: str | None = None) -> Tree:
    """The tree of a response, without nodes if there is none, from two queries. `scope`: the owner whose responses may
    be seen; None for everyone's. `selected`: the id of the response whose base is read as well.

    Of responses that their clients chained to the same one, those with the same input are retries of the first. Turns
    that are in progress, or that an earlier release has written, have the outlines of what is stored of them. Both hold
    for the newest ones, and for content that is not too long.
    """
    tree = store.trees.load(scope, response_id, selected) or Tree((), True)
    siblings = _chained_siblings(tree.nodes)[-SIBLINGS:]
    unknown = [node for node in tree.nodes if node.outline is None and _has_content(node)][-OUTLINES:]
    excerpts = store.trees.excerpts([node.key for node in unknown], [node.key for node in siblings])
    outlines = {
        one.key: outline(orjson.loads(one.input or "[]"), orjson.loads(one.output))
        for one in excerpts
        if one.output is not None
    }
    retries = _retries(siblings, {one.key: _question(one) for one in excerpts if one.output is None})
    nodes = [
        replace(node, retry_of=retries.get(node.id, node.retry_of), outline=node.outline or outlines.get(node.key))
        if node.id in retries or node.key in outlines
        else node
        for node in tree.nodes
    ]
    return replace(tree, nodes=tuple(nodes))


def _has_content(node: Node) -> bool:
    return node.stored and not node.deleted


def _chained_siblings(nodes: Sequence[Node]) -> list[Node]:
    """The stored responses whose named parent has other children."""
    chained = [node for node in nodes if node.parent and not node.inferred]
    counts = Counter(node.parent for node in chained)
    return [node for node in chained if counts[node.parent] > 1 and _has_content(node)]


def _retries(siblings: Iterable[Node], questions: Mapping[int, bytes | None]) -> dict[str, str]:
    """The first response after the same one to the same question, by the id of each later one."""
    first: dict[tuple[str | None, bytes], str] = {}
    retries: dict[str, str] = {}
    for node in siblings:
        if (question := questions.get(node.key)) is not None:
            earlier = first.setdefault((node.parent, question), node.id)
            retries.update({node.id: earlier} if earlier != node.id else {})
    return retries


def _question(excerpt: Excerpt) -> bytes | None:
    """What tells the input apart from others; None if it is not known."""
    if excerpt.input is None:
        prompt = unpacked(excerpt.prompt)
        return prompt.question if prompt else None
    items = orjson.loads(excerpt.input)
    return orjson.dumps([stable for item in items if (stable := identity(item))], option=orjson.OPT_SORT_KEYS)


#: The drawing, the margin of what is below, the response.
_Line = tuple[str, str, Node]


def drawn(nodes: Sequence[Node]) -> Iterator[tuple[str, Node]]:
    """Each response below its parent, with the lines to draw in front of it."""
    known = {node.id for node in nodes}
    children: defaultdict[str | None, list[Node]] = defaultdict(list)
    for node in nodes:
        children[node.parent if node.parent in known else None].append(node)
    waiting = _drawn_below(None, children, "")[::-1]
    while waiting:
        drawing, margin, node = waiting.pop()
        yield drawing, node
        waiting.extend(reversed(_drawn_below(node.id, children, margin)))


def _drawn_below(parent: str | None, children: Mapping[str | None, list[Node]], margin: str) -> list[_Line]:
    """The lines of the responses below this one. Retried ones make no branch."""
    below = children.get(parent, [])
    retried = _retried(below, children)
    lines = [(margin + _RETRIED, margin, node) for node in below if node.id in retried]
    kept = [node for node in below if node.id not in retried]
    if parent is None:
        return lines + [(_ROOT, "", node) for node in kept]
    if len(kept) == 1:
        return [*lines, (margin + _CHILD[kept[0].inferred], margin, kept[0])]
    return lines + [
        (margin + _LAST_BRANCH[node.inferred], margin + "   ", node)
        if node is kept[-1]
        else (margin + _BRANCH[node.inferred], margin + "│  ", node)
        for node in kept
    ]


def _retried(siblings: Sequence[Node], children: Mapping[str | None, list[Node]]) -> set[str]:
    """The siblings that were asked for again and that nothing continues. One response to each question is left."""
    groups: defaultdict[tuple[str, str], list[Node]] = defaultdict(list)
    for node in siblings:
        groups[node.retry_of or node.id, node.model].append(node)
    left_out: set[str] = set()
    for group in groups.values():
        ends = [node.id for node in group if not children.get(node.id)]
        left_out.update(ends if len(ends) < len(group) else ends[:-1])
    return left_out


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
    if node.started_by:
        yield f"{node.subagent or 'thread'} started by {node.started_by[:SHORT]}"
    if node.started:
        yield "started " + ", ".join(id_[:SHORT] for id_ in node.started)


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
        counted(retry_count(nodes), "retry (↻)", "retries (↻)"),
        counted(sum(node.inferred for node in nodes), "inferred link (┊ ┄)", "inferred links (┊ ┄)"),
    )
    return ", ".join(filter(None, counts)) + ("" if tree.whole else "; the tree has more responses, not shown here")


def branch_count(nodes: Sequence[Node]) -> int:
    """The turns that continue a response beside another one. A failed turn and a retry are no branch."""
    forks = Counter(node.parent for drawing, node in drawn(nodes) if drawing.endswith(_BRANCHES) and is_placed(node))
    return sum(count - 1 for count in forks.values())


def retry_count(nodes: Sequence[Node]) -> int:
    return sum(drawing.endswith(_RETRIED) for drawing, _ in drawn(nodes))


def counted(count: int, singular: str, plural: str) -> str:
    """`1 branch`, `2 branches`; empty for 0."""
    return f"{count:,} {singular if count == 1 else plural}" if count else ""
