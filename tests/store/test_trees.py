from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.store import Store
from app.store.chain import RECENT, WHOLE, Extent
from tests.store.turns import draft, outcome


@dataclass
class Node:
    id: str
    parent: Node | None
    status: str
    compacted: bool
    deleted: bool = field(default=False)

    def answer(self, extent: Extent) -> tuple[str, list[str] | str]:
        """What the store has to say: the chain, or the id that it names as missing, or the reason."""
        if self.deleted:
            return "missing", self.id
        if self.status in ("failed", "cancelled"):
            return "failed", self.id
        line: list[Node] = []
        node: Node | None = self
        while node is not None:
            line.append(node)
            node = None if node.compacted and extent is RECENT else node.parent
        gone = next((node.id for node in line if node.deleted), None)
        return ("missing", gone) if gone else ("chain", [node.id for node in reversed(line)])


def asked(store: Store, owner: str, node: Node, extent: Extent) -> tuple[str, list[str] | str]:
    read = store.chain if extent is RECENT else store.full_chain
    try:
        return "chain", [link.id for link in read(owner, node.id).links]
    except InvalidRequest as error:
        named = error.message.split("'")[1]
        return {"previous_response_not_found": "missing", "previous_response_failed": "failed"}[str(error.code)], named


steps = st.lists(
    st.tuples(
        st.integers(min_value=0, max_value=30),
        st.sampled_from(["completed", "completed", "completed", "incomplete", "failed", "cancelled"]),
        st.sampled_from([False, False, False, True]),
        st.sampled_from(["whole", "begun", "whole", "delete"]),
    ),
    max_size=25,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps)
def test_any_tree_is_read_as_a_model_in_memory_reads_it(store: Store, steps: list[tuple[int, str, bool, str]]) -> None:
    owner = uuid.uuid4().hex
    nodes: list[Node] = []
    for choice, status, compacted, way in steps:
        chosen = nodes[choice % len(nodes)] if nodes and choice else None
        if way == "delete":
            if chosen is not None:
                assert store.delete(owner, chosen.id) is not chosen.deleted
                chosen.deleted = True
            continue
        if chosen is not None and chosen.answer(RECENT)[0] != "chain":
            chosen = None
        begun = draft(chosen.id if chosen else None, owner=owner)
        if way == "begun":
            store.begin(begun)
        assert store.finish(begun, outcome(status, compacted=compacted))
        nodes.append(Node(begun.id, chosen, status, compacted))
    for node in nodes:
        for extent in (RECENT, WHOLE):
            assert asked(store, owner, node, extent) == node.answer(extent)
