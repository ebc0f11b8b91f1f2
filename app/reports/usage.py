"""Requests and tokens, summed by token, model, channel or day."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

COUNTERS = (
    "requests",
    "failed",
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)
GROUPINGS = ("token", "model", "channel", "day")


@dataclass(frozen=True, slots=True)
class UsageReport:
    """`sums` has the counters of each group under the group's name."""

    since: str
    """The first day that is counted, in UTC."""
    by: str
    """One of `GROUPINGS`."""
    sums: Mapping[str, Mapping[str, int]]

    def total(self) -> dict[str, int]:
        return {counter: sum(counts[counter] for counts in self.sums.values()) for counter in COUNTERS}

    def wire(self) -> dict[str, Any]:
        return {
            "since": self.since,
            "by": self.by,
            "usage": [
                {self.by: name, **counts, "cached_share": cached_share(counts)} for name, counts in self.sums.items()
            ],
        }


def cached_share(counts: Mapping[str, int]) -> float | None:
    """The part of the input that came from the provider's cache, from 0 to 1; None without an input."""
    given = counts["input_tokens"]
    return round(counts["cached_tokens"] / given, 4) if given else None


def usage_report(rows: Iterable[Mapping[str, Any]], by: str, since: str) -> UsageReport:
    """Days stay in the order of the rows; other groups are ordered by output tokens, the most first."""
    sums: dict[str, dict[str, int]] = {}
    for row in rows:
        counts = sums.setdefault(_group(row, by), dict.fromkeys(COUNTERS, 0))
        for counter in COUNTERS:
            counts[counter] += int(row[counter])
    if by != "day":
        sums = dict(sorted(sums.items(), key=lambda item: -item[1]["output_tokens"]))
    return UsageReport(since, by, sums)


def _group(row: Mapping[str, Any], by: str) -> str:
    """A removed token is shown by its number; requests without a token or a channel have an empty name."""
    if by != "token":
        return str(row[by])
    if row["token_name"]:
        return str(row["token_name"])
    return f"token {row['token']}" if row["token"] else ""
