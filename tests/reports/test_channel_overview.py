"""What an operator and an owner read about channels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.channels.table import Table, load
from app.contract.records import Attempt, ChannelStatus, Token
from app.contract.usage import Usage
from app.reports.channel_overview import HOUR, SLOTS, ChannelOverview, channel_overviews, channel_summaries
from app.store.store import Store
from app.store.sums import SLOT_SECONDS
from tests.channels.tables import FORMATS, rows, write
from tests.store.turns import draft, outcome

TABLE = """
- name: a
  format: responses
  base_url: https://models.example/v1
  api_key: ${KEY}
  models: {m: n}
  headers: {X-Key: "${KEY}"}
  cooldown: {after: 2, for: 60s}
  max_concurrency: 4
  queue: 5s
  tags: [eu]
- {name: b, format: demo, models: [m, 'x-*']}
- {name: off, format: demo, models: [m], enabled: false}
"""
SECRET = "canary-7f3a91"


@pytest.fixture
def table(tmp_path: Path) -> Table:
    path = write(tmp_path, rows(TABLE, head="version: 1\nmodels: {m: {price: {input: 1, output: 1}}}\n"))
    return load(path, {"KEY": SECRET}, FORMATS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/a.db", peppers=[b"p"])
    store.schema.upgrade()
    yield store
    store.close()


def overview(table: Table, store: Store, name: str) -> ChannelOverview:
    return next(one for one in channel_overviews(table, store) if one.report.channel.name == name)


def finish(store: Store, ago: int = 0, **fields: object) -> None:
    at = int(time.time()) - ago
    store.responses.finish(draft(), outcome(completed_at=at, **fields))  # type: ignore[arg-type]


def test_a_channel_that_others_replace_has_failed_all_the_same(table: Table, store: Store) -> None:
    failed = Attempt("a", 3, 429, "rate_limit_exceeded", upstream_message="slow down")
    finish(store, channel="b", attempts=(failed, Attempt("b", 5, 200)))
    finish(store, channel="a", usage=Usage(1, cost=70), first_byte_ms=400)
    found = overview(table, store, "a")
    assert (found.outcomes.failed(HOUR), found.outcomes.asked(HOUR)) == (1, 2)
    assert found.cost == 70
    assert found.first_token.p50 == 400
    (group,) = found.errors
    assert (group.times, group.last.status, group.last.message) == (1, 429, "slow down")
    assert overview(table, store, "b").outcomes.failed(SLOTS) == 0


def test_each_five_minutes_has_its_place(table: Table, store: Store) -> None:
    finish(store, channel="a")
    finish(
        store, ago=2 * SLOT_SECONDS, channel="a", status="failed", attempts=(Attempt("a", 1, 500, "upstream_error"),)
    )
    finish(store, ago=(SLOTS + 1) * SLOT_SECONDS, channel="a")
    store.leases.renew([ChannelStatus("a", cooldown_left=50.0)])
    outcomes = overview(table, store, "a").outcomes
    assert [len(each) for each in (outcomes.answered, outcomes.errors, outcomes.in_cooldown)] == [SLOTS] * 3
    # A slot may have ended since the rows were written.
    assert sum(outcomes.answered[-2:]) == 1
    assert sum(outcomes.errors[-4:-1]) == 1
    assert any(outcomes.in_cooldown[-2:])
    assert outcomes.asked(SLOTS) == 2


def test_failures_of_one_kind_are_one_line(table: Table, store: Store) -> None:
    for message in ("used 1", "used 2", "used 3"):
        finish(store, channel="b", attempts=(Attempt("a", 3, 429, "rate_limit_exceeded", upstream_message=message),))
    finish(store, channel="b", attempts=(Attempt("a", 3, 503, "overloaded"),))
    assert [(group.last.code, group.times, group.last.message) for group in overview(table, store, "a").errors] == [
        ("overloaded", 1, ""),
        ("rate_limit_exceeded", 3, "used 3"),
    ]


def test_a_row_is_shown_without_its_secrets(table: Table, store: Store) -> None:
    assert overview(table, store, "a").row.splitlines() == [
        "- name: a",
        "  format: responses",
        "  base_url: https://models.example/v1",
        "  api_key: ••••",
        "  headers: {X-Key: ••••}",
        "  max_concurrency: 4",
        "  queue: 5s",
        "  cooldown: {after: 2, for: 60s}",
        "  tags: [eu]",
        "  models: {m: n}",
    ]
    assert overview(table, store, "b").row.splitlines()[-1] == "  models: [m, x-*]"
    assert SECRET not in str([one.row for one in channel_overviews(table, store)])


def test_a_page_reads_the_database_three_times(table: Table, store: Store) -> None:
    calls: list[str] = []
    store.database.on_call = lambda kind, seconds: calls.append(kind)
    channel_overviews(table, store)
    assert calls == ["read"] * 3


@pytest.mark.parametrize(
    ("models", "tags", "names"),
    [
        ((), (), {"a": ["m"], "b": ["m", "x-*"]}),
        ((), ("eu",), {"a": ["m"]}),
        (("x-*",), (), {"b": ["x-*"]}),
        (("other",), (), {}),
    ],
)
def test_an_owner_sees_the_channels_of_their_models(
    table: Table, store: Store, models: tuple[str, ...], tags: tuple[str, ...], names: dict[str, list[str]]
) -> None:
    token = Token(1, "t", "ada", "ap_", models=models)
    found = channel_summaries(table, store, token, tags)
    assert {one.name: list(one.models) for one in found} == names


def test_a_cooldown_that_was_ended_a_moment_ago_is_known(table: Table, store: Store) -> None:
    assert store.pauses.end_cooldown("a", "ada")
    assert [overview(table, store, name).cooldown_ends for name in ("a", "b")] == [True, False]
    store.database.transaction(lambda session: session.run("UPDATE channel_pause SET began_at = began_at - 5"))
    assert not overview(table, store, "a").cooldown_ends
