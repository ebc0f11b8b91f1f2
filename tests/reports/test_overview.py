"""The figures of a period, for everyone and for one owner, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from app.contract.usage import Usage
from app.reports.overview import PERIODS, Overview, overview_report
from app.store.database import Session
from app.store.store import Store
from tests.store.turns import draft, outcome

NOW = int(datetime(2026, 11, 26, 14, 2, tzinfo=UTC).timestamp())
HOUR, DAY = 3600, 86_400


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url, peppers=[b"p"])
    store.schema.upgrade()
    yield store
    store.close()


def _turn(
    store: Store, at: int, token: int, owner: str, *, model: str = "m", first: int | None = 400, **fields: object
) -> None:
    usage = Usage(1000, cached_tokens=750, output_tokens=10, cost=None if model == "unpriced" else 100)
    begun = draft(owner=owner, token=token, model=model, client="codex")
    ended = outcome(completed_at=at, channel=f"of-{model}", usage=usage, first_byte_ms=first, **fields)
    store.responses.finish(begun, ended)


@pytest.fixture
def filled(store: Store) -> Store:
    """Ada has four requests, bob two, and a token that is gone one."""
    (ada, _), (bob, _) = store.tokens.create("mac", "ada"), store.tokens.create("pc", "bob")
    for hours in (0, 0, 5, 30):
        _turn(store, NOW - hours * HOUR, ada.key, "ada")
    _turn(store, NOW - HOUR, bob.key, "bob", model="other", status="failed", first=None)
    _turn(store, NOW - 60 * DAY, bob.key, "bob", model="unpriced")
    _turn(store, NOW - 23 * HOUR, 99, "gone", model="other", first=70_000)
    return store


def steps(overview: Overview) -> dict[str, int]:
    return {
        datetime.fromtimestamp(step.begins_at, UTC).strftime("%d %H"): step.sums.requests
        for step in overview.steps
        if step.sums.requests
    }


def groups(overview: Overview, by: str) -> dict[str, int]:
    return {group.name: group.sums.requests for group in overview.groups[by]}


def test_a_day_is_twenty_four_hours_with_the_present_one(filled: Store) -> None:
    overview = overview_report(None, filled, "1", NOW)
    assert len(overview.steps) == 24
    assert steps(overview) == {"25 15": 1, "26 09": 1, "26 13": 1, "26 14": 2}
    total = overview.total
    assert (total.requests, total.failed, total.input_tokens, total.cached_share) == (5, 1, 5000, 0.75)
    assert (total.cost, total.unpriced, overview.month.cost) == (500, 0, 600)
    assert groups(overview, "owner") == {"ada": 3, "": 1, "bob": 1}
    assert groups(overview, "model") == {"m": 3, "other": 2}
    assert groups(overview, "channel") == {"of-m": 3, "of-other": 2}
    assert groups(overview, "client") == {"codex": 5}
    assert [round(group.share or 0, 1) for group in overview.groups["model"]] == [0.6, 0.4]
    assert total.first_token.p50 is not None
    assert 300 < total.first_token.p50 <= 500
    assert (total.first_token.p95 or 0) >= 20_000


def test_an_owner_sees_the_own_figures_only(filled: Store) -> None:
    by_hour, by_day = (overview_report("ada", filled, period, NOW) for period in ("1", "90"))
    assert (by_hour.total.requests, by_hour.month.cost) == (3, 400)
    assert groups(by_hour, "owner") == {"ada": 3}
    assert groups(by_hour, "client") == {"codex": 3}
    assert (by_day.total.requests, by_day.total.cost, by_day.month.cost) == (4, 400, 400)
    # The sums by client are not divided by owner.
    assert groups(by_day, "client") == {}
    assert overview_report("eve", filled, "1", NOW).total.requests == 0


def test_longer_periods_are_days(filled: Store) -> None:
    week, quarter = (overview_report(None, filled, period, NOW) for period in ("7", "90"))
    assert (len(week.steps), len(quarter.steps)) == (7, 90)
    assert steps(week) == {"25 00": 2, "26 00": 4}
    assert (week.total.requests, quarter.total.requests) == (6, 7)
    # The month began before the week, and within the quarter.
    assert (week.month.cost, quarter.month.cost) == (600, 600)
    assert (quarter.total.cost, quarter.total.unpriced) == (600, 1)
    assert groups(quarter, "client") == {"codex": 7}


def test_conversations_with_a_turn_in_the_period_are_counted(filled: Store) -> None:
    assert overview_report(None, filled, "1", NOW).conversations == 5
    assert overview_report("ada", filled, "7", NOW).conversations == 4
    assert overview_report("ada", filled, "1", NOW + 3 * DAY).conversations == 0


@pytest.mark.parametrize("period", PERIODS)
def test_an_empty_store_has_every_period(store: Store, period: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read, statements = Session.rows, list[str]()

    def counted(session: Session, sql: str, parameters: object = ()) -> object:
        statements.append(sql)
        return read(session, sql, parameters)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "rows", counted)
    overview = overview_report(None, store, period, NOW)
    assert len(statements) == 1
    assert overview.steps[-1].begins_at <= NOW
    assert (overview.total.requests, overview.total.cost, overview.month.cost) == (0, None, None)
    assert overview.total.first_token.p50 is None
    assert all(not each for each in overview.groups.values())
