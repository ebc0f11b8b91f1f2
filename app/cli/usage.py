"""antiphon usage: requests, tokens, costs and times by token, owner, model, channel, client, tool or day."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from time import time
from typing import Any

import click

from app.cli.context import as_json, open_store, print_json
from app.cli.output import counted, percent, table
from app.cli.parameters import Text
from app.contract.money import shown
from app.reports.cache import recent_misses
from app.reports.usage import GROUPINGS, ToolReport, UsageGroup, UsageReport, tool_report, usage_report
from app.settings import parse_duration
from app.store.usage import NEWEST

_HEADS = ("requests", "failed", "input", "cached", "share", "cache writes", "output", "reasoning", "cost")
_TIMES = ("first token p50", "p95", "total p50", "p95")
_MISSES = "cache misses of late"
_TOOL_HEADS = ("server", "tool", "calls", "failed", "ms a call", "bytes", "p50 ms", "p95 ms")
#: Stands below a table that is not made of sums.
_SAMPLED = f"Counted from the newest {NEWEST:,} responses: no sums have these filters."


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
@click.option("--token", type=Text(), metavar="GLOB", help="Only requests with these tokens.")
@click.option("--owner", type=Text(), metavar="GLOB", help="Only requests of these owners.")
@click.option("--model", type=Text(), metavar="GLOB", help="Only requests for these models.")
@click.option("--channel", type=Text(), metavar="GLOB", help="Only requests that these channels answered.")
@click.option("--client", type=Text(), metavar="GLOB", help="Only requests of these programs.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@as_json
def usage(by: str, since: str, as_csv: bool, as_json: bool, **filters: str | None) -> None:
    """Sum up the requests, tokens and costs of the last days."""
    given = {name: glob for name, glob in filters.items() if glob is not None}
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other")
    if by == "tool" and given:
        raise click.UsageError(f"calls of tools have no sums by {next(iter(given))}; leave the filter out")
    misses = None
    with open_store() as store:
        store.schema.check()
        report: UsageReport | ToolReport = (
            tool_report(store, since) if by == "tool" else usage_report(store, by, since, given)
        )
        if by == "channel" and not as_csv:
            misses = recent_misses(store, since)
    if as_json:
        print_json(report.wire() if misses is None else {**report.wire(), "cache_misses": misses})
    elif as_csv:
        click.echo(_csv(report), nl=False)
    elif isinstance(report, ToolReport):
        click.echo(table(_TOOL_HEADS, (tuple(row.values()) for row in report.rows)))
    else:
        _print(report, misses)


def _print(report: UsageReport, misses: Mapping[str, Mapping[str, int]] | None) -> None:
    heads = (report.by, *_HEADS, *_TIMES, *([] if misses is None else [_MISSES]))
    lines = [_line(group, misses) for group in report.groups]
    if len(lines) > 1:
        lines.append(_line(report.total, None))
    click.echo(table(heads, (line[: len(heads)] for line in lines)))
    if (unpriced := report.total.unpriced) and report.total.cost is not None:
        lacking = counted(unpriced, "request")
        click.echo(f"≥: the cost of {lacking} is unknown, without a price in the table.", err=True)
    if report.sampled:
        click.echo(_SAMPLED, err=True)


def _line(group: UsageGroup, misses: Mapping[str, Mapping[str, int]] | None) -> tuple[object, ...]:
    """The sums of a group. The share is that of the cached tokens in the input."""
    cells: list[object] = []
    for counter, count in group.counts.items():
        cells.append(count)
        if counter == "cached_tokens":
            cells.append(percent(group.cached_share))
    times = (group.first_token.p50, group.first_token.p95, group.total.p50, group.total.p95)
    reasons = misses.get(group.name, {}) if misses else {}
    missed = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in reasons.items())
    return group.name, *cells, _cost(group), *times, missed


def _cost(group: UsageGroup) -> str | None:
    """The known cost; `≥` stands before a sum that lacks an unknown one."""
    cost = shown(group.cost)
    return f"≥{cost}" if cost is not None and group.unpriced else cost


def _csv(report: UsageReport | ToolReport) -> str:
    rows = [{name: _cell(value) for name, value in row.items()} for row in report.wire()["usage"]]
    return _written(_csv_heads(report), rows)


def _csv_heads(report: UsageReport | ToolReport) -> Sequence[str]:
    if isinstance(report, ToolReport):
        return ("server", "tool", "calls", "failed", "ms", "bytes", "p50_ms", "p95_ms")
    return tuple(report.total.wire(report.by))


def _written(heads: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, heads, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: tokens and owners have the names that people gave them."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
