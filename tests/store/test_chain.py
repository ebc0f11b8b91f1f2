from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from app.errors import Overloaded, PayloadTooLarge
from app.memory import Budget
from app.store.chain import LONGEST
from app.store.errors import ChainTooLong, HistoryError, ResponseMissing, ResponseNotChainable
from app.store.store import Store
from tests.store import rows
from tests.store.conftest import PEPPER
from tests.store.turns import OWNER, chain_ids, draft, line, outcome, turn


def refused(store: Store, response_id: str, owner: str = OWNER) -> HistoryError:
    with pytest.raises(HistoryError) as caught:
        store.responses.chain(owner, response_id)
    return caught.value


def missing(store: Store, response_id: str) -> str:
    error = refused(store, response_id)
    assert isinstance(error, ResponseMissing)
    return error.response_id


def test_a_chain_holds_its_turns_oldest_first(store: Store) -> None:
    first = turn(store, says="one")
    second = turn(store, first, says="two")
    chain = store.responses.chain(OWNER, second)
    assert [link.id for link in chain.links] == [first, second]
    assert b'"two"' in chain.links[1].input
    assert b'"welcome"' in chain.links[1].output
    assert chain.tip is not None
    assert chain.tip.id == second
    assert (chain.tip.channel, chain.tip.status, chain.tip.input_tokens) == ("first", "completed", 3)
    assert not chain.compacted


@pytest.mark.parametrize("name", ['of "us" \\ them', "tab\tand\nline", "é 🙂 \x7f", "null", "7"])
def test_names_are_read_as_they_were_written(store: Store, name: str) -> None:
    begun = draft(turn(store))
    store.responses.finish(begun, outcome(channel=name, family=name, opaque=True, usage=None))
    link = store.responses.chain(OWNER, begun.id).links[-1]
    assert link == (begun.id, "completed", name, name, 1, None, None, begun.input, link.output)


def test_a_chain_is_read_by_one_query(store: Store) -> None:
    trunk = line(store, 4)
    compaction = turn(store, trunk[-1], compacted=True)
    tip = line(store, 3, line(store, 2, compaction)[0])[-1]
    store.database.close()
    seen: list[str] = []
    for read, length in ((store.responses.chain, 5), (store.responses.full_chain, 9)):
        before = statements(store, seen)
        assert len(read(OWNER, tip).links) == length
        assert statements(store, seen) - before == 1


def statements(store: Store, seen: list[str]) -> int:
    """How many statements the only connection of a store has sent, as its driver or server counts them; `seen` is
    stored from one count to the next.
    """
    with store.database.connected():
        connection = store.database.pool.connection()
        if isinstance(connection, sqlite3.Connection):
            connection.set_trace_callback(seen.append)
            return len(seen)
        with connection.cursor() as cursor:
            cursor.execute("SHOW SESSION STATUS LIKE 'Questions'")
            seen.append("this one")
            return int(cursor.fetchone()[1]) - len(seen)


def test_a_second_child_opens_a_branch(store: Store) -> None:
    root, middle = line(store, 2)
    left = line(store, 3, middle)
    right = line(store, 3, middle)
    assert chain_ids(store, left[-1]) == [root, middle, *left]
    assert chain_ids(store, right[-1]) == [root, middle, *right]


def test_branches_of_branches_keep_apart(store: Store) -> None:
    trunk = line(store, 4)
    bough = line(store, 3, trunk[1])
    twig = line(store, 2, bough[0])
    leaf = line(store, 2, twig[0])
    assert chain_ids(store, trunk[-1]) == trunk
    assert chain_ids(store, bough[-1]) == [*trunk[:2], *bough]
    assert chain_ids(store, twig[-1]) == [*trunk[:2], bough[0], *twig]
    assert chain_ids(store, leaf[-1]) == [*trunk[:2], bough[0], twig[0], *leaf]
    assert chain_ids(store, trunk[2]) == trunk[:3]


def test_a_chain_starts_at_the_newest_compaction(store: Store) -> None:
    before = line(store, 3)
    compaction = turn(store, before[-1], compacted=True)
    after = line(store, 2, compaction)
    chain = store.responses.chain(OWNER, after[-1])
    assert chain.compacted
    assert [link.id for link in chain.links] == [compaction, *after]
    assert chain_ids(store, before[-1]) == before


