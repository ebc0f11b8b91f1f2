"""antiphon usage: requests and tokens by token, model, channel or day."""

from __future__ import annotations

from datetime import UTC, datetime
from time import time

import click

from app.cli.context import as_json, open_store, print_json
from app.cli.output import table
from app.reports.usage import GROUPINGS, usage_report
from app.settings import parse_duration

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
@click.option("--by", type=click.Choice(GROUPINGS), default="day", help="Default: day.")
@click.option("--since", type=Day(), default="7d", help="The first day: 7d, 24h, or a date in UTC. Default: 7d.")
@as_json
def usage(by: str, since: str, as_json: bool) -> None:
    """Sum up the requests and tokens of the last days."""
    with open_store() as store:
        store.schema.check()
        report = usage_report(store.usage.since(since), by, since)
    if as_json:
        print_json(report.wire())
        return
    lines = [(name, *counts.values()) for name, counts in report.sums.items()]
    if len(lines) > 1:
        lines.append(("total", *report.total().values()))
    click.echo(table((by, *_HEADS), lines))
