"""antiphon tokens: the tokens with which clients authenticate."""

from __future__ import annotations

from datetime import UTC, datetime
from time import time

import click

from app.cli.command_line import typed
from app.cli.context import NOT_FOUND, as_json, open_ready_store, print_json
from app.cli.groups import Group
from app.cli.output import moment, some, table
from app.cli.parameters import Names, Text
from app.contract.records import Token
from app.settings import parse_duration


class Expiry(click.ParamType[int]):
    """A duration from now (`90d`, `12h`) or a date (`2027-01-31`), as unix seconds."""

    name = "when"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        now = int(time())
        moment = _moment(value, now)
        if moment is None:
            self.fail(f"{value!r} is neither a duration such as 90d nor a date such as 2027-01-31", param, ctx)
        if moment <= now:
            self.fail(f"{value!r} is in the past: the token would never work", param, ctx)
        return moment


def _moment(value: str, now: int) -> int | None:
    if (seconds := parse_duration(value)) is not None:
        return now + seconds
    try:
        date = datetime.fromisoformat(value)
    except ValueError:
        return None
    return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())


@click.group(cls=Group)
def tokens() -> None:
    """Create, list and revoke tokens."""


@tokens.command()
@click.argument("name")
@click.option("--owner", type=Text(), help="The owner of everything created with the token; default: the token's name.")
@click.option(
    "--models", type=Names(), help="The models that it may use: names or globs, separated by commas; default: all."
)
@click.option(
    "--tools",
    type=Names(),
    help="The tool servers that it may use: labels or globs, separated by commas; default: none.",
)
@click.option("--expires", type=Expiry(), help="When it expires: 90d, 12h, or a date in UTC; default: never.")
@click.option("--no-store", is_flag=True, help="Store no content of its requests, even if they have store: true.")
@as_json
def create(
    name: str,
    owner: str | None,
    models: tuple[str, ...] | None,
    tools: tuple[str, ...] | None,
    expires: int | None,
    no_store: bool,
    as_json: bool,
) -> None:
    """Create the token NAME. Its secret is printed once and cannot be shown again."""
    with open_ready_store() as store:
        token, secret = store.tokens.create(
            name, name if owner is None else owner, models=models, tools=tools, expires_at=expires, stores=not no_store
        )
    if as_json:
        print_json({"token": secret, **token.wire()})
    else:
        click.echo(secret)
        click.echo(f'made token "{token.name}" of {token.owner}, shown once', err=True)


@tokens.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List all tokens, without their secrets."""
    with open_ready_store() as store:
        known = store.tokens.all()
    if as_json:
        print_json([token.wire() for token in known])
        return
    click.echo(table(("name", "owner", "prefix", "state", "expires", "last used", "models", "tools"), map(_row, known)))


@tokens.command()
@click.argument("name")
@click.pass_context
def revoke(ctx: click.Context, name: str) -> None:
    """Revoke the token NAME. Running workers refuse it within two seconds."""
    with open_ready_store() as store:
        revoked = store.tokens.revoke(name)
    if not revoked:
        click.echo(f"antiphon: there is no token {name!r} to revoke", err=True)
        click.echo(f"  see the tokens: {typed()} tokens list", err=True)
        ctx.exit(NOT_FOUND)
    click.echo(f"revoked {name}; another token may use the name now")


def _row(token: Token) -> tuple[object, ...]:
    expires, used = moment(token.expires_at), moment(token.last_used_at)
    may_use = some(token.models) or "*", some(token.tools)
    return token.name, token.owner, token.prefix, _state(token), expires, used, *may_use


def _state(token: Token) -> str:
    if token.revoked_at is not None:
        return "revoked"
    if token.expires_at is not None and token.expires_at <= time():
        return "expired"
    return "active"
