"""antiphon log: one line for each of the newest requests, also while they come."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from time import sleep

import click
import orjson

from app.cli.context import open_ready_store
from app.cli.output import plain
from app.cli.parameters import Text
from app.contract.money import shown
from app.errors import StoreUnavailable
from app.store.request_log import MOST, Follower, LogRow, Wanted

PAUSE = 0.5
"""Seconds between two looks at the database."""
STATUSES = ("completed", "incomplete", "failed", "cancelled", "in_progress", "queued")


@click.command(short_help="Print a line for each of the newest requests.")
@click.option("-f", "--follow", is_flag=True, help="Go on with the requests that end from now on.")
@click.option("-n", "count", type=click.IntRange(0, MOST), default=20, help="The newest so many. Default: 20.")
@click.option("--token", type=Text(), help="Only those of the token with this name.")
@click.option("--owner", type=Text(), help="Only those of this owner.")
@click.option("--model", type=Text(), help="Only those for this model.")
@click.option("--status", type=click.Choice(STATUSES), help="Only those with this status.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def log(
    follow: bool,
    count: int,
    token: str | None,
    owner: str | None,
    model: str | None,
    status: str | None,
    as_json: bool,
) -> None:
    """Print a line for each of the newest requests, the newest last, from the database: of all workers and hosts.

    Time in UTC, status, model, channel, token, tokens, cost, first byte and total, id, error. The lines never hold
    content.
    """
    wanted = Wanted(token, owner, model, status)
    with open_ready_store() as store:
        follower = store.request_log.follow() if follow else None
        rows, all_searched = store.request_log.newest(count, wanted)
        for row in rows:
            _print(row, as_json)
        if not all_searched:
            click.echo(f"antiphon: searched the newest {MOST:,} requests only", err=True)
        if follower is not None:
            # Ctrl-C is how this ends.
            with suppress(KeyboardInterrupt):
                _follow(follower, wanted, as_json)


def _follow(follower: Follower, wanted: Wanted, as_json: bool) -> None:
    while True:
        sleep(PAUSE)
        try:
            rows = follower.look()
        except StoreUnavailable:
            # Its cause was logged; the database may be back at the next look.
            continue
        for row in rows:
            # A request that runs is a line when it ends, unless its status is what is looked for.
            if wanted.has(row) and (wanted.status or not row.running):
                _print(row, as_json)


def _print(row: LogRow, as_json: bool) -> None:
    click.echo(orjson.dumps(row.wire()).decode() if as_json else _line(row))


def _line(row: LogRow) -> str:
    at = datetime.fromtimestamp(row.created_at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    facts = [f"{at}  {row.status:<11}", row.model, row.channel or "-", row.token or row.owner]
    if row.input_tokens is not None:
        about = "≈" if row.estimated else ""
        facts.append(
            f"{about}{row.input_tokens:,} in ({row.cached_tokens or 0:,} cached), {about}{row.output_tokens:,} out"
        )
    if (cost := shown(row.cost_micros)) is not None:
        facts.append(f"cost {cost}")
    if row.total_ms is not None:
        facts.append(
            f"{row.total_ms:,} ms" if row.first_byte_ms is None else f"{row.first_byte_ms:,}/{row.total_ms:,} ms"
        )
    return plain("  ".join(filter(None, (*facts, row.id, row.error))))
