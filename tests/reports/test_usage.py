"""Reports from the sums of a store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.usage import Usage
from app.reports.usage import COUNTERS, percentile, usage_report
from app.store.store import Store
from app.store.sums import TOTAL_BOUNDS
from tests.store.turns import draft, outcome

OLD = "1970-01-01"
DAY = 86_400


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/antiphon.db", peppers=[b"p"])
    store.schema.upgrade()
    yield store
    store.close()


def _turn(
    store: Store,
    *,
    day: int = 0,
    token: int | None = None,
    model: str = "small",
    client: str = "",
    channel: str = "a",
    usage: Usage | None = None,
    ms: int = 10,
) -> None:
    ended = outcome(completed_at=day * DAY, usage=usage or Usage(2, output_tokens=5), total_ms=ms, channel=channel)
    store.responses.finish(draft(token=token, model=model, client=client), ended)


def test_days_stay_in_their_order(store: Store) -> None:
    for day, output in ((2, 5), (1, 10), (1, 1)):
        _turn(store, day=day, usage=Usage(2, output_tokens=output))
    report = usage_report(store, "day", OLD)
    assert [(group.name, group.counts["output_tokens"]) for group in report.groups] == [
        ("1970-01-02", 11),
        ("1970-01-03", 5),
    ]
    assert (report.total.counts["requests"], report.total.counts["output_tokens"]) == (3, 16)
    assert not report.sampled


def test_the_dearest_group_comes_first_and_a_removed_token_has_its_number(store: Store) -> None:
    token, _ = store.tokens.create("laptop", "ada")
    _turn(store, token=token.key, usage=Usage(1, output_tokens=1, cost=9))
    _turn(store, token=77, usage=Usage(1, output_tokens=10))
    _turn(store)
    report = usage_report(store, "token", OLD)
    assert [(group.name, group.cost) for group in report.groups] == [("laptop", 9), ("token 77", None), ("", None)]
    assert [(group.name) for group in usage_report(store, "owner", OLD).groups] == ["ada", ""]


def test_an_unknown_cost_is_not_zero(store: Store) -> None:
    _turn(store, model="free", usage=Usage(1, cost=0))
    _turn(store, model="dear", usage=Usage(1, cost=7))
    _turn(store, model="dear")
    _turn(store, model="unknown")
    report = usage_report(store, "model", OLD)
    assert {group.name: (group.cost, group.unpriced) for group in report.groups} == {
        "free": (0, 0),
        "dear": (7, 1),
        "unknown": (None, 1),
    }
    assert (report.total.cost, report.total.unpriced) == (7, 2)
    assert [row["cost_micros"] for row in report.wire()["usage"]] == [7, None, 0]


def test_no_responses_have_no_groups_and_a_total_of_zero(store: Store) -> None:
    report = usage_report(store, "model", OLD)
    assert report.wire() == {"since": OLD, "by": "model", "sampled": False, "usage": []}
    assert {report.total.counts[name] for name in COUNTERS} == {0}
    assert (report.total.cost, report.total.total.p50) == (None, None)


def test_times_are_those_of_the_buckets(store: Store) -> None:
    token, _ = store.tokens.create("laptop", "ada")
    for number in range(20):
        _turn(store, client="curl", token=token.key, ms=400 if number < 10 else 4000)
    for by in ("model", "client", "token", "owner", "day"):
        report = usage_report(store, by, OLD)
        (group,) = report.groups
        assert (group.total.p50, group.total.p95) == (500, 4800)
        assert group.first_token.p50 is None
        assert report.total.total == group.total
    (group,) = usage_report(store, "client", OLD, {"model": "*"}).groups
    assert (group.total.p50, group.total.p95) == (500, 4800)


def test_filters_that_sums_know_leave_the_counts_exact(store: Store) -> None:
    for model, channel in (("gpt-6", "a"), ("gpt-6", "b"), ("qwen", "a")):
        _turn(store, model=model, channel=channel)
    report = usage_report(store, "channel", OLD, {"model": "gpt-*"})
    assert [(group.name, group.counts["requests"]) for group in report.groups] == [("a", 1), ("b", 1)]
    assert not report.sampled


def test_other_filters_count_single_responses_and_say_so(store: Store) -> None:
    for model, client in (("gpt-6", "curl"), ("gpt-6", "codex"), ("qwen", "curl")):
        _turn(store, model=model, client=client, usage=Usage(4, 1, output_tokens=2, cost=3))
    for report in (
        usage_report(store, "client", OLD, {"model": "gpt-*"}),
        usage_report(store, "model", OLD, {"client": "c*", "model": "gpt-*"}),
        usage_report(store, "day", OLD, {"client": "*", "model": "gpt-6"}),
    ):
        assert report.sampled
        counts = report.total.counts
        assert (counts["requests"], counts["input_tokens"], counts["cached_tokens"], report.total.cost) == (2, 8, 2, 6)


def test_percentiles_lie_within_their_bucket() -> None:
    counts = [0] * 16
    assert percentile(counts, TOTAL_BOUNDS, 0.5) is None
    counts[1] = 4
    assert percentile(counts, TOTAL_BOUNDS, 0.5) == 175
    counts[15] = 96
    assert percentile(counts, TOTAL_BOUNDS, 0.95) == TOTAL_BOUNDS[-1]


@given(st.lists(st.integers(0, 400_000), min_size=1), st.sampled_from([0.5, 0.95]))
def test_a_percentile_is_in_the_bucket_of_the_true_one(times: list[int], share: float) -> None:
    counts = [0] * 16
    for ms in times:
        counts[sum(ms > bound for bound in TOTAL_BOUNDS)] += 1
    rank = share * len(times)
    true = next(ms for number, ms in enumerate(sorted(times), 1) if number >= rank)
    low = max((bound for bound in (0, *TOTAL_BOUNDS) if bound < true), default=0)
    high = next((bound for bound in TOTAL_BOUNDS if bound >= true), TOTAL_BOUNDS[-1])
    found = percentile(counts, TOTAL_BOUNDS, share)
    assert found is not None
    assert low <= found <= high
