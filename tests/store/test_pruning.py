from __future__ import annotations

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from app.errors import ConfigurationError
from app.store.errors import ResponseMissing
from app.store.pruning import WINDOW, Pruned
from app.store.store import Store
from tests.store import rows
from tests.store.turns import OWNER, chain_ids, draft, line, outcome, turn

DAY = 86_400
SETTINGS = b'{"instructions":"be kind"}'


def month_ago() -> int:
    return int(time.time()) - 30 * DAY


def prune(store: Store) -> Pruned:
    """All of it; what was removed."""
    (last,) = deque(store.maintenance.prune(month_ago()), maxlen=1)
    assert last.share == 1.0
    return last


def test_expired_content_is_deleted_without_a_trace(store: Store, database_url: str) -> None:
    old = line(store, 4, settings=SETTINGS, item_ids=("msg_1",), input=b'[{"id":"msg_1"}]')
    old += line(store, 2, old[1])
    rows.age(database_url, old, 40)
    assert store.maintenance.prunable(month_ago()) == prune(store) == Pruned(responses=6, share=1.0)
    for table in ("response", "content", "item", "setting", "branch"):
        assert rows.count(database_url, table) == 0, table
    with pytest.raises(ResponseMissing):
        store.responses.chain(OWNER, old[0])
    assert prune(store) == Pruned(share=1.0)


def test_a_young_response_keeps_all_that_it_came_from(store: Store, database_url: str) -> None:
    trunk = line(store, 5)
    young = line(store, 2, trunk[2])
    rows.age(database_url, [*trunk, young[0]], 40)
    assert store.maintenance.prunable(month_ago()) == prune(store) == Pruned(responses=2, share=1.0)
    assert chain_ids(store, young[-1]) == [*trunk[:3], *young]
    assert [store.responses.read(OWNER, gone) for gone in trunk[3:]] == [None, None]


def test_a_place_that_was_pruned_is_taken_again_by_the_next_child(store: Store, database_url: str) -> None:
    trunk = line(store, 3)
    young = turn(store, trunk[1])
    rows.age(database_url, trunk, 40)
    prune(store)
    next_one = turn(store, trunk[1])
    assert chain_ids(store, next_one) == [*trunk[:2], next_one]
    assert chain_ids(store, young) == [*trunk[:2], young]


def test_history_behind_a_compaction_stays_as_long_as_its_successors(store: Store, database_url: str) -> None:
    before = line(store, 3)
    compaction = turn(store, before[-1], compacted=True)
    young = turn(store, compaction)
    rows.age(database_url, [*before, compaction], 40)
    assert prune(store).responses == 0
    assert [link.id for link in store.responses.full_chain(OWNER, young).links] == [*before, compaction, young]


def test_a_tombstone_stays_while_a_chain_leads_over_it(store: Store, database_url: str) -> None:
    turns = line(store, 3)
    lonely = turn(store)
    store.responses.delete(OWNER, turns[1])
    store.responses.delete(OWNER, lonely)
    rows.age(database_url, [*turns[:2], lonely], 40)
    assert prune(store) == Pruned(records=1, share=1.0)
    with pytest.raises(ResponseMissing, match=turns[1]):
        store.responses.chain(OWNER, turns[2])
    rows.age(database_url, turns[2:], 40)
    assert prune(store) == Pruned(responses=2, records=1, share=1.0)
    assert rows.count(database_url, "response") == 0


def test_metadata_goes_as_well_and_the_sums_stay(store: Store, database_url: str) -> None:
    unkept, failed = draft(stored=False), turn(store, status="failed")
    assert store.responses.finish(unkept, outcome())
    rows.age(database_url, [unkept.id, failed], 40)
    assert prune(store) == Pruned(responses=1, records=1, share=1.0)
    assert rows.count(database_url, "response") == 0
    assert store.usage.since("2000-01-01")[0]["requests"] == 2


def test_a_response_in_progress_is_never_past_its_age(store: Store, database_url: str) -> None:
    parent = turn(store)
    begun = draft(parent)
    store.responses.begin(begun)
    rows.age(database_url, [parent, begun.id], 40)
    assert prune(store).responses == 0
    assert store.responses.finish(begun, outcome())
    assert chain_ids(store, begun.id) == [parent, begun.id]


def test_a_continued_response_counts_as_new(store: Store, database_url: str) -> None:
    turns = line(store, 3)
    rows.age(database_url, turns, 40)
    assert chain_ids(store, turns[1]) == turns[:2]
    assert prune(store).responses == 1
    late = turn(store, turns[1])
    assert chain_ids(store, late) == [*turns[:2], late]


