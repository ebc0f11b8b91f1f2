"""Workers of two versions on one database: each reads the rows that the other writes.

`data/running_9.sql` is the dump of a database while the last version before names changed was running: with one stream
in progress, two queued background responses, a channel in cooldown and one half-open. `data/running_9.json` holds the
requests and answers of its clients.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.sealing import Seal
from app.settings import read_settings
from tests.gateway import Gateway, portions
from tests.relay.conftest import eventually
from tests.sse_reader import follow
from tests.stored_data import select
from tests.upstream import ScriptedUpstream, refusal, stalled

JSON = dict[str, Any]
DATA = Path(__file__).parent / "data"
OLD: JSON = orjson.loads((DATA / "running_9.json").read_bytes())
OWNER, OLD_WORKER, DEAD_WORKER = "tests", "old:30425:d10a089e", "old:1:dead"
BROKEN = {"after": 1, "for": "300s"}

pytestmark = pytest.mark.sqlite


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(autouse=True)
def fresh_upstream(upstream: ScriptedUpstream) -> Iterator[None]:
    """No test leaves its script to the next one."""
    yield
    upstream.reset()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedUpstream) -> Iterator[Gateway]:
    """A worker of this version on the database of an old one, whose lease holds for an hour."""
    directory = tmp_path_factory.mktemp("mixed")
    with sqlite3.connect(directory / "antiphon.db") as database:
        database.executescript((DATA / "running_9.sql").read_text())
        database.execute("UPDATE worker SET lease_until = unixepoch() + 3600, status_at = unixepoch()")
        database.execute("UPDATE claim SET created_at = unixepoch()")
    database.close()
    channels = [
        upstream.channel("works", models=["m"]),
        *(upstream.channel(name, models=[name], cooldown=dict(BROKEN)) for name in ("tired", "half", "broken")),
    ]
    gateway = Gateway(directory, channels, secret_key=OLD["secret_key"])
    gateway.token = OLD["token"]
    # The steps since then are additive: the old workers go on while the operator upgrades.
    gateway.command("db", "upgrade")
    with gateway:
        yield gateway


def old_rows(sql: str) -> list[JSON]:
    """Rows as the old worker has written them."""
    database = sqlite3.connect(":memory:")
    database.row_factory = sqlite3.Row
    try:
        database.executescript((DATA / "running_9.sql").read_text())
        return [dict(row) for row in database.execute(sql)]
    finally:
        database.close()


def shape(value: Any) -> Any:
    """The names and types of the members. A list has the shape of its first element."""
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [shape(element) for element in value[:1]]
    return type(value).__name__


def opened(purpose: str, owner: str, text: str, directory: Path) -> JSON:
    environment = {"ANTIPHON_SECRET_KEY": OLD["secret_key"], "ANTIPHON_DATABASE_URL": f"sqlite:///{directory}/a.db"}
    seal = Seal(purpose, read_settings(environment, directory).keys_for(purpose))
    return dict(orjson.loads(seal.open(owner, text)))


# --- the state of channels --------------------------------------------------------------------------------------


def listed(gateway: Gateway) -> dict[str, JSON]:
    return {row["name"]: row for row in orjson.loads(gateway.command("channels", "list", "--json"))["channels"]}


def test_the_state_that_an_old_worker_reports_is_shown(mixed: Gateway) -> None:
    states = listed(mixed)
    assert (states["tired"]["state"], states["half"]["state"]) == ("resting", "on trial")
    assert (states["tired"]["last_error"], states["works"]["in_flight"]) == ("upstream_error", 1)
    assert 0 < states["tired"]["resting_seconds"] <= 300


def reported(gateway: Gateway, name: str) -> tuple[JSON, JSON] | None:
    """The status of a channel and the server, in the newest report of a worker of this version, after a failure."""
    sql = "SELECT status FROM worker WHERE name NOT IN (?, ?) AND status IS NOT NULL"
    for row in select(gateway.database_url, sql, (OLD_WORKER, DEAD_WORKER)):
        report = orjson.loads(row["status"])
        for status in report["channels"]:
            if (status["name"], status["last_error"]) == (name, "upstream_error"):
                return status, report["server"]
    return None


def test_an_old_worker_finds_every_member_in_a_report(mixed: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(refusal(500, "broken"))
    assert mixed.post("/responses", {"model": "broken", "input": "x"}).status_code == 502
    new, new_server = eventually(lambda: reported(mixed, "broken"), "a report of the failure")
    (row,) = old_rows("SELECT status FROM worker")
    old = orjson.loads(row["status"])
    (tired,) = (status for status in old["channels"] if status["name"] == "tired")
    assert shape(tired).items() <= shape(new).items()
    assert (new["rests"], new["on_trial"], new["resting"] > 200) == (1, True, True)
    assert shape(old["server"]).items() <= shape(new_server).items()
    # Equal fingerprints: `antiphon doctor` of either version finds that both have the same secret key.
    assert new_server["secret_key"] == old["server"]["secret_key"]


# --- leases -----------------------------------------------------------------------------------------------------


def test_only_responses_of_dead_workers_are_failed(mixed: Gateway) -> None:
    running = OLD["running"]["id"]
    assert mixed.get(f"/responses/{running}").json()["status"] == "in_progress"
    dead = mixed.post("/responses", {"model": "m", "input": "of a dead worker"}).json()["id"]
    with sqlite3.connect(mixed.directory / "antiphon.db", timeout=10) as database:
        database.execute("INSERT INTO worker (name, started, lease_until) VALUES (?, 1, 1)", (DEAD_WORKER,))
        database.execute(
            "UPDATE response SET status = 'in_progress', worker = (SELECT pk FROM worker WHERE name = ?) WHERE id = ?",
            (DEAD_WORKER, dead),
        )
    database.close()
    eventually(lambda: mixed.get(f"/responses/{dead}").json()["status"] == "failed", "the failure")
    assert mixed.get(f"/responses/{running}").json()["status"] == "in_progress"


def test_an_old_worker_finds_the_lease_of_a_new_one(mixed: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.always(stalled(after=6))
    with mixed.stream({"model": "m", "input": "A long one."}) as answer:
        events = follow(portions(answer))
        response_id = orjson.loads(next(events).data)["response"]["id"]
        sql = "SELECT {} FROM response r JOIN worker w ON w.pk = r.worker WHERE r.id = '{}' AND w.lease_until > {}"
        columns = "w.*, r.status AS response_status"
        (old,) = old_rows(sql.format(columns, OLD["running"]["id"], 0))
        (new,) = eventually(
            # A worker reports its state with its first tick.
            lambda: [
                row
                for row in select(mixed.database_url, sql.format(columns, response_id, "unixepoch()"))
                if row["status"] is not None
            ],
            "the worker's first report",
            20,
        )
        assert shape(new) == shape(old)
        assert new["response_status"] == old["response_status"] == "in_progress"
        upstream.always()
        upstream.release()
        assert [event.name for event in events][-2] == "response.completed"


# --- idempotency keys -------------------------------------------------------------------------------------------


def test_a_key_of_an_old_worker_gives_its_response(mixed: Gateway) -> None:
    done = OLD["done"]
    again = mixed.post("/responses", done["request"], headers={"Idempotency-Key": done["key"]})
    assert again.json() == done["response"]


def test_a_key_in_use_by_an_old_worker_is_not_run_again(mixed: Gateway, upstream: ScriptedUpstream) -> None:
    running, before = OLD["running"], len(upstream.requests)
    again = mixed.post("/responses", running["request"], headers={"Idempotency-Key": running["key"]})
    assert again.status_code == 409, again.text
    assert len(upstream.requests) == before


def test_an_old_worker_finds_the_key_of_a_new_one(mixed: Gateway) -> None:
    done = OLD["done"]
    (old,) = old_rows(f"SELECT * FROM claim WHERE response = '{done['response']['id']}'")
    made = mixed.post("/responses", done["request"], headers={"Idempotency-Key": "another"}).json()
    (new,) = select(mixed.database_url, "SELECT * FROM claim WHERE response = ?", (made["id"],))
    assert shape(new) == shape(old)
    assert (new["fingerprint"], new["token"]) == (old["fingerprint"], old["token"])
    assert len(new["hash"]) == len(old["hash"])


# --- background responses ---------------------------------------------------------------------------------------


def test_a_new_worker_runs_what_an_old_one_has_queued(mixed: Gateway, upstream: ScriptedUpstream) -> None:
    queued, cancelled = OLD["queued"]["response"]["id"], OLD["cancelled"]["response"]["id"]
    assert mixed.post(f"/responses/{cancelled}/cancel", {}).json()["status"] == "cancelled"
    assert mixed.get(f"/responses/{queued}").json()["status"] == "queued"
    with mixed.worker():
        ended = eventually(
            lambda: (read := mixed.get(f"/responses/{queued}").json())["status"] == "completed" and read, "the end", 30
        )
    assert ended["id"] == queued
    assert ended["previous_response_id"] == OLD["first"]["id"]
    texts = [str(item["content"]) for item in upstream.bodies[-1]["input"]]
    assert ["Ada" in texts[0], "background" in texts[-1]] == [True, True]
    assert not select(mixed.database_url, "SELECT * FROM job")


def test_an_old_worker_can_run_what_a_new_one_queues(mixed: Gateway, tmp_path: Path) -> None:
    request = OLD["queued"]["request"]
    response_id = mixed.post("/responses", request).json()["id"]
    sql = "SELECT h.queue, h.data, h.priority, j.*, r.status, r.worker FROM job j JOIN response r ON r.pk = j.response"
    sql += " JOIN huey_task h ON CAST(h.data AS TEXT) = r.id WHERE r.id = '{}'"
    (old,) = old_rows(sql.format(OLD["queued"]["response"]["id"]))
    (new,) = select(mixed.database_url, sql.format(response_id))
    # A new worker has columns of its own, which an old one does not read.
    assert shape({name: new[name] for name in old}) == shape(old)
    assert (new["queue"], new["data"], new["status"]) == (old["queue"], response_id.encode(), "queued")
    old_request = opened("job", OWNER, old["request"], tmp_path)
    new_request = opened("job", OWNER, new["request"], tmp_path)
    assert shape(old_request) == shape(new_request)
    events = "SELECT e.first, e.last, e.body FROM event e JOIN response r ON r.pk = e.response WHERE r.id = '{}'"
    (old_event,) = old_rows(events.format(OLD["queued"]["response"]["id"]))
    (new_event,) = select(mixed.database_url, events.format(response_id))
    assert shape(new_event) == shape(old_event)
    assert (new_event["first"], new_event["last"]) == (old_event["first"], old_event["last"])
    assert mixed.post(f"/responses/{response_id}/cancel", {}).json()["status"] == "cancelled"


# --- sealed items -----------------------------------------------------------------------------------------------


def test_an_old_worker_opens_the_compaction_of_a_new_one(mixed: Gateway, tmp_path: Path) -> None:
    (old,) = (item for item in OLD["window"]["output"] if item["type"] == "compaction")
    request = {"model": "m", "input": [{"role": "user", "content": "word " * 50}] * 3}
    answer = mixed.post("/responses/compact", request)
    assert answer.status_code == 200, answer.text
    (new,) = (item for item in answer.json()["output"] if item["type"] == "compaction")
    assert new.keys() == old.keys()
    both = [opened("compaction", OWNER, item["encrypted_content"], tmp_path) for item in (old, new)]
    known, written = map(shape, both)
    # An old worker reads what it knows, and no other member.
    assert {name: written[name] for name in known} == known


def test_a_new_worker_opens_the_compaction_of_an_old_one(mixed: Gateway, upstream: ScriptedUpstream) -> None:
    answer = mixed.post(
        "/responses", {"model": "m", "input": [*OLD["window"]["output"], {"role": "user", "content": "And now?"}]}
    )
    assert answer.status_code == 200, answer.text
    assert "This is a summary of the earlier conversation" in str(upstream.bodies[-1]["input"])
