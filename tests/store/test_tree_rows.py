"""The rows of trees: each agrees with the responses of its tree, whoever wrote them and in whichever order."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from typing import Any

import pytest

from app import ids
from app.contract.records import Attempt, EventBatch, Trace
from app.contract.usage import Usage
from app.store import migrations, tree_fill, tree_list
from app.store.copying import Copy
from app.store.database import Database
from app.store.store import Store
from app.store.tree_list import TreeRow, Wanted
from app.store.tree_sums import COLUMNS, NOTHING, Change, Newest
from tests.databases import Server
from tests.store import rows
from tests.store.conftest import PEPPER
from tests.store.turns import OWNER, draft, line, outcome, turn

JSON = dict[str, Any]
MONTH = 30 * 86_400
OLD = 40
_ROWS = f"SELECT {', '.join(COLUMNS)} FROM tree ORDER BY root"
_ROOTS = "SELECT pk, root FROM response ORDER BY pk"

processes = multiprocessing.get_context("spawn")


def listed(store: Store, owner: str | None = OWNER) -> list[TreeRow]:
    return store.tree_list.newest(owner, None, Wanted(), 100)


def only(store: Store) -> TreeRow:
    (row,) = listed(store)
    return row


def counts(store: Store) -> dict[str, int]:
    """The counters of the only tree that are not 0, without tokens."""
    left_out = ("input_tokens", "cached_tokens", "output_tokens", "cost", "unpriced")
    return {name: count for name, count in only(store).counts.items() if count and name not in left_out}


def agree(url: str) -> None:
    """The rows are what a fill makes of the responses, and so are the roots."""
    written = [rows.execute(url, sql) for sql in (_ROWS, _ROOTS)]
    for sql in ("DELETE FROM tree", "UPDATE response SET root = NULL"):
        rows.execute(url, sql)
    with closing(Database(url)) as database:
        list(tree_fill.fill(database))
        list(tree_fill.fill(database))  # which is safe to repeat
    assert [rows.execute(url, sql) for sql in (_ROWS, _ROOTS)] == written


def settle(store: Store) -> None:
    """What was posted before is written once this is."""
    store._writer.do(lambda group: None)


def noted(store: Store, trace: Trace, status: str = "completed", **fields: Any) -> str:
    """An unstored response with a trace."""
    begun = draft(stored=False, id=trace.response, token=trace.token, **fields)
    store.responses.note(begun, outcome(status))
    store.prefixes.trace(begun.owner, trace)
    return begun.id


def trace(name: str, *starts: str, question: str = "", thread: str = "") -> Trace:
    found = Trace(f"resp_{name}", 1, tuple(start.encode() for start in starts), name.encode())
    return replace(found, thread=thread.encode(), question=question.encode() or None)


# --- what a row says ------------------------------------------------------------------------------------------------


def test_a_row_has_the_sums_of_its_tree_and_the_facts_of_its_newest_turn(store: Store, database_url: str) -> None:
    first = draft(created_at=100)
    store.responses.finish(first, outcome(completed_at=1000))
    root = first.id
    tried = (Attempt("a", 7, 429, "rate_limit_exceeded"), Attempt("b", 9, 200))
    priced = Usage(70, 10, 0, 9, cost=5)
    second = draft(root, client="codex")
    store.responses.finish(second, outcome(attempts=tried, usage=priced, completed_at=2000))
    third = draft(second.id, model="large")
    store.responses.finish(third, outcome("incomplete", usage=Usage(80, 60, 0, 11), completed_at=3000))
    failed = draft(third.id, client="agents")
    store.responses.finish(failed, outcome("failed", usage=None, completed_at=4_000_000_000))
    row = only(store)
    assert (row.id, row.newest, row.owner, row.first_at, row.newest_at) == (root, failed.id, OWNER, 100, 4_000_000_000)
    assert (row.model, row.client, row.context, row.cost) == ("small", "agents", 91, 5)
    assert counts(store) == {"turns": 4, "failovers": 1, "failed": 1, "incomplete": 1}
    sums = (row.counts["input_tokens"], row.counts["cached_tokens"], row.counts["output_tokens"])
    assert (sums, row.counts["unpriced"]) == ((3 + 70 + 80, 10 + 60, 5 + 9 + 11), 2)
    agree(database_url)


def test_a_turn_that_ended_earlier_does_not_become_the_newest(store: Store, database_url: str) -> None:
    root = turn(store)
    late, early = draft(root, model="late"), draft(root, model="early")
    store.responses.finish(late, outcome(completed_at=4_000_000_000))
    store.responses.finish(early, outcome(completed_at=5))
    row = only(store)
    assert (row.newest, row.model, row.newest_at) == (late.id, "late", 4_000_000_000)
    assert counts(store) == {"turns": 3, "branches": 1}
    agree(database_url)


ORDERS = list(itertools.permutations(range(3)))


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_of_turns_that_end_in_one_second_the_last_to_begin_is_the_newest(
    store: Store, database_url: str, order: tuple[int, ...]
) -> None:
    """They may be written in any order: a streamed turn has its key from its beginning, and processes commit apart."""
    root = draft(created_at=100)
    store.responses.finish(root, outcome(completed_at=1000))
    running = [draft(root.id, streamed=True, model=f"model-{number}") for number in range(3)]
    for each in running:
        store.responses.begin(each)
    for number in order:
        used = Usage(input_tokens=number, output_tokens=1)
        store.responses.finish(running[number], outcome(completed_at=2000, usage=used))
    row = only(store)
    assert (row.newest, row.model, row.context) == (running[2].id, "model-2", 3)
    agree(database_url)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_the_order_of_a_transaction_does_not_matter_either(order: tuple[int, ...]) -> None:
    ends = [(1, "one", None, 10, 2000), (2, "two", None, 20, 2000), (3, "late", None, 30, 1999)]
    turns = [Newest(*end) for end in ends]
    first, *others = (turns[number] for number in order)
    change = Change(OWNER, 100, first)
    for other in others:
        change.add(other, NOTHING)
    assert change.newest == turns[1]


def test_the_context_is_that_of_the_newest_turn_that_has_one(store: Store, database_url: str) -> None:
    root = draft(created_at=100)
    store.responses.finish(root, outcome("failed", usage=None, completed_at=1000))
    failed, early = draft(root.id), draft(root.id)
    store.responses.finish(failed, outcome("failed", usage=None, completed_at=3000))
    store.responses.finish(early, outcome(usage=Usage(40, output_tokens=2), completed_at=2000))
    assert (only(store).newest, only(store).context) == (failed.id, 42)
    agree(database_url)


def test_branches_and_compactions_are_counted(store: Store, database_url: str) -> None:
    root, second, third = line(store, 3)
    line(store, 2, parent=second)
    line(store, 2, parent=second)
    turn(store, root)
    turn(store, third, compacted=True)
    note = draft(third)
    store.responses.finish(note, outcome(compaction={"strategy": "summary", "before": 900, "after": 80}))
    lost = draft(third)
    store.responses.finish(lost, outcome("failed", compaction={"strategy": "summary", "failed": "empty"}))
    assert counts(store) == {"turns": 11, "branches": 4, "compactions": 2, "failed": 1}
    assert only(store).context is not None
    agree(database_url)


def test_each_tree_has_a_row_and_other_requests_have_none(store: Store, database_url: str) -> None:
    roots = {turn(store), turn(store), turn(store, owner="eve")}
    store.responses.note(draft(stored=False, id=ids.new("chatcmpl")), outcome())
    unstored = draft(stored=False)
    store.responses.note(unstored, outcome())
    settle(store)
    assert {row.id for row in listed(store, None)} == {*roots, unstored.id}
    assert [row.id for row in listed(store, "eve")] == [row.id for row in listed(store, None) if row.owner == "eve"]
    agree(database_url)


def test_a_parent_that_is_gone_begins_a_tree(store: Store, database_url: str) -> None:
    first = turn(store, ids.new("resp"))
    turn(store, first)
    assert counts(store) == {"turns": 2}
    agree(database_url)


# --- the list ---------------------------------------------------------------------------------------------------------


def test_the_list_is_paged_by_time_and_filtered(store: Store) -> None:
    names = []
    for number in range(5):
        begun = draft(model=f"model-{number % 2}", client="codex" if number else "curl")
        store.responses.finish(begun, outcome("failed" if number == 3 else "completed", completed_at=100 + number // 2))
        names.append(begun.id)
    turn(store, owner="eve")
    newest = names[::-1]
    pages, before = [], None
    while page := store.tree_list.newest(OWNER, None, Wanted(), 2, before):
        pages += [row.id for row in page]
        before = page[-1].place
    assert pages == newest

    def found(scope: str | None = OWNER, **wanted: str) -> list[str]:
        return [row.id for row in store.tree_list.newest(scope, None, Wanted(**wanted), 100)]

    assert found(model="model-1") == [names[3], names[1]]
    assert found(model="model-0", client="codex") == [names[4], names[2]]
    assert found(has="error") == [names[3]]
    assert found(has="branch") == []
    assert (found(None, owner=OWNER), found(OWNER, owner="eve")) == (newest, [])
    assert store.tree_list.counts(OWNER, 101) == (3, 5)
    assert store.tree_list.counts(None, 0) == (6, 6)


def test_a_tree_is_found_by_the_id_of_any_of_its_turns(store: Store) -> None:
    root, second = line(store, 2)
    other = turn(store, owner="eve")

    def found(text: str, scope: str | None = OWNER) -> list[str]:
        return [row.id for row in store.tree_list.newest(scope, None, Wanted(id=text), 100)]

    assert [found(text) for text in (root, second, second[:40], second[-6:], f"…{root[-8:]}")] == [[root]] * 5
    assert (found(other), found(other[-6:]), found(other, None)) == ([], [], [other])
    assert found("resp_none") == found("…" + "f" * 20) == []


def test_the_list_reads_the_beginning_of_the_readers_own_inputs(store: Store) -> None:
    turn(store, says="fix the test")
    turn(store, says="a secret", owner="eve")
    store.responses.note(draft(stored=False), outcome())
    settle(store)
    read = store.tree_list.newest(None, OWNER, Wanted(), 100)
    assert sorted(("fix the test" in (row.input or ""), row.input is None, row.stored) for row in read) == [
        (False, True, False),
        (False, True, True),
        (True, False, True),
    ]


def test_the_contexts_of_a_list_are_those_of_the_newest_turns(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_list, "_NEWEST_POINTS", tree_list._NEWEST_POINTS.replace("LIMIT 60", "LIMIT 3"))
    line(store, 6)
    turn(store)
    long, short = sorted(listed(store), key=lambda row: row.counts["turns"], reverse=True)
    points = store.tree_list.points([long, short])
    assert sorted(point.key - long.root for point in points if point.root == long.root) == [0, 3, 4, 5]
    assert [point.above for point in points if point.root == short.root] == [None]


# --- parents that were not named ------------------------------------------------------------------------------------


def test_inferred_parents_make_one_tree_with_its_branches(store: Store, database_url: str) -> None:
    one = noted(store, trace("one"))
    noted(store, trace("two", "one"))
    noted(store, trace("failed", "one"), "failed")
    noted(store, trace("edited", "one"))
    noted(store, trace("three", "two", "one"))
    settle(store)
    assert only(store).id == one
    assert counts(store) == {"turns": 5, "branches": 1, "unstored": 5, "failed": 1}
    agree(database_url)


def test_a_retry_is_in_the_tree_of_the_first_answer_and_no_branch(store: Store, database_url: str) -> None:
    noted(store, trace("one", question="q", thread="t"))
    noted(store, trace("again", question="q", thread="t"))
    noted(store, trace("two", "again", question="r", thread="t"))
    noted(store, trace("twice", "again", question="r", thread="t"))
    settle(store)
    assert counts(store) == {"turns": 4, "unstored": 4}
    agree(database_url)


def test_another_owner_joins_no_tree(store: Store, database_url: str) -> None:
    noted(store, trace("one"))
    noted(store, trace("two", "one"), owner="eve")
    settle(store)
    assert [row.counts["turns"] for row in listed(store, None)] == [1, 1]
    agree(database_url)


def test_turns_that_continue_a_response_before_its_parent_is_found_move_with_it(
    store: Store, database_url: str
) -> None:
    one = noted(store, trace("one"))
    settle(store)
    named = turn(store)
    child = turn(store, named)
    other = turn(store, named)
    store.prefixes.trace(OWNER, replace(trace("x", "one"), response=named))
    settle(store)
    turn(store, child)
    turn(store, other)
    assert only(store).id == one
    assert counts(store) == {"turns": 6, "branches": 1, "unstored": 1}
    agree(database_url)


def test_a_process_that_knows_the_old_root_counts_in_the_right_tree(store: Store, database_url: str) -> None:
    one = noted(store, trace("one"))
    settle(store)
    named = turn(store)
    with closing(Store(database_url, peppers=[PEPPER])) as elsewhere:
        child = turn(elsewhere, named)
        store.prefixes.trace(OWNER, replace(trace("x", "one"), response=named))
        settle(store)
        grandchild = turn(elsewhere, child)
        turn(elsewhere, grandchild)
    assert only(store).id == one
    assert counts(store) == {"turns": 5, "unstored": 1}
    agree(database_url)


def test_a_response_never_joins_what_came_of_it(store: Store, database_url: str) -> None:
    root = turn(store)
    child = turn(store, root)
    store.prefixes.trace(OWNER, Trace(child, 1, (), b"end"))
    store.prefixes.trace(OWNER, Trace(root, 1, (b"end",), None))
    settle(store)
    rows.execute(database_url, "UPDATE response SET inferred = NULL")
    assert counts(store) == {"turns": 2}
    agree(database_url)


# --- turns that another than their worker ends ----------------------------------------------------------------------


def test_a_cancelled_turn_is_counted_once_and_its_tokens_later(store: Store, database_url: str) -> None:
    root = turn(store)
    running = draft(root, streamed=True)
    store.responses.begin(running)
    assert store.responses.cancel(OWNER, running.id)
    assert counts(store) == {"turns": 2, "cancelled": 1}
    assert not store.responses.finish(running, outcome(usage=Usage(40, 1, 0, 2, cost=7)))
    row = only(store)
    assert (row.counts["input_tokens"], row.cost, row.counts["turns"]) == (3 + 40, 7, 2)
    agree(database_url)


def test_a_background_turn_is_counted_when_it_ends(store: Store, database_url: str) -> None:
    root = turn(store)
    waiting, made = (draft(parent, background=True) for parent in (root, None))
    for each in (waiting, made):
        store.jobs.enqueue(each, b"{}", EventBatch(0, 0, b"{}"), lambda id_: None)
    assert counts(store) == {"turns": 1}
    assert store.responses.cancel(OWNER, waiting.id)
    assert store.jobs.claim(made.id) is not None
    assert store.responses.finish(made, outcome())
    assert {(row.id, row.counts["turns"], row.counts["cancelled"]) for row in listed(store)} == {
        (root, 2, 1),
        (made.id, 1, 0),
    }
    agree(database_url)


def test_the_turns_of_a_dead_worker_are_counted_as_failed(store: Store, database_url: str) -> None:
    root = turn(store)
    with closing(Store(database_url, peppers=[PEPPER])) as dead:
        for parent in (root, None):
            dead.responses.begin(draft(parent, streamed=True))
        name = dead.leases.name
    rows.execute(database_url, "UPDATE worker SET lease_until = 1 WHERE name = ?", (name,))
    assert store.reaper.reap() == 2
    assert sorted((row.counts["turns"], row.counts["failed"]) for row in listed(store)) == [(1, 1), (2, 1)]
    agree(database_url)


def test_a_deleted_turn_is_counted_as_deleted_until_none_is_left(store: Store, database_url: str) -> None:
    root, second = line(store, 2)
    running = draft(second, streamed=True)
    store.responses.begin(running)
    assert store.responses.delete(OWNER, second)
    assert counts(store) == {"turns": 2, "deleted": 1}
    assert store.responses.delete(OWNER, running.id)
    assert counts(store) == {"turns": 3, "deleted": 2, "cancelled": 1}
    agree(database_url)
    assert store.responses.delete(OWNER, root)
    assert listed(store) == []
    agree(database_url)


def test_a_turn_ends_at_one_time_also_when_a_second_passes_meanwhile(
    store: Store, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, gone = [draft(turn(store), streamed=True) for _ in range(2)]
    for one in (cut, gone):
        store.responses.begin(one)
    seconds = itertools.count(int(time.time()))
    monkeypatch.setattr(time, "time", lambda: float(next(seconds)))
    assert store.responses.cancel(OWNER, cut.id)
    assert store.responses.delete(OWNER, gone.id)
    agree(database_url)


# --- forgetting, copying, upgrading ---------------------------------------------------------------------------------


def test_a_row_goes_with_the_last_response_of_its_tree(store: Store, database_url: str) -> None:
    gone = line(store, 3)
    old = noted(store, trace("one"))
    young = noted(store, trace("two", "one"))
    settle(store)
    rows.age(database_url, [*gone, old], OLD)
    list(store.maintenance.prune(store.leases.clock() - MONTH))
    row = only(store)
    assert (row.id, row.newest, row.stored, row.counts["turns"]) == (young, young, None, 2)
    rows.age(database_url, [young], OLD)
    list(store.maintenance.prune(store.leases.clock() - MONTH))
    assert listed(store) == []
    turn(store)
    assert counts(store) == {"turns": 1}


def test_an_erased_owner_has_no_row(store: Store, database_url: str) -> None:
    line(store, 3)
    noted(store, trace("one"))
    theirs = turn(store, owner="eve")
    settle(store)
    list(store.maintenance.erase(OWNER, "erased-1"))
    assert [row.id for row in listed(store, None)] == [theirs]
    turn(store)
    assert counts(store) == {"turns": 1}


def test_a_copy_goes_on_counting(store: Store, database_url: str, mariadb: Server) -> None:
    root, second = line(store, 2)
    target = mariadb.new_database()
    with closing(Copy(database_url, target)) as copy:
        copy.prepare()
        list(copy.run())
        copy.finish()
    with closing(Store(target, peppers=[PEPPER])) as copied:
        turn(copied, second)
        turn(copied, root)
        assert counts(copied) == {"turns": 4, "branches": 1}
    agree(target)


def test_what_an_earlier_release_wrote_is_found_when_a_turn_goes_on(store: Store, database_url: str) -> None:
    root, second = line(store, 2)
    rows.execute(database_url, "UPDATE response SET root = NULL")
    rows.execute(database_url, "DELETE FROM tree")
    with closing(Store(database_url, peppers=[PEPPER])) as newer:
        third = turn(newer, second)
        turn(newer, third)
    assert (only(store).id, counts(store)) == (root, {"turns": 2})


def test_an_upgrade_fills_the_rows(store: Store, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_fill, "_WINDOW", tree_fill._WINDOW.replace("LIMIT 500", "LIMIT 3"))
    monkeypatch.setattr(tree_fill, "_ROOTS", tree_fill._ROOTS.replace("LIMIT 100", "LIMIT 2"))
    for _ in range(3):
        root, second, _third = line(store, 3)
        turn(store, second)
        turn(store, root, "failed")
    noted(store, trace("one"))
    noted(store, trace("two", "one"))
    settle(store)
    written = rows.execute(database_url, _ROWS), rows.execute(database_url, _ROOTS)
    number = _number_of_step()
    rows.execute(database_url, f"DELETE FROM schema_version WHERE version = {number}")
    rows.execute(database_url, "DROP TABLE tree")
    _drop_root(database_url)
    assert store.schema.upgrade() == [number]
    assert (rows.execute(database_url, _ROWS), rows.execute(database_url, _ROOTS)) == written


def _number_of_step() -> int:
    return migrations.STEPS.index(next(iter(migrations.FILLS))) + 1


def _drop_root(url: str) -> None:
    rows.execute(url, "DROP INDEX response_root" + ("" if url.startswith("sqlite") else " ON response"))
    rows.execute(url, "ALTER TABLE response DROP COLUMN root")


# --- several processes ----------------------------------------------------------------------------------------------


def go_on(url: str, parent: str, together: Barrier) -> None:
    with closing(Store(url, peppers=[PEPPER])) as store:
        store.database.ping()
        together.wait()
        for _ in range(10):
            line(store, 2, parent)
            turn(store)


def test_processes_that_continue_one_tree_at_once_lose_no_count(store: Store, database_url: str) -> None:
    root = turn(store)
    together = processes.Barrier(2)
    running = [processes.Process(target=go_on, args=(database_url, root, together)) for _ in range(2)]
    _run(running)
    turns = {row.id: row.counts["turns"] for row in listed(store)}
    assert (turns.pop(root), len(turns), set(turns.values())) == (41, 20, {1})
    agree(database_url)


def infer(url: str, number: int, together: Barrier) -> None:
    """Conversations of stored responses, each begun by one and found to go on from the same root."""
    with closing(Store(url, peppers=[PEPPER])) as store:
        store.database.ping()
        together.wait()
        for place in range(10):
            named = turn(store, token=1)
            store.prefixes.trace(OWNER, replace(trace(f"x{number}-{place}", "one"), response=named))
            line(store, 2, named)
        settle(store)


def test_processes_that_join_one_tree_at_once_lose_no_count(store: Store, database_url: str) -> None:
    root = noted(store, trace("one"))
    settle(store)
    together = processes.Barrier(2)
    _run([processes.Process(target=infer, args=(database_url, number, together)) for number in range(2)])
    assert (only(store).id, counts(store)["turns"]) == (root, 61)


def _run(running: list[Any], start: Callable[[Any], None] = lambda process: process.start()) -> None:
    for process in running:
        start(process)
    for process in running:
        process.join(60)
        assert process.exitcode == 0
