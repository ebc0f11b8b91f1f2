"""antiphon usage: who used how much, from the sums that are kept by day."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from time import time
from typing import Any

import click

from app.cli.context import as_json, open_store, print_json
from app.cli.output import table
from app.settings import parse_duration

_COUNTERS = (
    "requests",
    "failed",
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)
_HEADS = ("requests", "failed", "input", "cached", "cache writes", "output", "reasoning")


class Day(click.ParamType[str]):
    """A duration back from now (`7d`, `24h`) or a date (`2026-11-01`), as the day in UTC."""

    name = "when"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if (seconds := parse_duration(value)) is not None:
            return datetime.fromtimestamp(max(0, time() - seconds), UTC).date().isoformat()
        try:
            return datetime.fromisoformat(value).date().isoformat()
        except ValueError:
            self.fail(f"{value!r} is neither a duration such as 7d nor a date such as 2026-11-01", param, ctx)


@click.command()
@click.option("--by", type=click.Choice(["token", "model", "channel", "day"]), default="day", help="Default: day.")
@click.option("--since", type=Day(), default="7d", help="7d, 24h, or a date: from that day on, in UTC. Default: 7d.")
@as_json
def usage(by: str, since: str, as_json: bool) -> None:
    """Sum up the requests and tokens of the last days."""
    with open_store() as store:
        store.check_schema()
        rows = store.usage(since)
    sums = _summed(rows, by)
    if as_json:
        print_json({"since": since, "by": by, "usage": [{by: name, **counts} for name, counts in sums.items()]})
        return
    lines = [(name, *counts.values()) for name, counts in sums.items()]
    if len(lines) > 1:
        lines.append(("total", *(sum(counts[counter] for counts in sums.values()) for counter in _COUNTERS)))
    click.echo(table((by, *_HEADS), lines))


def _summed(rows: Iterable[Mapping[str, Any]], by: str) -> dict[str, dict[str, int]]:
    """Days in their order, everything else by its output, the most first."""
    sums: dict[str, dict[str, int]] = {}
    for row in rows:
        counts = sums.setdefault(_name(row, by), dict.fromkeys(_COUNTERS, 0))
        for counter in _COUNTERS:
            counts[counter] += int(row[counter])
    if by == "day":
        return sums
    return dict(sorted(sums.items(), key=lambda item: -item[1]["output_tokens"]))


def _name(row: Mapping[str, Any], by: str) -> str:
    """A token that was removed is still known by its number; what no token or channel did has neither."""
    if by != "token":
        return str(row[by])
    if row["token_name"]:
        return str(row["token_name"])
    return f"token {row['token']}" if row["token"] else ""
