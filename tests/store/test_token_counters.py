"""The counters of limited tokens: exact over threads and processes, on each database."""

from __future__ import annotations

import multiprocessing
import time

import pytest

from app.errors import StoreUnavailable
from app.store.store import Store
from app.store.token_counters import (
    UNLIMITED,
    Adjust,
    Amounts,
    Counters,
    Settle,
)
from tests.relay.conftest import eventually
from tests.store import rows
from tests.store.admitting import TOKEN, admit, compete, settle, settlement, use_without_end
from tests.store.conftest import PEPPER

processes = multiprocessing.get_context("spawn")

PROCESSES = 4


#: Seconds of a minute that are enough for a test.
ENOUGH = 10


@pytest.fixture
def _endless(store: Store, database_url: str) -> None:
    """The token's minute, day and month do not end."""
    use_without_end(database_url, TOKEN)


@pytest.fixture
def _early_in_a_minute() -> None:
    eventually(lambda: time.time() % 60 < 60 - ENOUGH, "a minute that does not end while the test runs")


endless = pytest.mark.usefixtures("_endless")
early_in_a_minute = pytest.mark.usefixtures("_early_in_a_minute")


def used(store: Store) -> Counters:
    return store.admissions.use(TOKEN).counters


def turn_back(url: str, seconds: int) -> None:
    """Makes the minute of the token an earlier one, as if that time had passed."""
    rows.execute(url, f"UPDATE token_use SET minute = minute - {seconds}")


@endless
def test_a_turn_reserves_its_estimate_and_settles_what_it_has_used(store: Store) -> None:
    admission = admit(store, tokens=100, micro=30)
    assert admission.admitted
    assert used(store) == Counters(1, 100, 100, 30, 100, 30, 1)
    settle(store, admission, 40, 50)
    assert used(store) == Counters(1, 40, 40, 50, 40, 50, 0)


@endless
def test_an_end_counts_once(store: Store) -> None:
    first, second = admit(store, tokens=10), admit(store, tokens=10)
    for _ in range(3):
        settle(store, first, 4)
    assert used(store) == Counters(2, 14, 14, 0, 14, 0, 1)
    settle(store, second, 0)
    assert used(store).running == 0


@endless
@pytest.mark.parametrize(
    ("name", "limit", "admitted"),
    [
        ("requests", 3, 3),
        ("tokens", 35, 3),
        ("day_tokens", 30, 3),
        ("month_tokens", 39, 3),
        ("day_micro", 21, 3),
        ("month_micro", 20, 2),
        ("running", 2, 2),
    ],
)
def test_a_turn_is_refused_that_would_exceed_a_limit(store: Store, name: str, limit: int, admitted: int) -> None:
    limits = UNLIMITED._replace(**{name: limit})
    admissions = [admit(store, limits, tokens=10, micro=7) for _ in range(5)]
    assert [admission.admitted for admission in admissions] == [True] * admitted + [False] * (5 - admitted)
    assert used(store).requests == used(store).running == admitted
    assert admissions[-1].use is not None
    assert admissions[-1].use.counters == used(store)


@endless
def test_only_what_a_turn_needs_has_to_fit(store: Store) -> None:
    limits = UNLIMITED._replace(day_tokens=100)
    assert admit(store, limits, tokens=500, needs=20).admitted
    assert not admit(store, limits, tokens=1).admitted


@early_in_a_minute
def test_a_minute_that_is_over_counts_as_empty_and_the_day_goes_on(store: Store, database_url: str) -> None:
    limits = UNLIMITED._replace(requests=1, tokens=10)
    assert admit(store, limits, tokens=10).admitted
    assert not admit(store, limits, tokens=10).admitted
    turn_back(database_url, 60)
    assert used(store)[:2] == (0, 0)
    assert admit(store, limits, tokens=10).admitted
    assert used(store) == Counters(1, 10, 20, 0, 20, 0, 2)


@early_in_a_minute
def test_what_ends_in_a_later_minute_counts_there_above_its_estimate(store: Store, database_url: str) -> None:
    long, short = admit(store, tokens=10), admit(store, tokens=10)
    turn_back(database_url, 120)
    for admission in (long, short):
        assert admission.use is not None
        admission.use = admission.use._replace(
            windows=admission.use.windows._replace(minute=admission.use.windows.minute - 120)
        )
    admit(store, tokens=5)
    settle(store, long, 100)
    settle(store, short, 2)
    assert used(store) == Counters(1, 95, 107, 0, 107, 0, 1)


