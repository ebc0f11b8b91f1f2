"""antiphon cache: how much of a prompt a provider's cache served, and why not more."""

from __future__ import annotations

from collections.abc import Iterator

import click

from app.cli.context import as_json, find_response, open_ready_store, print_json
from app.cli.output import pairs, percent
from app.reports.cache import CacheReport, explain


@click.command(short_help="Say why a provider's cache did not serve a prompt.")
@click.argument("response_id")
@as_json
def cache(response_id: str, as_json: bool) -> None:
    """Say how much of the prompt of RESPONSE_ID came from the provider's cache, and if it was little, why.

    The response is compared with the one before it in its conversation. RESPONSE_ID may be the beginning of an id. Exit
    code 4 when there is no such response.
    """
    with open_ready_store() as store:
        owner, found = find_response(store, response_id)
        report = explain(store, owner, found)
    if report is None:
        raise click.ClickException("the response has just been removed")
    if as_json:
        print_json(report.wire())
    else:
        click.echo(pairs(_facts(report)))


def _facts(report: CacheReport) -> Iterator[tuple[str, object]]:
    yield "response", report.response
    yield "after", report.before
    yield "input tokens", report.input_tokens
    yield "cached tokens", report.cached_tokens
    yield "cached share", percent(report.share)
    yield "reason", report.reason.replace("_", " ")
    if report.region is not None:
        yield "differs at", f"{report.region}[{report.index}]"
    yield "", report.detail
