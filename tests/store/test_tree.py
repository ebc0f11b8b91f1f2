"""Trees as they are read back, and parents that are found by content."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from itertools import count
from typing import Any

from app.contract.outline import Outline
from app.contract.records import Attempt, Prompt, Trace
from app.contract.usage import Usage
from app.reports.trees import load_tree
from app.store import tree as tree_module
from app.store.dialects import SQLITE
from app.store.store import Store
from app.store.tree import Node, Tree
from tests.store import rows
from tests.store.turns import OWNER, draft, line, outcome, turn

A_DAY_AND_MORE = 40


def _tree(store: Store, response_id: str, owner: str = OWNER) -> Tree:
    tree = store.trees.load(owner, response_id)
    assert tree is not None
    return tree


def _links(store: Store, response_id: str) -> dict[str, tuple[str | None, bool]]:
    return {node.id: (node.parent, node.inferred) for node in _tree(store, response_id).nodes}


def _node(store: Store, response_id: str) -> Node:
    detail = store.trees.detail(OWNER, response_id)
    assert detail is not None
    return detail.node


def _noted(store: Store, trace: Trace, **fields: Any) -> str:
    """An unstored response with a trace."""
    begun = draft(stored=False, id=trace.response, token=trace.token, **fields)
    store.responses.note(begun, outcome())
    store.prefixes.trace(begun.owner, trace)
    return begun.id


def _trace(name: str, *starts: str, end: str | None, token: int = 1) -> Trace:
    return Trace(f"resp_{name}", token, tuple(start.encode() for start in starts), end.encode() if end else None)


def _settle(store: Store) -> None:
    """What was posted before is written once this is."""
    turn(store, says="later")


def test_a_tree_holds_every_branch_from_its_root_whichever_response_is_named(store: Store) -> None:
    root, *trunk = line(store, 3)
    branch = line(store, 2, parent=trunk[0])
    failed = turn(store, trunk[1], "failed")
    turn(store)
    expected = {
        root: (None, False),
        trunk[0]: (root, False),
        trunk[1]: (trunk[0], False),
        branch[0]: (trunk[0], False),
        branch[1]: (branch[0], False),
        failed: (trunk[1], False),
    }
    for named in expected:
        assert _links(store, named) == expected
    assert _tree(store, root).whole


def test_a_deleted_response_stays_in_the_tree_without_its_content(store: Store) -> None:
    first, second, third = line(store, 3)
    assert store.responses.delete(OWNER, second)
    assert [(node.id, node.deleted) for node in _tree(store, third).nodes] == [
        (first, False),
        (second, True),
        (third, False),
    ]
    detail = store.trees.detail(OWNER, second)
    assert detail is not None
    assert store.trees.node(OWNER, second) == detail.node
    assert (detail.input, detail.output, [child.id for child in detail.children]) == ((), (), [third])


def test_a_long_conversation_is_one_query(store: Store, database_url: str) -> None:
    written = rows.line(database_url, 3000)
    tree = _tree(store, written[-1])
    assert [node.id for node in tree.nodes] == written
    assert tree.nodes[-1].parent == written[-2]


def test_a_response_is_shown_with_everything_about_it(store: Store) -> None:
    parent = turn(store)
    begun = draft(parent, settings=b'{"instructions":"be kind"}', echo=b'{"temperature":0.5}', request_id="req_1")
    tried = (Attempt("a", 7, 429, "rate_limit_exceeded"), Attempt("b", 9, 200, None, "translated", ("web_search",)))
    note = {"strategy": "summary", "before": 12_000, "after": 1_000}
    ended = outcome(attempts=tried, compaction=note, usage=Usage(7, 1, 2, 9, 3, estimated=True), compacted=True)
    store.responses.finish(begun, ended)
    child = turn(store, begun.id)
    detail = store.trees.detail(OWNER, begun.id)
    assert detail is not None
    node = detail.node
    assert (node.parent, node.inferred, [found.id for found in detail.children]) == (parent, False, [child])
    assert [attempt["error"] for attempt in node.attempts] == ["rate_limit_exceeded", None]
    assert (node.compacted, node.compaction, node.usage) == (True, note, ended.usage)
    assert detail.settings == {"instructions": "be kind", "temperature": 0.5}
    assert (detail.input[0]["content"], detail.output[0]["content"]) == ("hello", "welcome")


def test_nothing_of_another_owner_is_seen(store: Store) -> None:
    theirs = turn(store, owner="eve")
    assert store.trees.load(OWNER, theirs) is None
    assert store.trees.detail(OWNER, theirs) is None
    assert store.trees.node(OWNER, theirs) is None
    assert store.trees.load(OWNER, "resp_unknown") is None
    assert store.trees.detail(OWNER, "not an id ' OR 1=1") is None
    assert store.trees.node(OWNER, "not an id ' OR 1=1") is None


def test_a_response_is_found_by_the_beginning_of_its_id(store: Store) -> None:
    first = turn(store, id="resp_aaaaaaaaaaaa1")
    turn(store, id="resp_aaaaaaaaaaaa2", owner="eve")
    assert store.trees.find(first) == [(OWNER, first)]
    assert store.trees.find("resp_aaaaaaaaaaaa2"[:-1]) == [(OWNER, first), ("eve", "resp_aaaaaaaaaaaa2")]
    assert store.trees.find("resp_aaa") == []
    assert store.trees.find("resp_bbbbbbbbbbbb") == []


# --- parents that were not named --------------------------------------------------------------------------------


def test_the_longest_beginning_finds_the_parent(store: Store) -> None:
    one = _noted(store, _trace("one", end="1"))
    two = _noted(store, _trace("two", "1", end="2"))
    three = _noted(store, _trace("three", "2", "1", end="3"))
    edited = _noted(store, _trace("edited", "gone", "1", end="3b"))
    _settle(store)
    assert _links(store, three) == {one: (None, False), two: (one, True), three: (two, True), edited: (one, True)}
    assert [child.id for child in store.trees.detail(OWNER, one).children] == [two, edited]  # type: ignore[union-attr]
    assert not _node(store, one).stored


def test_a_parent_is_found_far_back(store: Store) -> None:
    one = _noted(store, _trace("one", end="1"))
    last = _noted(store, _trace("last", *(f"unknown {place}" for place in range(700)), "1", end="701"))
    _settle(store)
    assert _node(store, last).parent == one


def test_another_token_finds_nothing(store: Store) -> None:
    _noted(store, _trace("one", end="1"))
    other = _noted(store, _trace("two", "1", end="2", token=2))
    _settle(store)
    assert _node(store, other).parent is None


def test_another_owner_never_sees_into_a_tree(store: Store) -> None:
    one = _noted(store, _trace("one", end="1"))
    _noted(store, _trace("two", "1", end="2"), owner="eve")
    _settle(store)
    assert [node.id for node in _tree(store, one).nodes] == [one]


def test_a_failed_response_is_a_leaf_of_the_tree(store: Store) -> None:
    one = _noted(store, _trace("one", end="1"))
    failed = _noted(store, _trace("failed", "1", end=None))
    again = _noted(store, _trace("again", "1", end="2"))
    _settle(store)
    assert _links(store, one) == {one: (None, False), failed: (one, True), again: (one, True)}


def test_a_named_parent_is_never_replaced(store: Store) -> None:
    _noted(store, _trace("one", end="1"))
    named = turn(store)
    child = turn(store, named)
    store.prefixes.trace(OWNER, replace(_trace("two", "1", end="2"), response=child))
    _settle(store)
    assert (_node(store, child).parent, _node(store, child).inferred) == (named, False)


def test_hashes_go_with_their_response(store: Store, database_url: str) -> None:
    old = _noted(store, _trace("old", end="1"))
    stored = turn(store)
    store.prefixes.trace(OWNER, Trace(stored, 1, (), b"2"))
    _settle(store)
    assert rows.count(database_url, "prefix") == 2
    assert store.responses.delete(OWNER, stored)
    assert rows.count(database_url, "prefix") == 1
    rows.age(database_url, [old], A_DAY_AND_MORE)
    young = _noted(store, _trace("young", "1", end="3"))
    _settle(store)
    assert _node(store, young).parent == old
    list(store.maintenance.prune(store.leases.clock() - 30 * 86_400))
    assert (_node(store, young).parent, rows.count(database_url, "prefix")) == (None, 1)
    assert [node.id for node in _tree(store, young).nodes] == [young]


# --- threads ----------------------------------------------------------------------------------------------------


_clock = count(1)


def _turn_of(
    thread: str,
    name: str,
    *starts: str,
    parent: str = "",
    question: str = "",
    token: int = 1,
    times: tuple[int, int] | None = None,
) -> Trace:
    """`times`: when it began and ended; by default each begins when the one before has ended."""
    began, ended = times or (now := next(_clock), now)
    return replace(
        _trace(name, *starts, end=name, token=token),
        thread=thread.encode(),
        parents=(parent.encode(),) if parent else (),
        question=question.encode() or None,
        subagent="review" if parent else None,
        began_at=began,
        ended_at=ended,
    )


def test_the_first_response_of_a_thread_has_an_edge_to_the_newest_one_of_its_parent(store: Store) -> None:
    one = _noted(store, _turn_of("main", "1"))
    two = _noted(store, _turn_of("main", "2", "1"))
    child = _noted(store, _turn_of("child", "c1", parent="main"))
    three = _noted(store, _turn_of("main", "3", "2"))
    later = _noted(store, _turn_of("child", "c2", "c1", parent="main"))
    unknown = _noted(store, _turn_of("child", "c3", "gone", parent="main"))
    _settle(store)
    assert _links(store, three) == {one: (None, False), two: (one, True), three: (two, True)}
    assert _links(store, later) == {child: (None, False), later: (child, True)}
    assert [_node(store, found).started_by for found in (child, later, unknown, one)] == [two, None, None, None]
    assert [_node(store, found).started for found in (one, two, three)] == [(), (child,), ()]
    assert (_node(store, child).subagent, _node(store, two).subagent) == ("review", None)


def test_the_parent_may_go_on_while_a_thread_that_it_started_runs(store: Store) -> None:
    starter = _noted(store, _turn_of("main", "1", times=(10, 20)))
    later = _noted(store, _turn_of("main", "2", "1", times=(21, 35)))
    child = _noted(store, _turn_of("child", "c1", parent="main", times=(22, 90)))
    early = _noted(store, _turn_of("other", "o1", parent="main", times=(5, 95)))
    _settle(store)
    assert [_node(store, found).started for found in (starter, later)] == [(child,), ()]
    assert _node(store, early).started_by is None


def test_an_edge_leads_to_no_other_token_or_owner(store: Store) -> None:
    _noted(store, _turn_of("main", "1"))
    other_token = _noted(store, _turn_of("child", "c1", parent="main", token=2))
    other_owner = _noted(store, _turn_of("child", "c2", parent="main"), owner="eve")
    _settle(store)
    assert _node(store, other_token).started_by is None
    tree = store.trees.load("eve", other_owner)
    assert tree is not None
    assert [node.started_by for node in tree.nodes] == [None]


def test_a_retry_joins_the_tree_of_the_first_response_to_its_question(store: Store) -> None:
    lost = _noted(store, _turn_of("main", "1", question="q"))
    again = _noted(store, _turn_of("main", "1b", question="q"))
    third = _noted(store, _turn_of("main", "1c", question="q"))
    after = _noted(store, _turn_of("main", "2", "1c", question="r"))
    elsewhere = _noted(store, _turn_of("main", "x", question="q", token=2))
    _settle(store)
    for named in (lost, again, third, after):
        nodes = _tree(store, named).nodes
        assert [(node.id, node.parent, node.retry_of) for node in nodes] == [
            (lost, None, None),
            (again, None, lost),
            (third, None, lost),
            (after, third, None),
        ]
    assert _node(store, elsewhere).retry_of is None


def test_threads_go_with_their_responses(store: Store, database_url: str) -> None:
    old = _noted(store, _turn_of("main", "1", question="q"))
    stored = turn(store)
    store.prefixes.trace(OWNER, replace(_turn_of("main", "2", question="r"), response=stored))
    _settle(store)
    assert rows.count(database_url, "thread_turn") == 2
    assert store.responses.delete(OWNER, stored)
    again = _noted(store, _turn_of("main", "3", question="r"))
    rows.age(database_url, [old], A_DAY_AND_MORE)
    _settle(store)
    list(store.maintenance.prune(store.leases.clock() - 30 * 86_400))
    assert (_node(store, again).retry_of, rows.count(database_url, "thread_turn")) == (None, 2)


def test_no_hash_of_a_place_stands_as_it_came(store: Store, database_url: str) -> None:
    _noted(store, _trace("one", end="0123456789abcdef"))
    _settle(store)
    ((hash_,),) = rows.execute(database_url, "SELECT hash FROM prefix")
    assert len(hash_) == 32
    assert hash_ != b"0123456789abcdef".hex()


# --- for pages --------------------------------------------------------------------------------------------------


def test_an_operator_reads_the_tree_of_any_owner_and_an_owner_only_their_own(store: Store) -> None:
    root, tip = line(store, 2, owner="bob")
    for scope in (None, "bob"):
        tree = store.trees.load(scope, tip)
        assert tree is not None
        assert [node.id for node in tree.nodes] == [root, tip]
    assert store.trees.load(OWNER, tip) is None


def test_a_tree_is_read_by_indexes_alone(store: Store) -> None:
    if store.database.dialect is not SQLITE:
        return
    root, tip = line(store, 2)
    plan = store.database.read(
        lambda session: session.rows(f"EXPLAIN QUERY PLAN {tree_module._TREE}", (tip, OWNER, tip))
    )
    steps = [step for *_, step in plan]
    assert any("SEARCH r USING INTEGER PRIMARY KEY" in step for step in steps)
    # What is scanned are the common tables of the query itself.
    assert {step.split()[1] for step in steps if step.startswith("SCAN ")} <= {
        "l",
        "t",
        "line",
        "root",
        "tree",
        "found",
    }
    assert root != tip


def test_the_outline_of_a_turn_is_in_its_row_until_it_is_deleted(store: Store) -> None:
    said = Outline(asked=True, calls={"exec_command": 2})
    begun = draft()
    assert store.responses.finish(begun, outcome(outline=said))
    unstored = draft(stored=False)
    store.responses.note(unstored, outcome(outline=said))
    _settle(store)
    assert [_node(store, one.id).outline for one in (begun, unstored)] == [said, said]
    assert store.responses.delete(OWNER, begun.id)
    assert _node(store, begun.id).outline is None


def test_contents_come_in_the_order_of_the_keys(store: Store) -> None:
    ids = line(store, 5)
    keys = [node.key for node in _tree(store, ids[0]).nodes]
    wanted = [keys[3], keys[0], 10**9, keys[4]]
    assert [key for key, *_ in store.trees.contents(wanted, together=2)] == [keys[3], keys[0], keys[4]]
    assert store.responses.delete(OWNER, ids[3])
    assert [key for key, *_ in store.trees.contents(wanted)] == [keys[0], keys[4]]


def test_excerpts_leave_out_what_is_too_long(store: Store) -> None:
    small, large, digested, huge, bare = (
        *(turn(store, says="a" * size) for size in (5, tree_module.LONGEST_INPUT)),
        *(_digested(store, says="a" * size) for size in (tree_module.LONGEST_INPUT, tree_module.LONGEST_CONTENT)),
        turn(store, says="unread"),
    )
    keys = {one: _node(store, one).key for one in (small, large, digested, huge, bare)}
    names = {key: one for one, key in keys.items()}
    wanted = [keys[one] for one in (small, large, digested, huge)]
    read = store.trees.excerpts(wanted, wanted)
    whole = {names[one.key]: one for one in read if one.output is not None}
    inputs = {names[one.key]: one for one in read if one.output is None}
    assert (len(read), set(whole), set(inputs)) == (7, {small, large, digested}, {small, large, digested, huge})
    assert '"aaaaa"' in str(inputs[small].input)
    assert "welcome" in str(whole[digested].output)
    assert [inputs[one].input for one in (large, digested, huge)] == [None] * 3
    assert [inputs[one].prompt is None for one in (small, large, digested, huge)] == [True, True, False, False]
    assert store.trees.excerpts([], []) == []
    assert [one.key for one in store.trees.excerpts([], [keys[bare]])] == [keys[bare]]


def _digested(store: Store, parent: str | None = None, **facts: Any) -> str:
    """A turn with the digests of its prompt."""
    begun = draft(parent, **facts)
    prompt = Prompt(b"k1", input=blake2b(begun.input, digest_size=8).digest(), output=b"answered")
    assert store.responses.finish(begun, outcome(prompt=prompt))
    return begun.id


def test_long_inputs_are_told_apart_by_their_digests(store: Store) -> None:
    long = "a" * tree_module.LONGEST_INPUT
    root = _digested(store)
    first, again = (_digested(store, root, says=long) for _ in range(2))
    other, unknown = _digested(store, root, says=f"{long}b"), turn(store, root, says=long)
    found = {node.id: node.retry_of for node in load_tree(store, OWNER, root).nodes}
    assert found == {root: None, first: None, again: first, other: None, unknown: None}


def test_the_base_of_the_selected_response_comes_with_its_tree(store: Store) -> None:
    thread, first, second = _turn_of("main", "1"), draft(), draft()
    for begun, more in ((first, b""), (second, b"--answer--next--")):
        assert store.responses.finish(begun, outcome())
        prompt = Prompt(b"k1", input=b"question" + more, output=b"--answer")
        store.prefixes.trace(OWNER, replace(thread, response=begun.id, prompt=prompt, starts=()))
    _settle(store)
    first_key, second_key = (_node(store, one.id).key for one in (first, second))
    for selected, base in ((first.id, None), (second.id, first_key), (None, None)):
        tree = store.trees.load(OWNER, second.id, selected)
        assert tree is not None
        assert tree.base == base
    pair = store.prompts.pair_of(OWNER, second_key, first_key)
    assert pair == store.prompts.pair(OWNER, second.id)
    assert pair is not None
    assert pair.before is not None
    assert pair.before.id == first.id
    assert store.prompts.pair_of("eve", second_key, first_key) is None
