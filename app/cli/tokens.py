"""antiphon tokens: the tokens with which clients authenticate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import time
from typing import Any

import click

from app.cli.command_line import typed
from app.cli.context import NOT_FOUND, as_json, open_ready_store, print_json
from app.cli.groups import Group
from app.cli.output import moment, some, table
from app.cli.parameters import Read, Stated, Text
from app.contract.limits import UNSTATED, Limits
from app.contract.records import CONSOLE_ROLES, Token
from app.reports import token_fields

_AMOUNT = Read("number", token_fields.amount)
_BUDGETS = Read("budget", token_fields.budget_list)
_EXPIRY = Read("when", token_fields.expiry)
_TAGS = Read("tags", token_fields.tags)
_MODELS = Read("names", token_fields.models)
_TOOLS = Read("names", token_fields.tools)

#: The options that `create` and `update` share, by the member of `Limits` that each sets.
_LIMITS: dict[str, Callable[[Any], Any]] = {
    "rpm": click.option("--rpm", type=_AMOUNT, help="Requests a minute, or none, or default (the table's)."),
    "tpm": click.option("--tpm", type=_AMOUNT, help="Tokens a minute, of input and output."),
    "concurrency": click.option("--concurrency", type=_AMOUNT, help="Requests at once."),
    "budgets": click.option(
        "--budget",
        "budgets",
        type=_BUDGETS,
        help="2Mtok/day, 500ktok/month or 50usd/month; several, separated by commas; or none, or default.",
    ),
    "tags": click.option(
        "--tags", type=_TAGS, help="Only channels with one of these tags, separated by commas; '*' for every channel."
    ),
}


_retention = click.option(
    "--retention",
    type=Read("age", token_fields.retention),
    help="The age at which `db prune` removes its responses, if sooner than the others'; at least 1d; or default.",
)


def _limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_LIMITS.values()):
        command = option(command)
    return command


def _limited(limits: Limits, stated: dict[str, Stated | None]) -> Limits:
    """The limits, with those that the options state."""
    return replace(limits, **{name: option.value for name, option in stated.items() if option is not None})


def _lifted(limits: Limits, models: Stated | None, stores: bool | None) -> Limits:
    """The limits, without the table's defaults for models and storing where an option lifts them."""
    if models is not None:
        limits = replace(limits, models=None if models.value else ())
    return limits if stores is None else replace(limits, no_store=False if stores else None)


def _value(option: Stated | None, unstated: Any = None) -> Any:
    """The value of an option, or the one that holds without it."""
    return unstated if option is None else option.value


@click.group(cls=Group)
def tokens() -> None:
    """Create, change, rotate, list and revoke tokens."""


@tokens.command()
@click.argument("name")
@click.option("--owner", type=Text(), help="The owner of everything created with the token; default: the token's name.")
@click.option(
    "--models", type=_MODELS, help="The models that it may use: names or globs, separated by commas; default: all."
)
@click.option(
    "--tools",
    type=_TOOLS,
    help="The tool servers that it may use: labels or globs, separated by commas; default: none.",
)
@click.option("--expires", type=_EXPIRY, help="When it expires: 90d, 12h, a date in UTC, or never, the default.")
@click.option(
    "--store/--no-store",
    "stores",
    default=None,
    help="Whether content of its requests may be stored, if they ask for it; default: as the table's limits say.",
)
@_retention
@click.option("--metrics", is_flag=True, help="It may also read /metrics, which shows all tokens and channels.")
@click.option(
    "--console",
    type=click.Choice(CONSOLE_ROLES),
    help="It may sign in to the console, and sees there what all owners have, or its own owner; default: not at all.",
)
@_limit_options
@as_json
def create(
    name: str,
    owner: str | None,
    models: Stated | None,
    tools: Stated | None,
    expires: Stated | None,
    stores: bool | None,
    retention: Stated | None,
    metrics: bool,
    console: str | None,
    as_json: bool,
    **stated: Any,
) -> None:
    """Create the token NAME. Its secret is printed once and cannot be shown again."""
    with open_ready_store() as store:
        token, secret = store.tokens.create(
            name,
            name if owner is None else owner,
            models=_value(models) or None,
            tools=_value(tools) or None,
            expires_at=_value(expires),
            stores=stores is not False,
            limits=_lifted(_limited(UNSTATED, stated), models, stores),
            retention=_value(retention),
            metrics=metrics,
            console=console,
        )
    if as_json:
        print_json({"token": secret, **token.wire()})
    else:
        click.echo(secret)
        click.echo(f'made token "{token.name}" of {token.owner}, shown once', err=True)


