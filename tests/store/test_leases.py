from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import orjson
import pymysql

from app.contract.records import ChannelStatus
from app.contract.usage import Usage
from app.store.store import Store
from tests.databases import Server
from tests.relay.conftest import eventually
from tests.store import rows
from tests.store.turns import OWNER, draft, outcome, turn


def test_rows_of_a_dead_worker_have_failed(store: Store, database_url: str) -> None:
    dead = Store(database_url, peppers=[b"p"])
    left, alive, done = draft(), draft(), turn(store)
    dead.responses.begin(left)
    store.responses.begin(alive)
    assert store.reaper.reap() == 0
    rows.execute(
        database_url,
        "UPDATE worker SET lease_until = 1 WHERE pk = (SELECT worker FROM response WHERE id = ?)",
        (left.id,),
    )
    assert store.reaper.reap() == 1
    assert store.reaper.reap() == 0
    failed = store.responses.read(OWNER, left.id)
    assert failed is not None
    assert failed.error is not None
    assert (failed.status, failed.error["code"]) == ("failed", "gateway_interrupted")
    assert failed.input == left.input
    assert [store.responses.read(OWNER, it).status for it in (alive.id, done)] == ["in_progress", "completed"]  # type: ignore[union-attr]
    assert not dead.responses.finish(left, outcome(usage=Usage(output_tokens=4)))
    dead.close()


def test_a_worker_that_says_so_lives_on(store: Store, database_url: str) -> None:
    begun = draft()
    store.responses.begin(begun)
    rows.execute(database_url, "UPDATE worker SET lease_until = 1")
    store.leases.renew()
    assert store.reaper.reap() == 0
    assert store.responses.finish(begun, outcome())


def test_a_worker_has_one_row(store: Store, database_url: str) -> None:
    store.leases.renew()
    for _ in range(3):
        store.responses.begin(draft())
    store.leases.renew()
    assert rows.execute(database_url, "SELECT COUNT(*), COUNT(DISTINCT name) FROM worker") == [(1, 1)]


def test_a_workers_row_may_be_written_by_two_of_its_threads_at_once(mariadb: Server) -> None:
    """The first renewal of a lease meets the first responses of a worker."""
    mariadb.run("CREATE DATABASE together")
    url = mariadb.url("together")
    store, writes = Store(url, peppers=[b"p"]), ThreadPoolExecutor(2)
    store.schema.upgrade()
    store.leases.renew()
    name, started, until = rows.execute(url, "SELECT name, started, lease_until FROM worker")[0]
    for write in (store.leases.renew, lambda: store.responses.begin(draft())):
        rows.execute(url, "DELETE FROM worker")
        with pymysql.connect(host="127.0.0.1", port=mariadb.port, user="root", database="together") as other:
            row = "INSERT INTO worker (name, started, lease_until) VALUES (%s, %s, %s)"
            other.cursor().execute(row, (name, started, until))
            writing = writes.submit(write)
            eventually(mariadb.waits_for_a_lock, "the other thread to wait for the row")
            other.commit()
        writing.result()
    assert rows.execute(url, "SELECT name FROM worker") == [(name,)]
    store.close()
    writes.shutdown()
    mariadb.run("DROP DATABASE together")


def test_live_workers_report_their_channels(store: Store, database_url: str) -> None:
    other = Store(database_url, peppers=[b"p"])
    full = ChannelStatus("a", in_flight=3, path="bytes")
    cooling = ChannelStatus("a", cooldowns=1, cooldown_left=300.0, half_open=True, last_error="upstream_error")
    store.leases.renew([ChannelStatus("a"), ChannelStatus("b")])
    store.leases.renew([full])
    other.leases.renew([cooling])
    assert {status.channels for status in store.leases.statuses()} == {(full,), (cooling,)}
    other.leases.end()
    other.close()
    assert [status.channels for status in store.leases.statuses()] == [(full,)]
    rows.execute(database_url, "UPDATE worker SET lease_until = 1")
    assert store.leases.statuses() == []


def test_a_cooldown_runs_on_without_a_new_report(store: Store, database_url: str) -> None:
    store.leases.renew([ChannelStatus("a", cooldown_left=300.0), ChannelStatus("b", cooldown_left=50.0)])
    rows.execute(database_url, "UPDATE worker SET status_at = status_at - 100")
    (status,) = store.leases.statuses()
    long, short = status.channels
    assert 100 <= status.age <= 130
    assert 170 <= long.cooldown_left <= 200
    assert short.cooldown_left == 0


def test_a_cooldown_is_noted_in_the_sums_of_its_five_minutes(store: Store, database_url: str) -> None:
    store.leases.renew([ChannelStatus("a", cooldown_left=300.0), ChannelStatus("b")])
    other = Store(database_url, peppers=[b"p"])
    other.leases.renew([ChannelStatus("a", cooldown_left=0.5), ChannelStatus("c", cooldown_left=0.5)])
    other.close()
    noted: Counter[str] = Counter()
    for row in store.usage.slots(0):
        assert row["requests"] == 0
        noted[row["channel"]] += row["cooldowns"]
    assert noted == {"a": 2, "c": 1}


def test_a_status_is_stored_under_the_names_that_earlier_versions_read(store: Store, database_url: str) -> None:
    status = ChannelStatus("a", cooldowns=2, cooldown_left=300.0, half_open=True)
    store.leases.renew([status])
    ((text,),) = rows.execute(database_url, "SELECT status FROM worker")
    (channel,) = orjson.loads(text)["channels"]
    assert (channel["rests"], channel["resting"], channel["on_trial"]) == (2, 300.0, True)
    assert "cooldown_left" not in channel
    assert store.leases.statuses()[0].channels == (status,)


def test_a_worker_of_another_version_may_report_more(store: Store, database_url: str) -> None:
    store.leases.renew([ChannelStatus("a", path="repaired")])
    text = orjson.dumps([{"name": "a", "path": "repaired", "mood": "good"}]).decode()
    rows.execute(database_url, "UPDATE worker SET status = ?", (text,))
    assert store.leases.statuses()[0].channels == (ChannelStatus("a", path="repaired"),)


def test_rows_that_an_ended_worker_left_behind_have_failed(store: Store, database_url: str) -> None:
    ending, left = Store(database_url, peppers=[b"p"]), draft()
    ending.responses.begin(left)
    ending.leases.end()
    ending.close()
    assert store.reaper.reap() == 1
