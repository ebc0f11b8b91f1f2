from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from app import ids
from app.contract.records import Claim, Claimed
from app.store import idempotency
from app.store.database import Row
from app.store.store import Store
from tests.databases import Server
from tests.store import rows
from tests.store.conftest import PEPPER
from tests.store.turns import draft, outcome, turn

TOKEN = 7
CLAIM = Claim("key-1", "a" * 64)


def test_the_first_claim_wins_and_the_next_gets_its_holder(store: Store) -> None:
    first = ids.new("resp")
    assert store.idempotency.claim(TOKEN, CLAIM, first) is None
    earlier = store.idempotency.claim(TOKEN, CLAIM, ids.new("resp"))
    assert earlier is not None
    assert (earlier.response, earlier.running, earlier.status) == (first, True, None)


def test_one_of_many_at_once_has_it(store: Store) -> None:
    names = [ids.new("resp") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: store.idempotency.claim(TOKEN, CLAIM, name), names))
    winner = names[found.index(None)]
    assert found.count(None) == 1
    assert {claimed.response for claimed in found if claimed} == {winner}


@pytest.mark.parametrize("change", ["released", "taken over", "taken over, then released"])
def test_a_claim_that_changes_while_it_is_taken_over_is_read_again(
    mariadb: Server, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite has one writer at a time. The failed response of the claim that was read is no answer to a new request."""
    url = mariadb.new_database()
    with closing(Store(url, peppers=[PEPPER])) as store, closing(Store(url, peppers=[PEPPER])) as elsewhere:
        store.schema.upgrade()
        failed, theirs = turn(store, status="cancelled"), ids.new("resp")
        assert store.idempotency.claim(TOKEN, CLAIM, failed) is None
        read = idempotency._claimed

        def meanwhile(row: Row) -> Claimed:
            monkeypatch.setattr(idempotency, "_claimed", read)
            if change == "released":
                elsewhere.idempotency.release(TOKEN, CLAIM, failed)
            else:
                assert elsewhere.idempotency.claim(TOKEN, CLAIM, theirs) is None
                if change.endswith("released"):
                    elsewhere.idempotency.release(TOKEN, CLAIM, theirs)
            return read(row)

        monkeypatch.setattr(idempotency, "_claimed", meanwhile)
        found = store.idempotency.claim(TOKEN, CLAIM, ids.new("resp"))
        if change == "taken over":
            assert found is not None
            assert (found.response, found.running) == (theirs, True)
        else:
            assert found is None


def test_another_token_and_another_key_are_others(store: Store) -> None:
    assert store.idempotency.claim(TOKEN, CLAIM, ids.new("resp")) is None
    assert store.idempotency.claim(TOKEN + 1, CLAIM, ids.new("resp")) is None
    assert store.idempotency.claim(TOKEN, Claim("key-2", CLAIM.fingerprint), ids.new("resp")) is None


def test_a_completed_response_keeps_its_key_and_a_failed_one_releases_it(store: Store) -> None:
    done, failed = turn(store), turn(store, status="failed")
    assert store.idempotency.claim(TOKEN, CLAIM, done) is None
    earlier = store.idempotency.claim(TOKEN, CLAIM, ids.new("resp"))
    assert earlier is not None
    assert (earlier.status, earlier.running) == ("completed", False)
    other = Claim("key-2", CLAIM.fingerprint)
    assert store.idempotency.claim(TOKEN, other, failed) is None
    assert store.idempotency.claim(TOKEN, other, ids.new("resp")) is None


def test_a_dead_workers_key_is_free_and_another_request_is_still_another(store: Store, database_url: str) -> None:
    begun = draft()
    store.responses.begin(begun)
    assert store.idempotency.claim(TOKEN, CLAIM, begun.id) is None
    rows.execute(database_url, "UPDATE worker SET lease_until = 1")
    other = Store(database_url, peppers=[b"p"])
    stranger = other.idempotency.claim(TOKEN, Claim(CLAIM.key, "b" * 64), ids.new("resp"))
    assert stranger is not None
    assert stranger.fingerprint == CLAIM.fingerprint
    assert other.idempotency.claim(TOKEN, CLAIM, ids.new("resp")) is None
    other.close()


def test_a_released_key_and_an_old_one_are_free(store: Store, database_url: str) -> None:
    done = turn(store)
    assert store.idempotency.claim(TOKEN, CLAIM, done) is None
    store.idempotency.release(TOKEN, CLAIM, ids.new("resp"))
    assert store.idempotency.claim(TOKEN, CLAIM, ids.new("resp")) is not None
    store.idempotency.release(TOKEN, CLAIM, done)
    assert store.idempotency.claim(TOKEN, CLAIM, done) is None
    rows.execute(database_url, "UPDATE claim SET created_at = created_at - 90000")
    assert store.idempotency.claim(TOKEN, Claim(CLAIM.key, "b" * 64), ids.new("resp")) is None


def test_pruning_forgets_old_claims(store: Store, database_url: str) -> None:
    assert store.idempotency.claim(TOKEN, CLAIM, ids.new("resp")) is None
    rows.execute(database_url, "UPDATE claim SET created_at = created_at - 90000")
    list(store.maintenance.prune(1))
    assert rows.count(database_url, "claim") == 0


def test_an_unstored_response_keeps_its_key(store: Store) -> None:
    begun = draft(stored=False)
    assert store.idempotency.claim(TOKEN, CLAIM, begun.id) is None
    store.responses.note(begun, outcome())
    store.responses.begin(draft())  # what was written behind has been written when this has
    earlier = store.idempotency.claim(TOKEN, CLAIM, ids.new("resp"))
    assert earlier is not None
    assert (earlier.status, earlier.running) == ("completed", False)


def test_a_form_is_spent_by_one_of_many_and_by_each_token(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        spent = list(pool.map(lambda _: store.idempotency.spend(TOKEN, "form-1"), range(8)))
    assert spent.count(True) == 1
    assert store.idempotency.spend(TOKEN + 1, "form-1")
    assert store.idempotency.spend(TOKEN, "form-2")
    assert not store.idempotency.spend(TOKEN, "form-1")
