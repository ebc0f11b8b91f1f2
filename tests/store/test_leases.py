from __future__ import annotations

from app.records import Usage
from app.store import Store
from tests.store import rows
from tests.store.turns import OWNER, draft, outcome, turn


def test_what_a_dead_worker_left_behind_has_failed(store: Store, database_url: str) -> None:
    dead = Store(database_url, peppers=[b"p"])
    left, alive, done = draft(), draft(), turn(store)
    dead.begin(left)
    store.begin(alive)
    assert store.reap() == 0
    rows.execute(
        database_url,
        "UPDATE worker SET lease_until = 1 WHERE pk = (SELECT worker FROM response WHERE id = ?)",
        (left.id,),
    )
    assert store.reap() == 1
    assert store.reap() == 0
    failed = store.response(OWNER, left.id)
    assert failed is not None
    assert failed.error is not None
    assert (failed.status, failed.error["code"]) == ("failed", "gateway_interrupted")
    assert failed.input == left.input
    assert [store.response(OWNER, it).status for it in (alive.id, done)] == ["in_progress", "completed"]  # type: ignore[union-attr]
    assert not dead.finish(left, outcome(usage=Usage(output_tokens=4)))
    dead.close()


def test_a_worker_that_says_so_lives_on(store: Store, database_url: str) -> None:
    begun = draft()
    store.begin(begun)
    rows.execute(database_url, "UPDATE worker SET lease_until = 1")
    store.renew_lease()
    assert store.reap() == 0
    assert store.finish(begun, outcome())


def test_a_worker_has_one_row(store: Store, database_url: str) -> None:
    store.renew_lease()
    for _ in range(3):
        store.begin(draft())
    store.renew_lease()
    assert rows.execute(database_url, "SELECT COUNT(*), COUNT(DISTINCT name) FROM worker") == [(1, 1)]
