"""A claim of a background response that takes its time, while the keeper of leases looks at what runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from app.gateway import Gateway, build
from app.last_good import LastGood
from app.relay.request_context import RequestContext
from app.schemas.create import read_create
from app.settings import Settings
from app.store.store import Store
from tests.databases import Server
from tests.relay.conftest import eventually

TABLE = "version: 1\nchannels:\n  - {name: demo, format: demo, models: [demo]}\n"


@pytest.fixture
def process(tmp_path: Path, mariadb: Server) -> Iterator[Gateway]:
    """The parts of one process on MariaDB, as they are put together; nothing in it runs by itself."""
    mariadb.run("CREATE DATABASE claims")
    url = mariadb.url("claims")
    store = Store(url, peppers=[b"p"])
    store.schema.upgrade()
    store.close()
    table = tmp_path / "channels.yaml"
    table.write_text(TABLE)
    gateway = build(LastGood.of(Settings(channels=table, database_url=url, secret_key="s" * 43, lease=4)))
    yield gateway
    gateway.close()
    mariadb.run("DROP DATABASE claims")


def test_a_run_is_not_taken_for_ended_elsewhere_while_its_claim_commits(process: Gateway, mariadb: Server) -> None:
    token, _ = process.store.tokens.create("laptop", "ada")
    request = read_create({"model": "demo", "input": "hello", "background": True})
    response_id = process.background.create(token, request, RequestContext(""))["id"]
    run = threading.Thread(target=process.background.run, args=(response_id,))
    with pymysql.connect(host="127.0.0.1", port=mariadb.port, user="root", database="claims") as other:
        cursor = other.cursor()
        cursor.execute("SELECT pk FROM response WHERE id = %s FOR UPDATE", (response_id,))
        run.start()
        eventually(mariadb.waits_for_a_lock, "the claim to wait for the row")
        process.lease_keeper.stop_ended()
        other.rollback()
    run.join()
    ended = process.store.responses.read("ada", response_id)
    assert ended is not None
    assert (ended.status, ended.error) == ("completed", None)
