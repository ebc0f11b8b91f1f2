"""antiphon init: a secret key, a database, a channel table and a first token, in this directory."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import click

from app.cli import schema
from app.cli.address import curl_of
from app.cli.command_line import as_typed, typed
from app.cli.console import first_link
from app.cli.context import open_store
from app.errors import ConfigurationError
from app.settings import ENV_FILE, Settings, load_settings
from app.store.console_sessions import CODE_LIFETIME

#: The table of the installed package. The channels.yaml of a checkout is not copied: it may hold keys.
_SHIPPED = Path(__file__).with_name("channels.yaml")

_INDENT = " " * 10

FIRST_TOKEN = "admin"  # noqa: S105 - its name


@click.command(short_help="Write .env and channels.yaml, create the database and a token.")
@click.option("--serve", "then_serve", is_flag=True, help="Then serve, as `antiphon serve` does.")
@click.pass_context
def init(ctx: click.Context, then_serve: bool) -> None:
    """Write .env and channels.yaml, create the database and the first token.

    Existing files are kept, so the command may be run again. The token is printed once; only its hash is stored.
    """
    here = Path.cwd()
    _write_env(here / ENV_FILE)
    settings = load_settings()
    _write_channels(settings.channels)
    _write_schema(settings.channels.with_name(schema.NAME))
    secret = _prepare(settings)
    if secret is not None:
        click.echo(f"\n  token   {secret}")
    # A log or a pipe would keep what signs in.
    link = first_link(settings) if then_serve and sys.stdout.isatty() else ""
    click.echo(_steps(settings, secret, link, then_serve))
    if then_serve:
        from app.cli.serve import serve  # imports gunicorn, which init alone does not need

        ctx.invoke(serve)


def _prepare(settings: Settings) -> str | None:
    """Upgrades the database. Returns the secret of a first token, None when there are tokens already."""
    with open_store(settings) as store:
        applied = store.schema.upgrade()
        _report("made " if applied else "kept ", "database", f"schema {store.schema.version()}")
        if store.tokens.all():
            _report("kept ", "tokens", "to create another: antiphon tokens create NAME")
            return None
        _, secret = store.tokens.create(FIRST_TOKEN, FIRST_TOKEN, tools=["*"], console="operator")
    _report("made ", "token", f'"{FIRST_TOKEN}", shown once')
    return secret


def _write_env(path: Path) -> None:
    """Creates the file with its mode, so that other users cannot read the key even for a moment."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        _report("kept ", ENV_FILE, "")
        return
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {path}: {error.strerror}", "run the command in a directory that you may write"
        ) from error
    with os.fdopen(descriptor, "w") as file:
        file.write(f"ANTIPHON_SECRET_KEY={secrets.token_urlsafe(48)}\nANTIPHON_DATABASE_URL=sqlite:///antiphon.db\n")
    _report("wrote", ENV_FILE, "mode 0600: the secret key and the database")


def _write_channels(path: Path) -> None:
    """Copies the shipped table. Only the owner may read the file, because keys are written into it later."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        _report("kept ", path.name, "")
        return
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {path}: {error.strerror}", "create its directory, or set ANTIPHON_CHANNELS to another path"
        ) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(_SHIPPED.read_bytes())
    _report("wrote", path.name, "mode 0600: the demo channel; add your own")


def _write_schema(path: Path) -> None:
    """Writes or renews the schema that the first line of the table names. The gateway works without it."""
    current = schema.shipped()
    try:
        if path.is_file() and path.read_bytes() == current:
            return
        path.write_bytes(current)
    except OSError as error:
        _report("left ", path.name, f"cannot be written: {error.strerror}")
        return
    _report("wrote", path.name, "for editors: completes and checks channels.yaml")


def _report(verb: str, what: str, detail: str) -> None:
    click.echo(f"  {verb} {what:<14} {as_typed(detail)}".rstrip())


def _steps(settings: Settings, secret: str | None, link: str, serving: bool) -> str:
    steps = [] if serving else [("Next:", f"{typed()} serve")]
    if link:
        steps.append(("Open:", f"{link}\n{_INDENT}{_what(link)}"))
    if secret is not None:
        steps.append(("Try:" if serving else "Then:", _example(settings, secret)))
    return "".join(f"\n  {word:<7} {step}\n" for word, step in steps)


def _what(link: str) -> str:
    if link.endswith("/console"):
        return f"the console; {typed()} console prints a link that signs in"
    return f"the console; the link signs in once, within {CODE_LIFETIME} seconds"


def _example(settings: Settings, secret: str) -> str:
    """A first request, ready to be pasted into another terminal."""
    return f"""{curl_of(settings.bind)}/v1/responses \\
            -H "Authorization: Bearer {secret}" \\
            -H "Content-Type: application/json" \\
            -d '{{"model": "demo", "input": "hello", "stream": true}}'"""
