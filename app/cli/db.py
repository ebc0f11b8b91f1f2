"""antiphon db: the schema, the size and copies of the database, and the removal of responses."""

from __future__ import annotations

import os
import secrets
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from time import sleep, time
from typing import Any, TypeVar

import click

from app.alerts.watcher import BAD, GOOD
from app.alerts.webhook import post
from app.cli.context import FAILED, NOT_FOUND, TRY_AGAIN, as_json, open_ready_store, open_store, print_json
from app.cli.groups import Group
from app.cli.output import counted
from app.cli.parameters import DatabaseUrl, Text
from app.contract.alerts import Alert
from app.errors import AntiphonError, ConfigurationError, StoreUnavailable, TooLargeToStore
from app.last_good import LastGood
from app.reports.export import export_lines
from app.settings import load_settings, parse_duration
from app.store.alerts import BACKUP
from app.store.copying import Copy
from app.store.database import PRIVATE
from app.store.dialects import SQLITE
from app.store.erasure import Owned, new_pseudonym
from app.store.pruning import Pruned
from app.store.store import Store

BAR = 1000
"""Steps of a progress bar."""

S = TypeVar("S")


class Age(click.ParamType[int]):
    """A duration (`30d`, `12w`) in seconds."""

    name = "age"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        seconds = value if isinstance(value, int) else parse_duration(value)
        if seconds is None:
            self.fail(f"{value!r} is not a duration such as 30d or 12w", param, ctx)
        return seconds


class Since(click.ParamType[int]):
    """A duration back from now (`30d`) or a date (`2026-11-01`) in UTC, as unix seconds."""

    name = "when"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if (seconds := parse_duration(value)) is not None:
            return max(0, int(time()) - seconds)
        try:
            date = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither a duration such as 30d nor a date such as 2026-11-01", param, ctx)
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())


@click.group(cls=Group)
def db() -> None:
    """Upgrade, prune, erase, copy and measure the database."""


@db.command()
@as_json
def upgrade(as_json: bool) -> None:
    """Upgrade the schema to this version's. Two may run at once; a second run does nothing."""
    with open_store() as store:
        applied = store.schema.upgrade()
        version = store.schema.version()
    if as_json:
        print_json({"version": version, "applied": applied})
    elif applied:
        click.echo(f"schema {version}: applied {', '.join(map(str, applied))}")
    else:
        click.echo(f"schema {version}: nothing to do")


# --- prune ------------------------------------------------------------------------------------------------------


@db.command()
@click.option(
    "--older-than", type=Age(), help="An age such as 30d or 12w, at least 1d; default ANTIPHON_RETENTION or 30d."
)
@click.option("--dry-run", is_flag=True, help="Count what would be removed, and remove nothing.")
@as_json
def prune(older_than: int | None, dry_run: bool, as_json: bool) -> None:
    """Remove old responses. The gateway may run meanwhile.

    A response stays as long as a response that continues it. Continuing a response makes it new again.
    """
    settings = load_settings()
    before = int(time()) - (settings.retention if older_than is None else older_than)
    with open_store(settings) as store:
        store.schema.check()
        pruned = store.maintenance.prunable(before) if dry_run else _prune(store, before)
    if as_json:
        print_json({"responses": pruned.responses, "records": pruned.records, "before": before, "dry_run": dry_run})
        return
    verb = "would remove" if dry_run else "removed"
    click.echo(
        f"{verb} {counted(pruned.responses, 'response')} and {counted(pruned.records, 'record')} without content"
    )


def _prune(store: Store, before: int) -> Pruned:
    latest: deque[Pruned] = deque(_shown(store.maintenance.prune(before)), maxlen=1)
    return latest[0]


def _shown(steps: Iterator[Pruned]) -> Iterator[Pruned]:
    """The same steps, with a progress bar on a terminal. A timer's log gets no bar."""
    if not sys.stderr.isatty():
        yield from steps
        return
    with click.progressbar(length=BAR, label="pruning", file=sys.stderr) as bar:
        for pruned in steps:
            bar.update(int(pruned.share * BAR) - bar.pos)
            yield pruned


# --- erase ------------------------------------------------------------------------------------------------------

_NOT_COVERED = "Backups, other copies and logs are not covered: remove them, or let them expire."


