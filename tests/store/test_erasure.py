from __future__ import annotations

import random
from contextlib import closing
from functools import reduce
from operator import add
from pathlib import Path

import pytest

from app import ids
from app.contract.records import Conversation, ConversationTurn, EventBatch
from app.store import erasure
from app.store.erasure import Owned
from app.store.store import Store
from tests import stored_data
from tests.store import rows
from tests.store.conftest import PEPPER
from tests.store.turns import chain_ids, draft, line, outcome, turn

OWNER, OTHER, PSEUDONYM = "ada", "bob", "erased-1"


@pytest.fixture
def several_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "WINDOW", 3)
    monkeypatch.setattr(erasure, "SCANNED", 5)


def erase(store: Store, owner: str = OWNER) -> Owned:
    """All of it; what was removed."""
    store.maintenance.revoke_all(owner)
    return reduce(add, store.maintenance.erase(owner, PSEUDONYM), Owned())


@pytest.mark.usefixtures("several_windows")
def test_it_removes_the_rows_of_one_owner_and_of_no_other(store: Store, database_url: str) -> None:
    token, secret = store.tokens.create("laptop", OWNER, models=["small"])
    kept = line(store, 4, owner=OTHER, settings=b'{"instructions":"be kind"}')
    for _ in range(4):
        line(store, 3, token=token.key, settings=b'{"instructions":"be kind"}', says="secret")
    for owner in (OWNER, OTHER):
        first = ConversationTurn(created_at=1, input=b'[{"type":"message"}]')
        store.conversations.create(owner, Conversation(ids.new("conv"), 1), first)
    owned = store.maintenance.owned(OWNER)
    assert owned == Owned(tokens=1, responses=12, conversations=1)
    assert erase(store) == owned
    assert store.maintenance.owned(OWNER) == Owned()
    assert store.maintenance.owned(OTHER) == Owned(responses=4, conversations=1)
    assert chain_ids(store, kept[-1], OTHER) == kept
    assert not any(b"secret" in value or value == OWNER.encode() for value in stored_data.values(database_url))
    assert store.tokens.check(secret) is None
    assert [(known.owner, known.models, known.revoked_at is None) for known in store.tokens.all()] == [
        (PSEUDONYM, (), False)
    ]
    assert sum(row["requests"] for row in store.usage.since("2000-01-01")) == 16


def test_a_response_that_is_being_made_is_cancelled_and_its_worker_writes_nothing_more(
    store: Store, database_url: str
) -> None:
    streamed, queued = draft(says="secret", streamed=True), draft(says="secret", background=True)
    store.responses.begin(streamed)
    store.jobs.enqueue(queued, b'{"input":"secret"}', EventBatch(0, 0, b"secret"), lambda _: None)
    assert erase(store) == Owned(responses=2, running=2)
    assert not store.responses.finish(streamed, outcome(says="secret"))
    assert store.jobs.claim(queued.id) is None
    assert not store.events.append(streamed.id, EventBatch(1, 1, b"secret"))
    assert not any(b"secret" in value or value == OWNER.encode() for value in stored_data.values(database_url))
    assert rows.execute(database_url, "SELECT DISTINCT owner, status FROM response") == [(PSEUDONYM, "cancelled")]


def test_an_erasure_that_broke_off_is_repeated(store: Store, database_url: str) -> None:
    store.tokens.create("laptop", OWNER)
    line(store, 3)
    store.maintenance.revoke_all(OWNER)
    next(store.maintenance.erase(OWNER, PSEUDONYM))
    assert erase(store) == Owned(tokens=1)
    assert rows.count(database_url, "content") == 0


def test_a_response_that_was_written_meanwhile_is_found_by_the_next_pass(store: Store) -> None:
    turn(store)
    steps = store.maintenance.erase(OWNER, PSEUDONYM)
    next(steps)
    late = turn(store)
    removed = reduce(add, steps, Owned())
    assert erase(store) + removed == Owned(responses=1)
    assert store.responses.read(OWNER, late) is None


def test_no_page_of_sqlites_files_keeps_a_copy(tmp_path: Path) -> None:
    """Turns of many sizes, so that rows move from page to page and leave copies in the free parts."""
    url, sizes = f"sqlite:///{tmp_path}/antiphon.db", random.Random(7)
    with closing(Store(url, peppers=[PEPPER])) as store:
        store.schema.upgrade()
        for number in range(300):
            owner, word = ("quokka", "secret") if number % 2 else (OTHER, "harmless")
            begun = draft(owner=owner, says=word * sizes.randrange(1, 600), streamed=True)
            store.responses.begin(begun)
            store.responses.finish(begun, outcome(says=word * sizes.randrange(1, 1500)))
        with closing(Store(url, peppers=[PEPPER])) as reader:
            assert reader.maintenance.stats()["rows"]["response"] == 300
            assert erase(store, "quokka") == Owned(responses=150)
            assert store.maintenance.scrub()
            files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert files.keys() == {"antiphon.db", "antiphon.db-wal", "antiphon.db-shm"}
    assert files["antiphon.db-wal"] == b""
    assert not any(b"hushhush" in content or b"quokka" in content for content in files.values())
    assert b"harmless" in files["antiphon.db"]
