"""antiphon init: a secret key, a database, a channel table and a first token, in this directory."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from pathlib import Path

import click

from app.cli.context import open_store
from app.errors import ConfigurationError
from app.settings import ENV_FILE, Settings, load_settings

FIRST_TOKEN = "admin"  # noqa: S105 - its name


@click.command()
def init() -> None:
    """Write .env and channels.yaml, create the database and the first token.

    What is there already is kept, so it may be run again. The token is printed once and never stored.
    """
    here = Path.cwd()
    _write_env(here / ENV_FILE)
    settings = load_settings()
    _write_channels(settings.channels)
    with open_store(settings) as store:
        applied = store.upgrade()
        _report("made " if applied else "kept ", "database", f"schema {store.schema_version()}")
        if store.tokens():
            _report("kept ", "tokens", "`antiphon tokens create NAME` makes another")
            return
        _, secret = store.create_token(FIRST_TOKEN, FIRST_TOKEN)
    _report("made ", "token", f'"{FIRST_TOKEN}", shown once')
    click.echo(_next_steps(settings, secret))


def _write_env(path: Path) -> None:
    """Created with its mode, so that the key is never readable by others, not even for a moment."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        _report("kept ", ENV_FILE, "")
        return
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}", "run it where you may write") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(f"ANTIPHON_SECRET_KEY={secrets.token_urlsafe(48)}\nANTIPHON_DATABASE_URL=sqlite:///antiphon.db\n")
    _report("wrote", ENV_FILE, "mode 0600: the secret key and the database")


def _write_channels(path: Path) -> None:
    if path.exists():
        _report("kept ", path.name, "")
        return
    shutil.copyfile(_example(), path)
    _report("wrote", path.name, "the demo channel; add your own")


def _example() -> Path:
    """The example table: beside the package in a checkout, in the environment's share/ once installed."""
    for root in (Path(__file__).resolve().parents[2], Path(sys.prefix) / "share" / "antiphon"):
        if (root / "channels.yaml").is_file():
            return root / "channels.yaml"
    raise ConfigurationError("the example channels.yaml was not installed", "write one: see the README")


def _report(verb: str, what: str, detail: str) -> None:
    click.echo(f"  {verb} {what:<14} {detail}".rstrip())


def _next_steps(settings: Settings, secret: str) -> str:
    return f"""
  token   {secret}

  Next:   antiphon serve
  Then:   curl -N http://{settings.bind}/v1/responses \\
            -H "Authorization: Bearer {secret}" \\
            -H "Content-Type: application/json" \\
            -d '{{"model": "demo", "input": "hello", "stream": true}}'
"""
