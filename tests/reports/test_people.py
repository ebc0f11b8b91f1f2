"""People and tokens: limits with what is used of them, in a few queries, and nothing of another owner."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from app.contract.limits import UNSTATED, Budget, Limits, budgets
from app.contract.records import Token
from app.contract.usage import Usage
from app.reports.people import PeopleReport, TokenReport, first_day_of_month, people_report
from app.store.store import Store
from app.store.token_counters import UNLIMITED, Admit, Counters
from tests.relay.conftest import eventually
from tests.store.turns import draft, outcome

NOW = int(time.time())
TODAY = 86_400 * (NOW // 86_400) + 1


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url, peppers=[b"p"])
    store.schema.upgrade()
    yield store
    store.close()


def _report(store: Store, owner: str | None = None, defaults: Limits = UNSTATED) -> PeopleReport:
    return people_report(owner, store, defaults, NOW)


def _used(store: Store, limits: Limits, counters: Counters) -> TokenReport:
    """The report of a token with these counters, read in the windows in which they were written."""
    for attempt in range(3):
        token, _ = store.tokens.create(f"bot {attempt}", "ops", limits=limits)
        admit = Admit(token.key, UNLIMITED, counters, counters)
        store.admissions.admit(admit)
        found = _of(_report(store), token)
        assert admit.use is not None
        if admit.use.windows == found.use.windows:
            return found
    raise AssertionError("three minutes ended between a write and a read")


def _of(report: PeopleReport, token: Token) -> TokenReport:
    found = report.of(token.key)
    assert found is not None
    return found


def test_a_token_is_shown_with_what_it_has_used_of_its_limits(store: Store) -> None:
    limits = Limits(rpm=60, concurrency=4, budgets=budgets(["50usd/month", "1ktok/day"]))
    found = _used(store, limits, Counters(12, 900, 900, 46_000_000, 900, 46_000_000, 2))
    assert (found.counters.requests, found.counters.running, found.state) == (12, 2, "active")
    assert [(use.budget.period, use.percent, use.nearly_spent, use.spent) for use in found.budgets] == [
        ("month", 92, True, False),
        ("day", 90, True, False),
    ]
    assert all(found.use.now < use.resets_at <= found.use.now + 32 * 86_400 for use in found.budgets)
    assert found.spent is None


def test_a_spent_budget_says_when_it_resets(store: Store) -> None:
    limits = Limits(budgets=budgets(["5usd/month", "1ktok/day"]))
    spent = _used(store, limits, Counters(1, 1000, 1000, 5_000_000, 1000, 5_000_000, 0)).spent
    assert spent is not None
    assert (spent.budget.period, spent.percent) == ("month", 100)


def test_what_a_token_does_not_state_is_the_tables(store: Store) -> None:
    token, _ = store.tokens.create("ada-mac", "ada", limits=Limits(rpm=0))
    defaults = Limits(rpm=60, budgets=(Budget(1000, "tok", "day"),))
    found = _of(_report(store, defaults=defaults), token)
    assert (found.limits.rpm, [use.percent for use in found.budgets]) == (0, [0])


def test_an_owner_sees_tokens_and_sums_of_its_own_alone(store: Store) -> None:
    mine, _ = store.tokens.create("ada-mac", "ada")
    theirs, _ = store.tokens.create("bob-mac", "bob")
    for token, owner, cost in ((mine, "ada", 7), (theirs, "bob", None)):
        ended = outcome(completed_at=TODAY, usage=Usage(2, output_tokens=5, cost=cost))
        store.responses.finish(draft(token=token.key, owner=owner), ended)
    assert [one.token.name for one in _report(store, "ada").tokens] == ["ada-mac"]
    everything = _report(store)
    assert [(one.token.name, one.cost, one.sums.unpriced) for one in everything.tokens] == [
        ("ada-mac", 7, 0),
        ("bob-mac", None, 1),
    ]
    assert everything.owners == ["ada", "bob"]
    assert _report(store, "nobody").tokens == ()


def test_revoked_tokens_come_last_and_leave_the_list_after_a_month(store: Store) -> None:
    for name in ("a", "b"):
        store.tokens.create(name, "ada")
    store.tokens.revoke("a")
    report = _report(store)
    assert [(one.token.name, one.state) for one in report.tokens] == [("b", "active"), ("a", "revoked")]
    assert len(report.current) == 1
    later = people_report(None, store, UNSTATED, NOW + 31 * 86_400)
    assert [one.token.name for one in later.tokens] == ["b"]


def test_an_expired_token_and_an_earlier_secret_are_shown(store: Store) -> None:
    expired, _ = store.tokens.create("old", "ada", expires_at=NOW - 1)
    rotated, _ = store.tokens.create("new", "ada")
    store.tokens.rotate("new", 3600)
    report = _report(store)
    assert (_of(report, expired).state, _of(report, expired).earlier_secrets_until) == ("expired", None)
    until = _of(report, rotated).earlier_secrets_until
    assert until is not None
    assert until > NOW


def test_the_program_that_used_a_token_last_is_known(store: Store) -> None:
    token, secret = store.tokens.create("ada-mac", "ada")
    assert _of(_report(store), token).client == ""
    store.tokens.check(secret, "codex")
    eventually(lambda: _of(_report(store), token).client == "codex", "the note of the use")
    store.tokens.check(secret, "curl")
    eventually(lambda: _of(_report(store), token).client == "curl", "the note of another program")
    assert _of(_report(store), token).token.last_used_at is not None


@pytest.fixture
def queries(store: Store) -> Iterator[list[Any]]:
    calls: list[Any] = []
    before, store.database.on_call = store.database.on_call, lambda *facts: calls.append(facts)
    yield calls
    store.database.on_call = before


def test_two_hundred_tokens_take_two_queries(store: Store, queries: list[Any]) -> None:
    for number in range(200):
        store.tokens.create(f"t{number}", f"owner {number % 7}", limits=Limits(rpm=60))
    queries.clear()
    report = _report(store)
    assert (len(report.tokens), len(report.owners), len(queries)) == (200, 7, 2)


@pytest.mark.parametrize(("now", "day"), [(0, "1970-01-01"), (1795651200, "2026-11-01"), (1798761599, "2026-12-01")])
def test_a_month_begins_with_its_first_day_in_utc(now: int, day: str) -> None:
    assert first_day_of_month(now) == day
