"""How the turns of a tree follow each other, and what they are called: depth and branch, `15`, `15b`, …, `15aa`. Linear
in the number of turns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from string import ascii_lowercase

from app.contract.records import CHAINABLE, RUNNING
from app.store.tree import Node

#: The name of a turn without a place: it failed, or was cancelled.
NAMELESS = "–"


class TreeLinks:
    """The nodes of a tree by parent. A turn without a parent that retries another one stands under that one."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = sorted(nodes, key=lambda node: node.key)
        self.by_id = {node.id: node for node in self.nodes}
        self._above = {node.id: self._drawn_under(node) for node in self.nodes}
        self.children: defaultdict[str | None, list[Node]] = defaultdict(list)
        """Oldest first; of None: the roots."""
        for node in self.nodes:
            self.children[self._above[node.id]].append(node)
        self.order = self._downwards()
        """Every node behind its parent."""
        self._continued = {self._above[node.id] for node in self.nodes if is_placed(node)}

    def above(self, node: Node) -> str | None:
        """The id of the node that this one is drawn under; None for a root."""
        return self._above[node.id]

    def _drawn_under(self, node: Node) -> str | None:
        for id_ in (node.parent, node.retry_of):
            if id_ is not None and id_ in self.by_id and id_ != node.id:
                return id_
        return None

    def _downwards(self) -> list[Node]:
        """Every node behind its parent. What is in a circle, which no store writes, is drawn from its first node."""
        order: list[Node] = []
        seen: set[str] = set()
        roots = {node.id for node in self.children[None]}
        for start in (*self.children[None], *self.nodes):
            if start.id in seen:
                continue
            if start.id not in roots:
                self._cut_loose(start)
            waiting = [start]
            while waiting:
                node = waiting.pop()
                if node.id not in seen:
                    seen.add(node.id)
                    order.append(node)
                    waiting.extend(reversed(self.children.get(node.id, ())))
        return order

    def _cut_loose(self, node: Node) -> None:
        above = self.above(node)
        self.children[above] = [child for child in self.children[above] if child is not node]
        self._above[node.id] = None
        self.children[None].append(node)

    def line_to(self, id_: str | None) -> frozenset[str]:
        return self.lines_to(() if id_ is None else (id_,))

    def lines_to(self, ids: Collection[str]) -> frozenset[str]:
        """These nodes and all their ancestors."""
        line: set[str] = set()
        for start in ids:
            id_: str | None = start
            while id_ is not None and id_ in self.by_id and id_ not in line:
                line.add(id_)
                id_ = self.above(self.by_id[id_])
        return frozenset(line)

    def is_tip(self, node: Node) -> bool:
        """A turn that can be continued, and that no other such turn continues."""
        return is_placed(node) and node.id not in self._continued


def is_placed(node: Node) -> bool:
    """Whether the turn has a place in the tree, so that others can follow it."""
    return node.status in CHAINABLE


@dataclass(frozen=True, slots=True)
class TreeNames:
    """By the id of the turn."""

    names: dict[str, str]
    depths: dict[str, int]


def tree_names(links: TreeLinks) -> TreeNames:
    """Depth and branch. A child goes on in its parent's branch when the store says so, and the first child whose parent
    is inferred when no stored one does. Branches get their letters in the order of their first turns, so that a new
    turn renames no other.
    """
    depths: dict[str, int] = {}
    goes_on: set[str] = set()
    for node in links.order:
        above = links.by_id.get(links.above(node) or "")
        depths[node.id] = 1 if above is None else depths[above.id] + (node.parent == above.id)
        children = [child for child in links.children.get(node.id, ()) if _may_go_on(node, child)]
        if children:
            goes_on.add(next((child for child in children if _same_branch(node, child)), _first(node, children)).id)
    first: dict[str, str] = {}
    for node in links.order:
        above_id = links.above(node)
        first[node.id] = first[above_id] if above_id is not None and node.id in goes_on else node.id
    # Numbered by the age of their first turns, not by where they are drawn.
    root = first[links.order[0].id] if links.order else None
    places = {first[node.id] for node in links.nodes if is_placed(node)}
    starts = sorted(places, key=lambda id_: (id_ != root, links.by_id[id_].key))
    letters = {id_: _letters(number) for number, id_ in enumerate(starts)}
    names = {
        node.id: f"{depths[node.id]}{letters[first[node.id]]}" if is_placed(node) else _nameless(node)
        for node in links.nodes
    }
    return TreeNames(names, depths)


def _may_go_on(above: Node, child: Node) -> bool:
    """A turn that retries another one has that one's depth, so it opens a branch unless the other one has no place."""
    return is_placed(child) and (child.parent == above.id or not is_placed(above))


def _same_branch(parent: Node, child: Node) -> bool:
    return not child.inferred and child.branch is not None and child.branch == parent.branch


def _first(parent: Node, children: Sequence[Node]) -> Node:
    """The one that goes on where the store does not say it."""
    unsaid = (child for child in children if child.inferred or child.branch is None)
    return next(unsaid, children[0])


def _nameless(node: Node) -> str:
    return "" if node.status in RUNNING else NAMELESS


def _letters(number: int) -> str:
    """Nothing for the root's branch, then b, …, z, aa, ab, …."""
    letters = ""
    number += 1
    if number == 1:
        return letters
    while number:
        number, place = divmod(number - 1, 26)
        letters = ascii_lowercase[place] + letters
    return letters