def test_settings_that_a_younger_response_shares_stay(store: Store, database_url: str) -> None:
    old, young = turn(store, settings=SETTINGS), turn(store, settings=SETTINGS)
    rows.age(database_url, [old], 40)
    prune(store)
    stored = store.responses.read(OWNER, young)
    assert stored is not None
    assert stored.settings == SETTINGS


def test_the_next_run_sweeps_up_after_an_interrupted_one(store: Store, database_url: str) -> None:
    rows.execute(database_url, "INSERT INTO branch (pk, parent, fork) VALUES (7, NULL, NULL)")
    rows.execute(database_url, "INSERT INTO branch (pk, parent, fork) VALUES (8, 7, 1)")
    rows.execute(database_url, "INSERT INTO setting (owner, sha256, json) VALUES ('ada', 'x', '{}')")
    prune(store)
    assert (rows.count(database_url, "branch"), rows.count(database_url, "setting")) == (0, 0)


def test_children_with_lower_keys_than_their_parent_are_seen(store: Store, database_url: str) -> None:
    parent, child = line(store, 2)
    rows.age(database_url, [parent], 40)
    rows.execute(database_url, "UPDATE response SET pk = 0 - pk WHERE id = ?", (child,))
    rows.execute(database_url, "UPDATE content SET response = 0 - response WHERE response = 2")
    assert prune(store).responses == 0
    assert chain_ids(store, child) == [parent, child]


def test_a_token_has_a_shorter_age_of_its_own(store: Store, database_url: str) -> None:
    week, year, revoked = (
        store.tokens.create(name, OWNER, retention=days * DAY)[0].key
        for name, days in (("week", 7), ("year", 365), ("revoked", 7))
    )
    store.tokens.revoke("revoked")
    young = {name: turn(store, token=key) for name, key in (("week", week), ("year", year), ("revoked", revoked))}
    young["none"] = turn(store)
    rows.age(database_url, list(young.values()), 8)
    old = [turn(store, token=key) for key in (week, year)]
    rows.age(database_url, old, 40)
    assert store.maintenance.prunable(month_ago()) == prune(store) == Pruned(responses=4, share=1.0)
    left = [name for name, response_id in young.items() if store.responses.read(OWNER, response_id)]
    assert left == ["year", "none"]


def test_a_shorter_age_breaks_no_chain_that_another_token_continues(store: Store, database_url: str) -> None:
    week = store.tokens.create("week", OWNER, retention=7 * DAY)[0].key
    parents = line(store, 2, token=week)
    child = turn(store, parents[-1])
    lonely = turn(store, parents[0], token=week)
    rows.age(database_url, [*parents, child, lonely], 8)
    assert prune(store).responses == 1
    assert chain_ids(store, child) == [*parents, child]
    assert store.responses.read(OWNER, lonely) is None


def test_nothing_younger_than_a_day_is_pruned(store: Store) -> None:
    with pytest.raises(ConfigurationError, match="younger than a day"):
        next(store.maintenance.prune(int(time.time()) - DAY + 60))
    with pytest.raises(ConfigurationError, match="younger than a day"):
        store.maintenance.prunable(int(time.time()))


def test_a_long_line_goes_in_many_steps(store: Store, database_url: str) -> None:
    length = 2 * WINDOW + 10
    rows.line(database_url, length)
    shares = [step.share for step in store.maintenance.prune(month_ago())]
    assert shares == sorted(shares)
    assert len(shares) == 4
    assert rows.count(database_url, "response") == 0


def test_writers_and_readers_go_on_meanwhile_and_no_chain_of_theirs_is_broken(store: Store, database_url: str) -> None:
    old = [line(store, 6, settings=b'{"instructions":"%d"}' % number) for number in range(60)]
    rows.execute(database_url, "UPDATE response SET created_at = created_at - ?", (40 * DAY,))
    done = Event()

    def write(worker: int) -> list[list[str]]:
        written: list[list[str]] = []
        for conversation in old[worker::3]:
            for parent in (3, 5):
                try:
                    before = chain_ids(store, conversation[parent])
                except ResponseMissing:
                    continue
                settings = b'{"instructions":"%d"}' % old.index(conversation)
                after = line(store, 2, conversation[parent], settings=settings)
                written.append([*before, *after])
            if done.is_set():
                break
        return written

    with ThreadPoolExecutor(3) as threads:
        writing = [threads.submit(write, worker) for worker in range(3)]
        for _ in range(3):
            prune(store)
        done.set()
        written = [chain for future in writing for chain in future.result()]
    prune(store)
    for chain in written:
        assert chain_ids(store, chain[-1]) == chain
        for response_id in chain[-2:]:
            stored = store.responses.read(OWNER, response_id)
            assert stored is not None
            assert stored.settings != b"{}"
    living = {response_id for chain in written for response_id in chain}
    assert rows.count(database_url, "response") == len(living)
    assert rows.count(database_url, "content") == len(living)