@endless
def test_a_turn_at_work_raises_what_it_has_reserved(store: Store) -> None:
    admission = admit(store, tokens=10)
    assert admission.use is not None
    store.admissions.adjust(Adjust(TOKEN, admission.id, admission.use.windows, Amounts(10), Amounts(25)))
    assert used(store) == Counters(1, 25, 25, 0, 25, 0, 1)
    end = settlement(admission, 30)
    end.reserved = Amounts(25)
    store.admissions.settle_now(end)
    assert used(store) == Counters(1, 30, 30, 0, 30, 0, 0)


@endless
def test_the_turns_of_a_dead_worker_leave_their_places_and_their_estimates(store: Store, database_url: str) -> None:
    other = Store(database_url, peppers=[PEPPER])
    mine, lost, slow = admit(store), admit(other, tokens=10), admit(other, tokens=10)
    other.leases.renew()
    rows.execute(database_url, f"UPDATE worker SET lease_until = 1 WHERE name = '{other.leases.name}'")
    store.reaper.reap()
    assert used(store).running == 1
    assert rows.execute(database_url, "SELECT id FROM admission") == [(mine.id,)]
    # The worker was slow, not dead.
    settle(other, slow, 3)
    assert used(store) == Counters(3, 21, 21, 0, 21, 0, 1)
    assert lost.admitted
    other.close()


@endless
def test_an_end_that_the_database_did_not_take_follows_later(store: Store, database_url: str) -> None:
    admission = admit(store, tokens=10)
    rows.execute(database_url, "ALTER TABLE token_use RENAME TO gone")
    seen: list[Settle] = []
    store.admissions.settle_now(settlement(admission, 3), seen.append)
    with pytest.raises(StoreUnavailable):
        admit(store)
    rows.execute(database_url, "ALTER TABLE gone RENAME TO token_use")
    assert not seen
    store.admissions.retry()
    eventually(lambda: len(seen) == 1, "the end of the turn")
    assert used(store) == Counters(1, 3, 3, 0, 3, 0, 0)


def test_a_notice_is_claimed_once_in_each_period(store: Store, database_url: str) -> None:
    other = Store(database_url, peppers=[PEPPER])
    claims = [each.admissions.claim(TOKEN, "day_tokens", 80, 20261126) for each in (store, other, store)]
    assert claims == [True, False, False]
    assert other.admissions.claim(TOKEN, "day_tokens", 100, 20261126)
    assert other.admissions.claim(TOKEN, "day_tokens", 80, 20261127)
    assert not store.admissions.claim(TOKEN, "day_tokens", 80, 20261126)
    other.close()


# --- at once ----------------------------------------------------------------------------------------------------


def race(url: str, limits: Counters, ends: bool) -> tuple[int, int]:
    """All turns that were admitted, and the most that were at work at once."""
    together, results = processes.Barrier(PROCESSES), processes.Queue()
    running = [processes.Process(target=compete, args=(url, together, results, limits, ends)) for _ in range(PROCESSES)]
    for process in running:
        process.start()
    found = [results.get(timeout=100) for _ in running]
    for process in running:
        process.join(60)
        assert process.exitcode == 0
    return sum(admitted for admitted, _ in found), max(most for _, most in found)


def test_limits_are_exact_over_threads_and_processes(store: Store, database_url: str) -> None:
    assert race(database_url, UNLIMITED._replace(month_tokens=301, running=101), ends=False)[0] == 100
    assert used(store).running == 100
    assert rows.execute(database_url, "SELECT COUNT(*) FROM admission") == [(100,)]


def test_turns_that_end_meanwhile_never_exceed_the_places_and_leave_exact_sums(store: Store, database_url: str) -> None:
    admitted, most = race(database_url, UNLIMITED._replace(running=5), ends=True)
    assert 0 < most <= 5
    counters = used(store)
    assert (counters.running, counters.day_tokens, counters.month_tokens) == (0, 5 * admitted, 5 * admitted)
    assert rows.execute(database_url, "SELECT COUNT(*) FROM admission") == [(0,)]
