"""Sums of usage rows."""

from __future__ import annotations

from typing import Any

from app.reports.usage import COUNTERS, usage_report


def _row(day: str, output: int, token: str | None = None, token_name: str | None = None) -> dict[str, Any]:
    counts = dict.fromkeys(COUNTERS, 1)
    return {**counts, "output_tokens": output, "day": day, "token": token, "token_name": token_name}


ROWS = [
    _row("2026-11-01", 5, "t1", "laptop"),
    _row("2026-11-02", 10, "t2", None),
    _row("2026-11-02", 1, None, None),
    _row("2026-11-03", 7, "t1", "laptop"),
]


def test_days_stay_in_their_order() -> None:
    report = usage_report(ROWS, "day", "2026-11-01")
    assert [(day, counts["output_tokens"]) for day, counts in report.sums.items()] == [
        ("2026-11-01", 5),
        ("2026-11-02", 11),
        ("2026-11-03", 7),
    ]
    assert (report.total()["requests"], report.total()["output_tokens"]) == (4, 23)


def test_other_groups_are_ordered_by_output_and_a_removed_token_has_its_number() -> None:
    report = usage_report(ROWS, "token", "2026-11-01")
    assert [(group["token"], group["output_tokens"]) for group in report.wire()["usage"]] == [
        ("laptop", 12),
        ("token t2", 10),
        ("", 1),
    ]


def test_no_rows_have_no_groups_and_a_total_of_zero() -> None:
    report = usage_report([], "model", "2026-11-01")
    assert report.wire() == {"since": "2026-11-01", "by": "model", "usage": []}
    assert set(report.total().values()) == {0}
