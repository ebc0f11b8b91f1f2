"""What one connection remembers, as a store in front of a real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.contract.records import ToolCall
from app.memory import Budget, Share
from app.relay.connection_store import ConnectionStore, ConnectionToolCalls
from app.store.errors import ResponseMissing
from app.store.store import Store
from tests.store.turns import OWNER, draft, outcome, turn

REMEMBERED = 16
LARGEST = 64 * 1024 * 1024
BUDGET = 2 * LARGEST


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    directory: Path = tmp_path_factory.mktemp("recent")
    store = Store(f"sqlite:///{directory / 'antiphon.db'}", peppers=[b"p" * 32])
    store.schema.upgrade()
    yield store
    store.close()


def unstored(
    recent: ConnectionStore, parent: str | None = None, status: str = "completed", compacted: bool = False
) -> str:
    """A turn as the recorder writes an unstored one, opened from its parent first."""
    if parent is not None:
        recent.chain(OWNER, parent)
    begun = draft(parent, stored=False)
    recent.note(begun, outcome(status, compacted=compacted))
    return begun.id


def path(recent: ConnectionStore, response_id: str) -> list[str]:
    return [link.id for link in recent.chain(OWNER, response_id).links]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.booleans(), st.integers(0, 9).map(lambda n: not n)),
        max_size=REMEMBERED,
    )
)
def test_a_chain_is_the_way_from_its_root_or_its_newest_compaction(
    store: Store, turns: list[tuple[int, bool, bool]]
) -> None:
    recent = ConnectionStore(store.responses, Share(Budget(BUDGET)))
    ways: list[tuple[str, list[str], bool]] = []
    for place, is_root, compacted in turns:
        parent = None if is_root or not ways else ways[place % len(ways)]
        made = unstored(recent, parent[0] if parent else None, compacted=compacted)
        before = [] if compacted or parent is None else parent[1]
        ways.append((made, [*before, made], compacted or (bool(before) and parent is not None and parent[2])))
    for made, way, compacted in ways:
        assert path(recent, made) == way
        assert recent.chain(OWNER, made).compacted is compacted


def test_a_link_is_what_a_stored_one_would_be(store: Store) -> None:
    recent = ConnectionStore(store.responses, Share(Budget(BUDGET)))
    stored = turn(store)
    first = unstored(recent, stored)
    link = recent.chain(OWNER, first).links[-1]
    stored_link = store.responses.chain(OWNER, stored).links[-1]
    assert (link.id, link.status, link.channel) == (first, "completed", stored_link.channel)
    assert (link.input, link.input_tokens, link.output_tokens) == (
        stored_link.input,
        stored_link.input_tokens,
        stored_link.output_tokens,
    )
    assert orjson.loads(link.output)[0]["content"] == "welcome"
    assert path(recent, first) == [stored, first]


def test_nothing_of_it_is_in_the_store(store: Store) -> None:
    recent = ConnectionStore(store.responses, Share(Budget(BUDGET)))
    made = unstored(recent)
    assert made in recent
    assert store.responses.read(OWNER, made) is None
    with pytest.raises(ResponseMissing):
        ConnectionStore(store.responses, Share(Budget(BUDGET))).chain(OWNER, made)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_failed_response_is_not_remembered(store: Store, status: str) -> None:
    recent = ConnectionStore(store.responses, Share(Budget(BUDGET)))
    assert unstored(recent, status=status) not in recent


def test_a_forgotten_response_is_gone_but_stays_in_chains_that_went_on(store: Store) -> None:
    recent = ConnectionStore(store.responses, Share(Budget(BUDGET)))
    root = unstored(recent)
    child = unstored(recent, root)
    recent.forget(root)
    recent.forget(root)
    with pytest.raises(ResponseMissing):
        recent.chain(OWNER, root)
    assert path(recent, child) == [root, child]


def test_a_turn_that_was_opened_before_its_parent_went_is_whole(store: Store) -> None:
    recent = ConnectionStore(store.responses, Share(Budget(BUDGET)))
    parent = turn(store)
    recent.chain(OWNER, parent)
    store.responses.delete(OWNER, parent)
    begun = draft(parent, stored=False)
    recent.note(begun, outcome())
    assert path(recent, begun.id) == [parent, begun.id]


def test_only_the_latest_are_remembered(store: Store) -> None:
    recent = ConnectionStore(store.responses, Share(Budget(BUDGET)))
    made = [unstored(recent) for _ in range(REMEMBERED + 3)]
    assert [response_id in recent for response_id in made] == [False] * 3 + [True] * REMEMBERED


def test_contexts_that_are_too_large_together_are_forgotten_from_the_oldest_on(store: Store) -> None:
    recent = ConnectionStore(store.responses, Share(Budget(BUDGET)))
    half = b"x" * (LARGEST // 2)
    drafts = [draft(stored=False, input=half), draft(stored=False, input=b"[]"), draft(stored=False, input=half)]
    for begun in drafts:
        recent.note(begun, outcome(output=b"[]"))
    assert [begun.id in recent for begun in drafts] == [False, True, True]
    huge = draft(stored=False, input=half + half)
    recent.note(huge, outcome(output=b"[]"))
    assert huge.id not in recent


def test_remembered_responses_count_as_memory_of_large_bodies(store: Store) -> None:
    budget = Budget(1000)
    recent = ConnectionStore(store.responses, Share(budget))
    ids = [unstored(recent) for _ in range(REMEMBERED)]
    assert 0 < budget.taken <= 1000
    assert ids[-1] in recent
    assert ids[0] not in recent
    other = Share(budget)
    recent.forget(ids[-1])
    recent.clear()
    assert budget.taken == 0
    other.grow(1000)
    assert unstored(recent) not in recent


def test_a_response_whose_parent_was_deleted_meanwhile_is_not_remembered(store: Store) -> None:
    recent = ConnectionStore(store.responses, Share(Budget(BUDGET)))
    parent, other = turn(store), turn(store)
    recent.chain(OWNER, parent)
    recent.chain(OWNER, other)
    store.responses.delete(OWNER, parent)
    begun = draft(parent, stored=False)
    recent.note(begun, outcome())
    assert begun.id not in recent


def test_what_hosted_tools_have_found_is_remembered_with_the_response(store: Store) -> None:
    share = Share(Budget(BUDGET))
    recent = ConnectionStore(store.responses, share)
    calls = ConnectionToolCalls(store.tool_calls, recent)
    first = draft(None, stored=False)
    found = ToolCall(f"ws_{first.id}", "docs", "search", 1, milliseconds=1, size=5, result=b"found", stored=False)
    calls.begin(OWNER, first.id, [found])
    calls.end(OWNER, first.id, [found])
    recent.note(first, outcome("completed"))
    held = share.size
    assert calls.results(OWNER, [found.item_id, "ws_other"]) == {found.item_id: b"found"}
    assert store.tool_calls.results(OWNER, [found.item_id]) == {}

    second = unstored(recent, first.id)
    assert calls.results(OWNER, [found.item_id]) == {found.item_id: b"found"}
    recent.forget(first.id)
    recent.forget(second)
    unstored(recent)
    assert calls.results(OWNER, [found.item_id]) == {}
    assert share.size == held - len(b"found")
    recent.clear()
    assert share.size == 0