def test_a_branch_off_before_a_compaction_does_not_see_it(store: Store) -> None:
    before = line(store, 3)
    turn(store, before[-1], compacted=True)
    assert chain_ids(store, turn(store, before[1]))[:2] == before[:2]


def test_a_compaction_in_a_branch_hides_the_trunk(store: Store) -> None:
    trunk = line(store, 4)
    compaction = turn(store, trunk[1], compacted=True)
    after = turn(store, compaction)
    assert chain_ids(store, after) == [compaction, after]
    assert chain_ids(store, trunk[-1]) == trunk


def test_a_fork_off_a_compaction_starts_at_it(store: Store) -> None:
    compaction = turn(store, turn(store), compacted=True)
    turn(store, compaction)
    second = turn(store, compaction)
    assert chain_ids(store, second) == [compaction, second]


def test_a_first_response_can_hold_a_compaction(store: Store) -> None:
    root = turn(store, compacted=True)
    chain = store.responses.chain(OWNER, turn(store, root))
    assert chain.compacted
    assert chain.links[0].id == root


def test_the_full_chain_goes_behind_compactions(store: Store) -> None:
    before = line(store, 2)
    compaction = turn(store, before[-1], compacted=True)
    last = turn(store, compaction)
    chain = store.responses.full_chain(OWNER, last)
    assert [link.id for link in chain.links] == [*before, compaction, last]
    assert not chain.compacted


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_parent_that_did_not_end_well_is_refused(store: Store, status: str) -> None:
    error = refused(store, turn(store, status=status))
    assert isinstance(error, ResponseNotChainable)
    assert error.status == status


def test_a_parent_in_progress_is_refused_until_it_has_ended(store: Store) -> None:
    begun = draft(streamed=True)
    store.responses.begin(begun)
    assert isinstance(refused(store, begun.id), ResponseNotChainable)
    store.responses.finish(begun, outcome("incomplete"))
    assert chain_ids(store, begun.id) == [begun.id]


def test_a_failed_turn_takes_no_place(store: Store) -> None:
    root = turn(store)
    turn(store, root, status="failed")
    child = turn(store, root)
    assert chain_ids(store, turn(store, child))[:2] == [root, child]


def test_unknown_foreign_and_deleted_parents_answer_alike(store: Store) -> None:
    deleted, foreign = turn(store), turn(store, owner="bob")
    store.responses.delete(OWNER, deleted)
    for response_id in ("resp_" + "0" * 48, deleted, foreign, "resp_é", "x" * 9000, ""):
        assert missing(store, response_id) == response_id


def test_an_unstored_response_cannot_be_continued(store: Store) -> None:
    unkept = draft(stored=False)
    store.responses.finish(unkept, outcome())
    assert isinstance(refused(store, unkept.id), ResponseMissing)


@pytest.mark.parametrize("change", [str.upper, lambda text: text + " ", lambda text: text.replace("resp", "Resp")])
def test_an_id_is_exact(store: Store, change: type[str]) -> None:
    assert isinstance(refused(store, change(turn(store))), ResponseMissing)


def test_a_deleted_ancestor_is_named(store: Store) -> None:
    turns = line(store, 5)
    store.responses.delete(OWNER, turns[1])
    store.responses.delete(OWNER, turns[2])
    assert missing(store, turns[-1]) == turns[2]
    assert chain_ids(store, turns[0]) == [turns[0]]


def test_the_place_of_a_deleted_response_stays_empty(store: Store) -> None:
    root, gone, last = line(store, 3)
    store.responses.delete(OWNER, gone)
    sibling = turn(store, root)
    assert chain_ids(store, sibling) == [root, sibling]
    assert missing(store, last) == gone


def test_a_missing_ancestor_behind_a_compaction_does_not_matter(store: Store) -> None:
    before = line(store, 3)
    compaction = turn(store, before[-1], compacted=True)
    last = turn(store, compaction)
    store.responses.delete(OWNER, before[1])
    assert chain_ids(store, last) == [compaction, last]
    with pytest.raises(ResponseMissing, match=before[1]):
        store.responses.full_chain(OWNER, last)


