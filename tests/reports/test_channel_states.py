"""States of channels over several workers, and the route that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from app.channels.selection import MAX_ATTEMPTS
from app.channels.table import Table
from app.contract.channel import Channel
from app.contract.pauses import Pause
from app.contract.records import ChannelStatus, WorkerStatus
from app.reports.channel_states import all_channels, channel_reports, state_of
from app.reports.routes import route_of, serving

A = Channel(name="a", format="demo", models={"m": "m"}, max_concurrency=2, line=1)
OK: dict[str, Any] = {}
COOLDOWN = {"resting": 4.6, "last_error": "rate_limit_exceeded"}
FULL = {"in_flight": 2, "path": "bytes"}
HALF_OPEN = {"on_trial": True}


def _workers(*statuses: Mapping[str, Any] | None) -> list[WorkerStatus]:
    """One worker a status of channel `a`; None for a worker that has not used it."""
    return [
        WorkerStatus(f"h:{at}", 0, () if status is None else (ChannelStatus.of({"name": "a", **status}),))
        for at, status in enumerate(statuses)
    ]


@pytest.mark.parametrize(
    ("statuses", "label", "text", "available"),
    [
        ([OK, OK], "ok", "ok", True),
        ([None, OK], "ok", "ok", True),
        ([COOLDOWN, COOLDOWN], "cooldown", "cooldown 5 s: rate_limit_exceeded", False),
        ([COOLDOWN, OK], "cooldown", "cooldown 5 s: rate_limit_exceeded (1 of 2 workers)", True),
        ([COOLDOWN, FULL], "cooldown", "cooldown 5 s: rate_limit_exceeded (1 of 2 workers)", False),
        ([{"resting": 1.0}], "cooldown", "cooldown 1 s: failed", False),
        ([FULL, OK, FULL], "full", "full", False),
        ([{"in_flight": 1}, {"in_flight": 1}], "full", "full", False),
        ([HALF_OPEN], "half-open", "half-open", True),
        ([], "unknown", "", True),
    ],
)
def test_the_worst_state_of_all_workers_is_shown(
    statuses: list[Mapping[str, Any] | None], label: str, text: str, available: bool
) -> None:
    state = state_of(A, _workers(*statuses))
    assert (state.label, state.text, state.is_available) == (label, text, available)


def test_each_host_has_the_limit_for_itself() -> None:
    busy = ChannelStatus.of({"name": "a", "in_flight": 1})
    state = state_of(A, [WorkerStatus("one:1", 0, (busy,)), WorkerStatus("two:1", 0, (busy,))])
    assert (state.label, state.in_flight) == ("ok", 2)


def test_reports_of_workers_are_summed() -> None:
    state = state_of(A, _workers(FULL, {"in_flight": 1, "path": "repaired"}, COOLDOWN))
    assert state.wire() == {
        "state": "resting",
        "detail": "resting 5 s: rate_limit_exceeded (1 of 3 workers)",
        "in_flight": 3,
        "resting_seconds": 5,
        "last_error": "rate_limit_exceeded",
        "paths": ["bytes", "repaired"],
        "pause": None,
    }


def test_json_keeps_its_names_of_the_states() -> None:
    half_open = state_of(A, _workers(HALF_OPEN, OK))
    assert half_open.text == "half-open (1 of 2 workers)"
    assert half_open.wire()["state"] == "on trial"
    assert half_open.wire()["detail"] == "on trial (1 of 2 workers)"
    (entry,) = route_of(Table((A,)), "m", _workers(COOLDOWN)).entries
    assert entry.why_not == "cooldown 5 s: rate_limit_exceeded"
    assert entry.wire("m")["why_not"] == "resting 5 s: rate_limit_exceeded"


def test_a_row_says_first_what_the_table_knows() -> None:
    waiting = replace(A, name="w", missing_key="the variable K is not set", line=2)
    off = replace(A, name="off", enabled=False, line=3)
    table = Table((off, A), without_key=(waiting,))
    reports = channel_reports(table, _workers(OK))
    assert [(report.channel.name, report.state.label) for report in reports] == [
        ("a", "ok"),
        ("w", "no key"),
        ("off", "disabled"),
    ]
    assert [report.host for report in reports] == ["here"] * 3
    assert [channel.name for channel in all_channels(table)] == ["a", "w", "off"]


# --- routes -----------------------------------------------------------------------------------------------------


def test_a_route_shares_requests_by_weight_and_gives_reasons() -> None:
    table = Table(
        channels=(
            A,
            replace(A, name="first", priority=1, weight=1, line=2),
            replace(A, name="second", priority=1, weight=3, line=3),
            replace(A, name="chat", bridge=False, line=4),
            replace(A, name="off", enabled=False, line=5),
            replace(A, name="other", models={"n": "n"}, line=6),
        ),
        without_key=(replace(A, name="w", missing_key="no key yet", line=7),),
    )
    route = route_of(table, "m", _workers(OK))
    assert [(entry.channel.name, entry.place, entry.share, entry.why_not) for entry in route.entries] == [
        ("first", 1, 0.25, ""),
        ("second", 1, 0.75, ""),
        ("a", 2, 1.0, ""),
        ("chat", None, 0.0, "bridge: false, so it does not serve /v1/responses"),
        ("off", None, 0.0, "disabled"),
        ("w", None, 0.0, "no key: no key yet"),
    ]
    assert list(route.remarks()) == ["channels that do not serve this model: other"]
    assert [entry["asked"] for entry in route.wire()["channels"]] == [True] * 3 + [False] * 3
    assert serving(table, "unknown") == []


def test_a_channel_at_its_limit_leaves_the_route() -> None:
    route = route_of(Table((A,)), "m", _workers(FULL))
    assert [(entry.place, entry.why_not) for entry in route.entries] == [(None, "full")]
    assert list(route.remarks()) == ["no channel can take a request for this model now"]


def test_a_route_says_that_one_request_tries_only_some_of_many() -> None:
    many = tuple(replace(A, name=f"c{at}", line=at) for at in range(MAX_ATTEMPTS + 1))
    assert list(route_of(Table(many), "m", ()).remarks()) == [
        f"one request tries at most {MAX_ATTEMPTS} of these channels"
    ]


def test_a_pause_matters_more_than_what_workers_report() -> None:
    pause = Pause("a", 1_800_000_000, by="ada", reason="a new disk")
    (report,) = channel_reports(Table(channels=(A,)), _workers(COOLDOWN, FULL), pauses=[pause])
    assert report.state.label == "draining"
    assert report.state.text == "draining since 2027-01-15 08:00:00 UTC by ada: a new disk"
    assert not report.state.is_available
    assert report.state.in_flight == 2
    assert report.wire()["pause"] == {
        "state": "draining",
        "since": 1_800_000_000,
        "until": None,
        "by": "ada",
        "reason": "a new disk",
    }


def test_a_pause_is_known_without_a_worker_and_ends_no_lack_of_a_key() -> None:
    pauses = {"a": Pause("a", 1_800_000_000, 1_800_000_600)}
    assert state_of(A, [], pauses).text == "paused until 2027-01-15 08:10:00 UTC"
    assert state_of(replace(A, missing_key="K is not set"), [], pauses).label == "no key"


def test_a_route_leaves_paused_channels_out_and_says_why() -> None:
    b = replace(A, name="b", line=2)
    route = route_of(Table(channels=(A, b)), "m", _workers(OK), [Pause("a", 1_800_000_000)])
    assert [entry.channel.name for entry in route.eligible] == ["b"]
    assert route.wire()["channels"][1]["why_not"].startswith("draining since")
