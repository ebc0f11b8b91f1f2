"""antiphon models: the models that clients can request, and the channels that serve each."""

from __future__ import annotations

import click

from app.cli.context import as_json, print_json
from app.cli.output import some, table
from app.cli.table import read_table
from app.reports.models import model_reports
from app.settings import load_settings


@click.command(short_help="List the models of the channel table.")
@as_json
def models(as_json: bool) -> None:
    """List the models of the channel table. A glob is listed as it is written there."""
    reports = model_reports(read_table(load_settings()))
    if as_json:
        print_json([report.wire() for report in reports])
        return
    rows = (
        (report.name, report.context_window, some(channel.name for channel in report.channels)) for report in reports
    )
    click.echo(table(("model", "context", "channels"), rows))