@db.command(short_help="Remove everything that an owner has.")
@click.option("--owner", type=Text(), required=True, help="The owner, as `antiphon tokens list` shows it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--no-vacuum", is_flag=True, help="Do not rewrite SQLite's file; remnants may stay in it until then.")
@as_json
@click.pass_context
def erase(ctx: click.Context, owner: str, yes: bool, no_vacuum: bool, as_json: bool) -> None:
    """Remove all that an owner has: responses, items, conversations, events, results of tools. Tokens are revoked.

    The sums of usage stay, under a pseudonym. Backups, other copies and logs are not covered. The gateway may run
    meanwhile; while SQLite's file is rewritten at the end, its writers wait.
    """
    pseudonym = new_pseudonym()
    with open_ready_store() as store:
        owned = store.maintenance.owned(owner)
        if not owned:
            click.echo(f"antiphon: the database has nothing of an owner {owner!r}", err=True)
            ctx.exit(NOT_FOUND)
        if not yes:
            click.confirm(f"{_removal(owner, owned)}\n{_NOT_COVERED}\nErase all of it?", abort=True, err=True)
        erased = _erase(store, owner, owned, pseudonym)
        scrubbed = not no_vacuum and store.maintenance.scrub()
    if as_json:
        print_json({"owner": owner, "pseudonym": pseudonym, **asdict(erased), "file_rewritten": scrubbed})
    else:
        click.echo(f"erased {_counts(erased)} of {owner!r}; the sums stay under {pseudonym!r}")
        click.echo(_NOT_COVERED, err=True)
    if erased.running:
        click.echo(f"cancelled {counted(erased.running, 'response')} in progress", err=True)
    if not scrubbed and not no_vacuum:
        click.echo("antiphon: a reader kept SQLite's log from being emptied\n  run: antiphon db vacuum", err=True)
        ctx.exit(TRY_AGAIN)


def _removal(owner: str, owned: Owned) -> str:
    return f"The database has {_counts(owned)} of {owner!r}. The tokens are revoked, and their sums stay."


def _counts(owned: Owned) -> str:
    pairs = ((owned.responses, "response"), (owned.conversations, "conversation"), (owned.tokens, "token"))
    return ", ".join(counted(count, noun) for count, noun in pairs)


def _erase(store: Store, owner: str, owned: Owned, pseudonym: str) -> Owned:
    """Erases until nothing is left: requests that had begun may have written meanwhile."""
    if store.maintenance.revoke_all(owner):
        # A gateway that has just started has reported nothing yet, so the command does not look for one.
        sleep(_REVOKED)
    erased = Owned()
    for _ in range(_PASSES):
        for step in _with_bar(store.maintenance.erase(owner, pseudonym), owned, "erasing", _erased):
            erased += step
        if not store.maintenance.owned(owner):
            break
    return erased


_REVOKED = 2.1
"""Seconds after which every worker refuses a revoked token."""
_PASSES = 3


def _with_bar(steps: Iterator[S], owned: Owned, label: str, size: Callable[[S], int]) -> Iterator[S]:
    """The same steps, with a progress bar on a terminal. `size`: how many responses and conversations a step covers."""
    if not sys.stderr.isatty():
        yield from steps
        return
    with click.progressbar(length=owned.responses + owned.conversations, label=label, file=sys.stderr) as bar:
        for step in steps:
            yield step
            bar.update(size(step))


def _erased(step: Owned) -> int:
    return step.responses + step.conversations


def _exported(line: bytes) -> int:
    """Turns of conversations are not counted."""
    return 0 if line.startswith(b'{"object":"conversation.turn"') else 1


@db.command(short_help="Rewrite SQLite's file without removed rows.")
def vacuum() -> None:
    """Rewrite SQLite's file: smaller, and without remnants of removed rows. Writers wait meanwhile."""
    with open_ready_store() as store:
        if store.database.dialect is not SQLITE:
            raise ConfigurationError(
                "A MySQL server reuses the space of removed rows by itself.", "nothing needs to be done"
            )
        if not store.maintenance.scrub():
            raise StoreUnavailable("A reader kept SQLite's log from being emptied; run the command again.")
    click.echo("rewrote the file")


# --- backup -----------------------------------------------------------------------------------------------------