def test_a_parent_deleted_while_its_child_ran_leaves_the_child_stored(store: Store) -> None:
    root = turn(store)
    child = draft(root)
    store.responses.delete(OWNER, root)
    assert store.responses.finish(child, outcome())
    assert store.responses.read(OWNER, child.id) is not None
    assert missing(store, child.id) == root


def test_a_vanished_parent_never_shortens_the_chain(store: Store) -> None:
    child = draft("resp_" + "1" * 48)
    assert store.responses.finish(child, outcome())
    assert isinstance(refused(store, child.id), ResponseMissing)
    assert isinstance(refused(store, turn(store, child.id)), ResponseMissing)


def test_five_thousand_turns_are_read_whole(store: Store, database_url: str) -> None:
    written = rows.line(database_url, 5_000)
    last = turn(store, written[-1])
    assert chain_ids(store, last) == [*written, last]


def test_twelve_hundred_forks_of_forks_are_read_whole(store: Store, database_url: str) -> None:
    written = rows.forks(database_url, 1_200)
    assert chain_ids(store, written[-1]) == written
    sibling = turn(store, written[-2])
    assert chain_ids(store, sibling) == [*written[:-1], sibling]


def test_a_chain_can_be_so_long_and_no_longer(store: Store, database_url: str) -> None:
    written = rows.line(database_url, LONGEST)
    longest = store.responses.chain(OWNER, written[-1])
    assert len(longest.links) == LONGEST
    too_long = turn(store, written[-1])
    assert isinstance(refused(store, too_long), ChainTooLong)
    compaction = turn(store, too_long, compacted=True)
    assert chain_ids(store, compaction) == [compaction]
    with pytest.raises(ChainTooLong, match=str(LONGEST)):
        store.responses.full_chain(OWNER, compaction)


def test_a_damaged_place_is_walked_around(store: Store, database_url: str) -> None:
    turns = line(store, 5)
    rows.execute(database_url, "UPDATE response SET branch = NULL, depth = NULL WHERE id = ?", (turns[2],))
    assert chain_ids(store, turns[-1]) == turns


def test_a_damaged_place_behind_a_compaction_is_walked_around_too(store: Store, database_url: str) -> None:
    first, compaction = turn(store), turn(store, compacted=True)
    turns = [compaction, *line(store, 4, compaction)]
    rows.execute(database_url, "UPDATE response SET branch = NULL, depth = NULL WHERE id = ?", (turns[2],))
    chain = store.responses.chain(OWNER, turns[-1])
    assert [link.id for link in chain.links] == turns
    assert chain.compacted
    assert first not in turns


def test_a_row_that_was_torn_out_is_an_error(store: Store, database_url: str) -> None:
    turns = line(store, 5)
    rows.execute(database_url, "DELETE FROM response WHERE id = ?", (turns[2],))
    assert isinstance(refused(store, turns[-1]), ResponseMissing)


def test_a_circle_of_parents_ends_in_an_error(store: Store, database_url: str) -> None:
    turns = line(store, 3)
    rows.execute(
        database_url,
        "UPDATE response SET parent = (SELECT pk FROM (SELECT pk FROM response WHERE id = ?) AS it) WHERE id = ?",
        (turns[-1], turns[0]),
    )
    assert isinstance(refused(store, turns[-1]), ChainTooLong)


# --- histories that are large ------------------------------------------------------------------------------------


@pytest.fixture
def budget() -> Budget:
    return Budget(1024 * 1024)


@pytest.fixture
def counting(database_url: str, budget: Budget) -> Iterator[Store]:
    store = Store(database_url, peppers=[PEPPER], budget=budget)
    store.schema.upgrade()
    yield store
    store.close()


def test_a_history_for_which_there_is_no_room_is_not_read(counting: Store, budget: Budget) -> None:
    record = line(counting, 3, says="a" * 400_000)
    with pytest.raises(PayloadTooLarge):
        counting.responses.chain(OWNER, record[2])
    budget.take(budget.limit - 500_000, 0)
    with pytest.raises(Overloaded):
        counting.responses.chain(OWNER, record[1])
    before = budget.taken
    assert len(counting.responses.chain(OWNER, record[0]).links) == 1
    assert budget.taken == before
    # No statement is left open on the connection.
    assert len(counting.responses.chain(OWNER, turn(counting, record[0])).links) == 2
