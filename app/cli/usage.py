"""antiphon usage: requests and tokens by token, model, channel or day."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from time import time

import click

from app.cli.context import as_json, open_store, print_json
from app.cli.output import percent, table
from app.reports.cache import recent_misses
from app.reports.usage import GROUPINGS, cached_share, usage_report
from app.settings import parse_duration

_HEADS = ("requests", "failed", "input", "cached", "share", "cache writes", "output", "reasoning")
_MISSES = "cache misses of late"


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
@click.option("--by", type=click.Choice(GROUPINGS), default="day", help="Default: day.")
@click.option("--since", type=Day(), default="7d", help="The first day: 7d, 24h, or a date in UTC. Default: 7d.")
@as_json
def usage(by: str, since: str, as_json: bool) -> None:
    """Sum up the requests and tokens of the last days."""
    with open_store() as store:
        store.schema.check()
        report = usage_report(store.usage.since(since), by, since)
        misses = recent_misses(store, since) if by == "channel" else None
    if as_json:
        print_json(report.wire() if misses is None else {**report.wire(), "cache_misses": misses})
        return
    heads = (by, *_HEADS) if misses is None else (by, *_HEADS, _MISSES)
    lines = [_line(name, counts, misses) for name, counts in report.sums.items()]
    if len(lines) > 1:
        lines.append(_line("total", report.total(), None))
    click.echo(table(heads, (line[: len(heads)] for line in lines)))


def _line(name: str, counts: Mapping[str, int], misses: Mapping[str, Mapping[str, int]] | None) -> tuple[object, ...]:
    """The sums of a group. The share is that of the cached tokens in the input."""
    cells: list[object] = []
    for counter, count in counts.items():
        cells.append(count)
        if counter == "cached_tokens":
            cells.append(percent(cached_share(counts)))
    reasons = misses.get(name, {}) if misses else {}
    return name, *cells, ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in reasons.items())
