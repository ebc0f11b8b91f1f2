"""A database that takes no writes while responses end: acknowledged ends are stored when it is back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from app.gateway import Gateway as Parts
from app.gateway import build
from app.last_good import LastGood
from app.settings import Settings
from app.store.store import Store
from tests.gateway import Gateway, portions
from tests.outages import outage
from tests.relay.conftest import SOME_TEXT, check_failed_stream, eventually, read_until, response_id_in, text_of
from tests.response_contract import check_error, check_response
from tests.store import rows
from tests.store.turns import OWNER, draft, outcome
from tests.upstream import ScriptedUpstream, silent, stalled
from tests.websocket_client import Socket

JSON = dict[str, Any]
BODY = {"model": "m", "input": "Say something"}
KEY = {"Idempotency-Key": "of one request"}


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, model: ScriptedUpstream, module_database_url: str
) -> Iterator[Gateway]:
    """Its leases are long: nothing here is the work of the reaper."""
    rows = [model.channel(cooldown={"after": 1000})]
    folder = tmp_path_factory.mktemp("outages")
    with Gateway(folder, rows, database_url=module_database_url, worker_processes=1, lease=600) as gateway:
        yield gateway


class Asking(threading.Thread):
    """A request whose answer is not waited for here."""

    def __init__(self, gateway: Gateway, body: JSON, headers: JSON) -> None:
        super().__init__(daemon=True)
        self._request = (f"{gateway.base_url}/responses", body, {"Authorization": f"Bearer {gateway.token}", **headers})
        self.answer = requests.Response()

    def run(self) -> None:
        url, body, headers = self._request
        self.answer = requests.post(url, json=body, headers=headers, timeout=60, proxies={"http": ""})


def test_however_a_response_ends_in_an_outage_its_row_ends_so_when_the_database_is_back(
    gateway: Gateway, model: ScriptedUpstream
) -> None:
    model.reset()
    conversation = gateway.post("/conversations", {}).json()["id"]
    model.enqueue(stalled(SOME_TEXT), times=5)
    model.enqueue(silent())
    heads = [read_head(gateway.stream({**BODY, **more})) for more in ({}, {"conversation": conversation})]
    with Socket(gateway) as sock, gateway.dial({**BODY, "stream": True}) as leaving:
        left = response_id_in(read_until(leaving, b"output_text.delta"))
        sock.ask()
        background = gateway.post("/responses", {**BODY, "background": True}).json()["id"]
        eventually(lambda: len(model.bodies) == 5, "the background response to run")
        json = Asking(gateway, BODY, KEY)
        json.start()
        eventually(lambda: len(model.bodies) == 6, "the request to wait for its answer")
        with outage(gateway.database_url):
            leaving.close()
            model.release(6)
            endings = [check_failed_stream(head + b"".join(rest), "storage_unavailable")[-1] for head, rest in heads]
            endings.append(sock.rest()[-1])
            json.join()
            gateway.wait_for_log("is stored as cancelled by a later retry")
    check_error(json.answer, 503, "storage_unavailable")
    for failed in (event["response"] for event in endings):
        stored = eventually(lambda failed=failed: ended(gateway, failed["id"]), "the row to end")
        assert stored == failed
        assert text_of(stored).endswith("I have seen 1 items.")
        refused = gateway.post("/responses", {**BODY, "previous_response_id": failed["id"]})
        check_error(refused, 400, "previous_response_failed")
    stored = eventually(lambda: ended(gateway, left), "the row of the client that left to end")
    check_response(stored, status="cancelled")
    assert text_of(stored)
    assert eventually(lambda: ended(gateway, background), "the background response")["status"] == "completed"
    assert gateway.get(f"/conversations/{conversation}/items").json()["data"] == []
    assert gateway.post("/responses", {**BODY, "conversation": conversation}).status_code == 200
    # The request that was refused left its key free and a line of metadata.
    assert gateway.post("/responses", BODY, headers=KEY).status_code == 200
    sql = "SELECT COUNT(*) FROM response WHERE status = 'failed' AND kept = 0"
    assert rows.execute(gateway.database_url, sql) == [(1,)]


def read_head(stream: requests.Response) -> tuple[bytes, Iterator[bytes]]:
    pieces, head = portions(stream), b""
    while b"output_text.delta" not in head:
        head += next(pieces)
    return head, pieces


def ended(gateway: Gateway, response_id: str) -> JSON | None:
    response: JSON = gateway.get(f"/responses/{response_id}").json()
    return None if response["status"] in ("queued", "in_progress") else response


# --- the keeper of leases ---------------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """The parts of one process, as they are put together; its keeper is at work."""
    url = f"sqlite:///{tmp_path}/antiphon.db"
    store = Store(url, peppers=[b"p"])
    store.schema.upgrade()
    store.close()
    table = tmp_path / "channels.yaml"
    table.write_text("version: 1\nchannels:\n  - {name: demo, format: demo, models: [demo]}\n")
    parts = build(LastGood.of(Settings(channels=table, database_url=url, secret_key="s" * 43, lease=4)))
    parts.lease_keeper.start()
    yield parts
    parts.close()


def test_a_worker_that_ends_tries_once_more(parts: Parts) -> None:
    begun, end = draft(), outcome("failed", error={"code": "storage_unavailable", "message": "It was away."})
    parts.store.responses.begin(begun)
    parts.store.responses.finish_later(begun, end)
    parts.close()
    reader = Store(parts.settings.database_url, peppers=[b"p"])
    found = reader.responses.read(OWNER, begun.id)
    reader.close()
    assert found is not None
    assert (found.status, found.output) == ("failed", end.output)


def test_after_an_outage_the_others_have_time_to_renew_their_leases(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    url, begun = parts.settings.database_url, draft()
    other = Store(url, peppers=[b"p"])
    other.responses.begin(begun)
    renewals = "SELECT lease_until FROM worker WHERE status IS NOT NULL"
    before = eventually(lambda: rows.execute(url, renewals), "a renewal")
    with outage(url):
        eventually(lambda: "could not be renewed" in caplog.text, "a renewal that fails")
    rows.execute(url, "UPDATE worker SET lease_until = 1 WHERE status IS NULL")
    for _ in range(2):
        before = eventually(lambda last=before: (now := rows.execute(url, renewals)) != last and now, "a renewal")
    assert other.reaper.running() == {begun.id}
    assert other.responses.finish(begun, outcome())
    other.close()
