from __future__ import annotations

import multiprocessing
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.store.chain import RECENT, WHOLE, Extent
from app.store.errors import ResponseMissing, ResponseNotChainable
from app.store.store import Store
from tests.store.turns import draft, outcome, turn


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
            return self.status, self.id
        line: list[Node] = []
        node: Node | None = self
        while node is not None:
            line.append(node)
            node = None if node.compacted and extent is RECENT else node.parent
        gone = next((node.id for node in line if node.deleted), None)
        return ("missing", gone) if gone else ("chain", [node.id for node in reversed(line)])


def extent_of(store: Store, owner: str, node: Node, extent: Extent) -> tuple[str, list[str] | str]:
    read = store.responses.chain if extent is RECENT else store.responses.full_chain
    try:
        return "chain", [link.id for link in read(owner, node.id).links]
    except ResponseMissing as error:
        return "missing", error.response_id
    except ResponseNotChainable as error:
        return error.status, error.response_id


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
                assert store.responses.delete(owner, chosen.id) is not chosen.deleted
                chosen.deleted = True
            continue
        if chosen is not None and chosen.answer(RECENT)[0] != "chain":
            chosen = None
        begun = draft(chosen.id if chosen else None, owner=owner)
        if way == "begun":
            store.responses.begin(begun)
        assert store.responses.finish(begun, outcome(status, compacted=compacted))
        nodes.append(Node(begun.id, chosen, status, compacted))
    for node in nodes:
        for extent in (RECENT, WHOLE):
            assert extent_of(store, owner, node, extent) == node.answer(extent)


# --- trees that several processes build at once -----------------------------------------------------------------

processes = multiprocessing.get_context("spawn")
BUILDERS = 4
PATIENCE = 60

Grown = list[tuple[str, str | None]]
"""New responses with the parent of each."""


def build(url: str, together: Barrier, parents: Connection) -> None:
    """One builder. It appends to a given parent at the same moment as the others."""
    store = Store(url, peppers=[b"p"])
    while (next_parent := parents.recv()) is not None:
        owner, known, choices = next_parent
        grown: Grown = []
        together.wait(PATIENCE)
        for choice in choices:
            candidates = [*known, *(response_id for response_id, _ in grown)]
            parent = candidates[choice % len(candidates)] if candidates else None
            grown.append((turn(store, parent, owner=owner), parent))
        parents.send(grown)
    store.close()


@pytest.fixture
def builders(store: Store, database_url: str) -> Iterator[list[Connection]]:
    together = processes.Barrier(BUILDERS)
    with ExitStack() as stack:
        ends = []
        for _ in range(BUILDERS):
            ours, theirs = processes.Pipe()
            process = processes.Process(target=build, args=(database_url, together, theirs))
            process.start()
            stack.callback(process.join, PATIENCE)
            stack.callback(ours.send, None)
            ends.append(ours)
        yield ends


#: In each round every builder grows so many responses; a number chooses the parent among those it knows.
rounds = st.lists(
    st.lists(st.lists(st.integers(0, 40), max_size=4), min_size=BUILDERS, max_size=BUILDERS), min_size=1, max_size=4
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(rounds)
def test_a_tree_that_four_processes_build_at_once_is_read_as_a_model_in_memory_reads_it(
    store: Store, builders: list[Connection], rounds: list[list[list[int]]]
) -> None:
    owner = uuid.uuid4().hex
    parents: dict[str, str | None] = {}
    for choices in rounds:
        known = list(parents)
        for builder, own in zip(builders, choices, strict=True):
            builder.send((owner, known, own))
        for builder in builders:
            assert builder.poll(PATIENCE)
            parents.update(builder.recv())
    for response_id in parents:
        line: list[str] = []
        node: str | None = response_id
        while node is not None:
            line.append(node)
            node = parents[node]
        assert [link.id for link in store.responses.chain(owner, response_id).links] == line[::-1]