@tokens.command()
@click.argument("name")
@click.option("--models", type=_MODELS, help="The models that it may use; '*' for all.")
@click.option("--tools", type=_TOOLS, help="The tool servers that it may use; none for none.")
@click.option("--expires", type=_EXPIRY, help="When it expires: 90d, 12h, a date in UTC, or never.")
@click.option("--store/--no-store", "stores", default=None, help="Whether content of its requests may be stored.")
@_retention
@click.option("--metrics/--no-metrics", "metrics", default=None, help="Whether it may read /metrics.")
@click.option("--console", type=click.Choice([*CONSOLE_ROLES, "none"]), help="Its role in the console, or none.")
@_limit_options
@as_json
@click.pass_context
def update(
    ctx: click.Context,
    /,
    name: str,
    models: Stated | None,
    tools: Stated | None,
    expires: Stated | None,
    stores: bool | None,
    retention: Stated | None,
    metrics: bool | None,
    console: str | None,
    as_json: bool,
    **stated: Any,
) -> None:
    """Change the token NAME. What no option names stays. Running workers follow within two seconds."""
    with open_ready_store() as store:
        token = store.tokens.named(name)
        if token is not None:
            changed = replace(
                token,
                models=_value(models, token.models),
                tools=_value(tools, token.tools),
                expires_at=_value(expires, token.expires_at),
                stores=token.stores if stores is None else stores,
                limits=_lifted(_limited(token.limits, stated), models, stores),
                retention=_value(retention, token.retention),
                metrics=token.metrics if metrics is None else metrics,
                console=token.console if console is None else None if console == "none" else console,
            )
            token = changed if store.tokens.update(changed) else None
    if token is None:
        _unknown(ctx, name, "change")
    elif as_json:
        print_json(token.wire())
    else:
        click.echo(f"changed {name}")


@tokens.command()
@click.argument("name")
@click.option(
    "--overlap",
    type=Read("duration", token_fields.overlap),
    default="24h",
    help="How long the secret of now still works; 0s for one that has leaked. Default: 24h.",
)
@as_json
@click.pass_context
def rotate(ctx: click.Context, name: str, overlap: Stated, as_json: bool) -> None:
    """Give the token NAME another secret. It is printed once; name, rights, limits and history stay."""
    with open_ready_store() as store:
        rotated = store.tokens.rotate(name, overlap.value)
    if rotated is None:
        _unknown(ctx, name, "rotate")
        return
    token, secret, until = rotated
    if as_json:
        print_json({"token": secret, **token.wire(), "old_secret_until": until})
        return
    click.echo(secret)
    ended = f"works until {moment(until)} UTC" if until else "ends within two seconds"
    click.echo(f'new secret of token "{name}", shown once; the old one {ended}', err=True)


def _unknown(ctx: click.Context, name: str, verb: str) -> None:
    click.echo(f"antiphon: there is no token {name!r} to {verb}", err=True)
    click.echo(f"  see the tokens: {typed()} tokens list", err=True)
    ctx.exit(NOT_FOUND)


@tokens.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List all tokens, without their secrets."""
    with open_ready_store() as store:
        known, overlaps = store.tokens.all(), store.tokens.earlier_secrets()
    if as_json:
        print_json([{**token.wire(), "old_secret_until": overlaps.get(token.key)} for token in known])
        return
    head = ("name", "owner", "prefix", "state", "expires", "last used", "limits", "models", "tools")
    click.echo(table(head, (_row(token, overlaps.get(token.key)) for token in known)))


@tokens.command()
@click.argument("name")
@click.pass_context
def revoke(ctx: click.Context, name: str) -> None:
    """Revoke the token NAME. Running workers refuse it within two seconds."""
    with open_ready_store() as store:
        revoked = store.tokens.revoke(name)
    if not revoked:
        _unknown(ctx, name, "revoke")
    click.echo(f"revoked {name}; another token may use the name now")


def _row(token: Token, overlap: int | None) -> tuple[object, ...]:
    expires, used = moment(token.expires_at), moment(token.last_used_at)
    may_use = some(token.models) or "*", some(token.tools)
    return token.name, token.owner, token.prefix, _state(token, overlap), expires, used, _limits(token.limits), *may_use


def _limits(limits: Limits) -> str:
    """`60 rpm, 2Mtok/day`; a limit of the table that the token lifts is `no rpm`."""
    counted = {"rpm": limits.rpm, "tpm": limits.tpm}
    words = [f"{value or 'no'} {name}" for name, value in counted.items() if value is not None]
    if limits.concurrency is not None:
        words.append(f"{limits.concurrency or 'any number'} at once")
    if limits.budgets is not None:
        words += [budget.text for budget in limits.budgets] or ["no budget"]
    if limits.tags is not None:
        words.append(f"channels {'/'.join(limits.tags) or '*'}")
    words += ["every model"] if limits.models is not None else []
    words += ["may store"] if limits.no_store is False else []
    return ", ".join(words) or "-"


def _state(token: Token, overlap: int | None) -> str:
    """`overlap`: when its earlier secrets end; None when none works."""
    if token.revoked_at is not None:
        return "revoked"
    if token.expires_at is not None and token.expires_at <= time():
        return "expired"
    return f"active, old secret until {moment(overlap)}" if overlap else "active"
