"""antiphon prices update: fills in the prices of the table's models."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from difflib import unified_diff
from pathlib import Path
from time import time

import click

from app import formats
from app.channels.price_lines import NotEditable, with_prices
from app.channels.table import Table, load
from app.cli.groups import Group
from app.cli.output import counted, plain
from app.errors import ConfigurationError
from app.reports.prices import PriceReport, price_report, written
from app.settings import channels_path, home, load_environment


@click.group(cls=Group)
def prices() -> None:
    """Prices of models in the channel table."""


@prices.command()
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--yes", is_flag=True, help="Write without asking.")
@click.option(
    "--any-provider", is_flag=True, help="Also take a price by the model's name alone, whatever the channel's URL."
)
def update(dry_run: bool, yes: bool, any_provider: bool) -> None:
    """Fill in the prices of the models from the package genai-prices.

    Shows the lines that change and asks before it writes. A price that has changed is added with today's date; the
    earlier one stays for earlier responses.
    """
    environment = load_environment(home())
    path = channels_path(environment, home())
    table = load(path, environment, formats.names())
    try:
        report = price_report(table, int(time()), any_provider=any_provider)
    except ImportError:
        raise ConfigurationError(
            "The package genai-prices is not installed.", fix="Run: pip install '.[prices]'"
        ) from None
    _note(report)
    if not report.changes:
        click.echo(f"{path.name}: no price changes")
        return
    try:
        text = path.read_bytes().decode()
        new = _edited(path, text, table, report, environment)
        click.echo("".join(_changed_lines(text, new)), nl=False)
        if dry_run:
            return
        if not yes:
            click.confirm(f"Write {counted(len(report.changes), 'price')} to {path}?", abort=True)
        _replace(path, new)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror}.", fix="Run the command as the owner of the file."
        ) from None
    click.echo(f"{path.name}: {counted(len(report.changes), 'price')} written")


def _note(report: PriceReport) -> None:
    for names, what in ((report.unknown, "no known price"), (report.today, "another price, from today on, stands in")):
        if names:
            click.echo(f"{what}: {', '.join(map(plain, names))}", err=True)


def _edited(path: Path, text: str, table: Table, report: PriceReport, environment: Mapping[str, str]) -> str:
    """The new text. It has been read back: it differs in the prices and in nothing else."""
    lines = {change.model: written(change.price) for change in report.changes}
    try:
        new = with_prices(text, lines)
    except NotEditable as error:
        raise _by_hand(path, lines, str(error)) from None
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=".prices-", suffix=".yaml") as file:
        file.write(new.encode())
        file.flush()
        read = load(Path(file.name), environment, formats.names())
    wanted = {change.model: (*table.priced.get(change.model, ()), change.price) for change in report.changes}
    if {**read.priced} != {**table.priced, **wanted} or _beside_prices(read) != _beside_prices(table):
        raise _by_hand(path, lines, "an edit would change more than prices")
    return new


def _beside_prices(table: Table) -> tuple[object, ...]:
    """What an edit must leave as it is. A model that had only prices may be new."""
    facts = {
        name: rest
        for name, row in table.models.items()
        if (rest := {key: value for key, value in row.items() if key != "price"})
    }
    channels = [replace(channel, line=0) for channel in (*table.channels, *table.without_key)]
    return facts, channels, table.compaction, table.limits, table.tools


def _by_hand(path: Path, lines: Mapping[str, str], why: str) -> ConfigurationError:
    shown = "\n".join(f"  {model}: {{price: {price}}}" for model, price in lines.items())
    return ConfigurationError(
        f"{path.name} cannot be edited: {why}.", fix=f"Write the prices under `models:` yourself:\n{shown}"
    )


def _changed_lines(old: str, new: str) -> list[str]:
    """The lines that change, without others: these may hold secrets."""
    diff = unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), n=0)
    return [line if line.endswith("\n") else f"{line}\n" for line in list(diff)[2:]]


def _replace(path: Path, text: str) -> None:
    """Replaces the file at once: a worker that reloads it never sees half of it."""
    target = path.resolve()
    state = target.stat()
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".prices-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, state.st_mode & 0o7777)
        if os.geteuid() == 0:
            os.chown(name, state.st_uid, state.st_gid)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
