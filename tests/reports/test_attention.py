"""What needs attention, with the remedies, for operators and owners."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.channels.watched_table import LastTable
from app.contract.limits import Limits, budgets
from app.contract.pauses import Pause
from app.contract.records import ChannelStatus, WorkerStatus
from app.reports import attention
from app.reports.attention import PROBLEM, WARNING, Attention, Problem, attention_report
from app.store.alerts import BACKUP
from app.store.in_flight import InFlightResponse
from app.store.migrations import needed
from app.store.standing import Standing
from app.store.store import Store
from app.store.token_counters import Counters
from tests.store import rows
from tests.store.admitting import use_without_end

TABLE = """
version: 1
channels:
  - {name: first, format: demo, models: [shared, only]}
  - {name: second, format: demo, models: [shared]}
"""


@pytest.fixture
def table(tmp_path: Path) -> LastTable:
    path = tmp_path / "channels.yaml"
    path.write_text(TABLE)
    return LastTable(path, dict, ["demo"])


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url, peppers=[b"p"])
    store.schema.upgrade()
    yield store
    store.close()


def standing(**values: Any) -> Standing:
    return Standing(
        **{"now": int(time.time()), "tokens": (), "states": {}, "schema": needed(), "background_workers": 1, **values}
    )


def workers(*states: ChannelStatus) -> list[WorkerStatus]:
    return [WorkerStatus(f"host:{number}", 0, (state,)) for number, state in enumerate(states)]


def texts(report: Attention) -> list[tuple[str, str]]:
    return [(problem.grade, f"{problem.subject} {problem.text}") for problem in report.problems]


def test_nothing_is_wrong(table: LastTable, tmp_path: Path) -> None:
    file = tmp_path / "antiphon.db"
    file.touch()
    report = attention_report(None, standing(), table, database_file=file)
    assert texts(report) == []
    assert report.fine[0] == f"schema {needed()}"
    assert attention_report("ada", standing(), table, database_file=file).fine == []


# --- tokens, from the store


def test_tokens_that_expire_soon_and_budgets_that_are_used(store: Store, table: LastTable, database_url: str) -> None:
    spent, _ = store.tokens.create("spent", "ada", limits=Limits(budgets=budgets(["100tok/day"])))
    warned, _ = store.tokens.create("warned", "bob", limits=Limits(budgets=budgets(["20usd/month"])))
    store.tokens.create("fresh", "bob", limits=Limits(budgets=budgets(["20usd/month"])))
    store.tokens.create("quite soon", "bob", expires_at=int(time.time()) + 86_400)
    store.tokens.create("later", "bob", expires_at=int(time.time()) + 30 * 86_400)
    use_without_end(database_url, spent.key, Counters(day_tokens=150))
    use_without_end(database_url, warned.key, Counters(month_micro=18_400_000))
    found = attention_report(None, store.standing.read(None), table)
    assert [(one.grade, one.named) for one in found.problems] == [
        (PROBLEM, "spent"),
        (WARNING, "warned"),
        (WARNING, "quite soon"),
    ]
    assert found.problems[0].text.startswith("has spent its 100 tokens for today; its requests are refused until ")
    assert found.problems[1].text.startswith("has used 92 % of its 20 USD for ")
    assert found.problems[2].text.startswith("expires on ")
    assert "antiphon tokens update 'quite soon' --expires" in found.problems[2].remedy
    assert all(one.place == "tokens" and one.named in one.remedy for one in found.problems)
    for owner, names in (("ada", ["spent"]), ("bob", ["warned", "quite soon"]), ("eve", [])):
        read = store.standing.read(owner)
        assert [one.named for one in attention_report(owner, read, table).problems] == names
        assert (read.states, read.schema, read.background_workers) == ({}, None, None)
        # An owner cannot run the commands.
        assert all("operator" in one.remedy for one in attention_report(owner, read, table).problems)
    # What was used in a month that is over counts no more.
    rows.execute(database_url, "UPDATE token_use SET day = 20200101, month = 202001")
    assert [one.named for one in attention_report(None, store.standing.read(None), table).problems] == ["quite soon"]


def test_what_ended_and_what_was_revoked_is_no_matter(store: Store, table: LastTable) -> None:
    store.tokens.create("over", "ada", expires_at=int(time.time()) - 5)
    store.tokens.create("gone", "ada", expires_at=int(time.time()) + 86_400)
    assert store.tokens.revoke("gone")
    assert attention_report("ada", store.standing.read("ada"), table).problems == []


def test_the_pace_of_a_budget() -> None:
    """Half of the month has passed, and four fifths are used: it is spent before the end."""
    middle = 1_794_700_000
    ends, begun = 1_796_083_200, 1_793_491_200
    (budget,) = budgets(["100tok/month"])
    assert attention._pace(budget, 80, middle, ends).startswith("; at this pace it stops on ")
    assert attention._pace(budget, 80, ends - 60, ends) == ""
    assert begun < middle < ends


# --- channels


def test_a_cooldown_is_shown_over_all_workers(table: LastTable) -> None:
    cooling = ChannelStatus("second", cooldown_left=16.0, last_error="rate_limit_exceeded")
    some = attention_report(None, standing(), table, workers=workers(cooling, ChannelStatus("second"), cooling))
    assert texts(some) == [
        (WARNING, "second cools down for another 16 s on 2 of 3 workers: rate_limit_exceeded."),
    ]
    (problem,) = some.problems
    assert (problem.remedy, problem.place, problem.named) == ("antiphon channels test second", "channels", "second")


def test_a_model_without_any_channel_comes_first(table: LastTable) -> None:
    cooling = ChannelStatus("first", cooldown_left=5.0)
    found = texts(attention_report(None, standing(), table, workers=workers(cooling)))
    assert found == [
        (PROBLEM, "only has no channel that takes a request now."),
        (WARNING, "first cools down for another 5 s: its requests failed."),
    ]


def test_a_pause_and_a_half_open_channel_are_shown(table: LastTable) -> None:
    pause = Pause("second", 0, None, by="alpha")
    half = ChannelStatus("first", half_open=True, last_error="server_error")
    found = texts(attention_report(None, standing(), table, workers=workers(half), pauses=[pause]))
    assert [grade for grade, _ in found] == [WARNING, WARNING]
    assert found[0][1] == "first takes one request at a time after a cooldown: server_error."
    assert "by alpha" in found[1][1]


def test_a_refused_table_is_quoted_without_its_path(table: LastTable) -> None:
    table.path.write_text(TABLE + "wieght: 3\n")
    table.poll()
    (problem,) = attention_report(None, standing(), table).problems
    assert (problem.grade, problem.subject) == (PROBLEM, "channels.yaml refused:")
    assert problem.quote.startswith("6:1: ") or "wieght" in problem.quote
    assert str(table.path) not in problem.quote
    assert attention_report("ada", standing(), table).problems == []


# --- background, schema, backup, disk


def queued(seconds: int) -> InFlightResponse:
    return InFlightResponse("resp_1", "ada", "mac", None, "m", None, "queued", 0, None, seconds)


def test_jobs_that_wait(table: LastTable) -> None:
    def found(responses: list[InFlightResponse], live: int) -> list[tuple[str, str]]:
        return texts(attention_report(None, standing(background_workers=live), table, responses))

    assert found([queued(3)], 0) == []
    assert found([queued(50)], 1) == []
    ((grade, text),) = found([queued(50)], 0)
    assert (grade, text.partition(":")[0]) == (PROBLEM, "1 background response has no worker")
    ((grade, text),) = found([queued(61), queued(90), queued(2)], 2)
    assert (grade, text) == (
        WARNING,
        "2 background responses have waited for over 60 s: the 2 background workers are busy.",
    )


@pytest.mark.parametrize(("found", "words"), [(needed() + 1, "is newer than"), (needed() - 1, "is older than")])
def test_another_schema(table: LastTable, found: int, words: str) -> None:
    (problem,) = attention_report(None, standing(schema=found), table).problems
    assert problem.text.startswith(words)


def test_a_backup_that_failed(store: Store, table: LastTable) -> None:
    store.alerts.note(BACKUP, "good")
    assert any(text.startswith("backup on ") for text in attention_report(None, store.standing.read(None), table).fine)
    store.alerts.note(BACKUP, "bad")
    store.alerts.note(BACKUP, "bad")
    (problem,) = attention_report(None, store.standing.read(None), table).problems
    assert problem.subject == "The backup"
    assert problem.text.startswith("has failed on ")


def test_a_full_disk(table: LastTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "antiphon.db"
    file.touch()
    usage = SimpleNamespace(free=900_000_000, total=100_000_000_000)
    for module in ("app.reports.attention", "app.alerts.watcher"):
        monkeypatch.setattr(f"{module}.disk_usage", lambda _: usage)
    (problem,) = attention_report(None, standing(), table, database_file=file).problems
    assert (problem.grade, problem.text) == (PROBLEM, "has only 900 MB free where the database is.")


def test_a_problem_as_json() -> None:
    problem = Problem(WARNING, "a", "is slow.", "Wait.", "channels", "a", quote="no")
    assert problem.wire() == {"grade": "warning", "subject": "a", "text": "a is slow. no", "fix": "Wait."}