@db.command(short_help="Copy the database to FILE. The gateway may run meanwhile.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def backup(file: Path, force: bool) -> None:
    """Copy the database as it is now to FILE, which only its owner can read. The gateway may run meanwhile.

    SQLite only: for MySQL use its own program, mariadb-dump.
    """
    with _alerted(file), open_store() as store, _noted(store), _replacing(file, force=force) as part:
        store.maintenance.backup(part)
    click.echo(f"wrote {file}, {_size(file.stat().st_size)}")


@contextmanager
def _alerted(file: Path) -> Iterator[None]:
    """Sends an alert when the backup fails. The command waits for it, and ends as it would have without."""
    try:
        yield
    except AntiphonError as error:
        with suppress(ConfigurationError):
            target = LastGood.of(load_settings()).table.current.alerts
            words = str(error) or type(error).__name__
            alert = Alert("backup.failed", f"The backup to {file.name} has failed: {words}", {"file": str(file)})
            if target is not None and (why := post(target, alert, f"alert_{secrets.token_hex(12)}")) is not None:
                click.echo(f"antiphon: the alert was not sent: {why}", err=True)
        raise


@contextmanager
def _noted(store: Store) -> Iterator[None]:
    """Notes for the console how a backup of SQLite went. A database that cannot take the note, because it is away or of
    an older schema, changes nothing about the command."""
    if store.database.dialect is not SQLITE:
        yield
        return
    try:
        yield
    except AntiphonError:
        with suppress(StoreUnavailable):
            store.alerts.note(BACKUP, BAD)
        raise
    with suppress(StoreUnavailable):
        store.alerts.note(BACKUP, GOOD)


@contextmanager
def _replacing(file: Path, *, force: bool) -> Iterator[Path]:
    """The path of a new file that becomes `file` at the end, so that `file` never holds half of its content."""
    if file.exists() and not force:
        raise ConfigurationError(f"{file} exists already", "name another file, or add --force to replace it")
    # In the same directory, so that the last step is one rename.
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        os.replace(part, file)
    except OSError as error:
        raise ConfigurationError(f"cannot write {file}: {error.strerror}", "name a file that you may write") from error
    finally:
        part.unlink(missing_ok=True)


# --- copy -------------------------------------------------------------------------------------------------------


@db.command("copy")
@click.argument("url", type=DatabaseUrl(), envvar="ANTIPHON_COPY_URL")
@click.option("--in-use", is_flag=True, help="Copy while a gateway runs: what it writes meanwhile may be missing.")
@as_json
@click.pass_context
def copy_(ctx: click.Context, url: str, in_use: bool, as_json: bool) -> None:
    """Copy all rows into the empty database URL, of either kind.

    Stop the gateway before. A copy that broke off goes on when the command is run again. At the end the numbers of rows
    are compared. URL has the form of ANTIPHON_DATABASE_URL and may stand in the variable ANTIPHON_COPY_URL.
    """
    settings = load_settings()
    if url == settings.database_url:
        raise ConfigurationError("URL is the database that is in use now.", "name another one")
    with open_store(settings) as store:
        store.schema.check()
    with closing(Copy(settings.database_url, url)) as copy:
        if copy.in_use() and not in_use:
            raise ConfigurationError(
                "A gateway is running on one of the two databases, so the copy would not be complete.",
                "stop it, and try again a minute after a crash; --in-use copies all the same",
            )
        copy.prepare()
        try:
            rows = sum(_rows_with_bar(copy.run(), copy.total()))
        except TooLargeToStore as error:
            raise ConfigurationError("A value is larger than the server takes.", error.message) from error
        differences = copy.differences()
        if not differences:
            copy.finish()
    if as_json:
        print_json({"rows": rows, "differences": [asdict(each) for each in differences]})
    else:
        click.echo(f"copied {counted(rows, 'row')}")
    if differences:
        for each in differences:
            click.echo(f"antiphon: {each.table} has {each.source:,} rows here and {each.target:,} there", err=True)
        click.echo(
            "  run the command again while no gateway runs; if they still differ, begin with an empty database",
            err=True,
        )
        ctx.exit(FAILED)


def _rows_with_bar(steps: Iterator[int], total: int) -> Iterator[int]:
    """The same steps, with a progress bar on a terminal."""
    if not sys.stderr.isatty():
        yield from steps
        return
    with click.progressbar(length=total, label="copying", file=sys.stderr) as bar:
        for rows in steps:
            bar.update(rows)
            yield rows


# --- export -----------------------------------------------------------------------------------------------------


@db.command(short_help="Write what an owner has as JSON Lines.")
@click.option("--owner", type=Text(), required=True, help="The owner, as `antiphon tokens list` shows it.")
@click.option("--since", type=Since(), default=0, help="Leave out what is older: 30d, or a date in UTC.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.pass_context
def export(ctx: click.Context, owner: str, since: int, force: bool, file: Path | None) -> None:
    """Write what an owner has as lines of JSON to FILE, which only its owner can read, or to the standard output.

    One line a response, oldest first, then one a conversation and one a turn of it.
    """
    with open_ready_store() as store:
        owned = store.maintenance.owned(owner)
        if not owned:
            click.echo(f"antiphon: the database has nothing of an owner {owner!r}", err=True)
            ctx.exit(NOT_FOUND)
        lines = export_lines(store.maintenance.export(owner, since))
        if file is None:
            sys.stdout.buffer.writelines(lines)
            return
        with _replacing(file, force=force) as part, open(part, "xb", opener=_private) as output:
            shown: Iterator[bytes] = _with_bar(lines, owned, "exporting", _exported)
            output.writelines(shown)
    click.echo(f"wrote {file}, {_size(file.stat().st_size)}", err=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE)


# --- stats ------------------------------------------------------------------------------------------------------


@db.command()
@as_json
def stats(as_json: bool) -> None:
    """Print the size of the database and the rows of its tables."""
    with open_store() as store:
        store.schema.check()
        found = store.maintenance.stats()
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> list[str]:
    statuses = sorted(found["statuses"].items(), key=lambda status: -status[1])
    notes = {"response": "  ".join(f"{status} {count:,}" for status, count in statuses)}
    width = max(map(len, found["rows"]))
    rows = [f"{table:<{width}} {count:>12,}  {notes.get(table, '')}".rstrip() for table, count in found["rows"].items()]
    return [f"{found['database']:<{width}} {_size(found['bytes']):>12}", *rows]


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
