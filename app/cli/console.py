"""antiphon console: a sign-in link for the console."""

from __future__ import annotations

from shlex import quote

import click

from app.cli.address import can_sign_in, url_of, url_of_console
from app.cli.context import open_ready_store, open_store
from app.cli.parameters import Text
from app.contract.records import Token
from app.errors import ConfigurationError
from app.settings import Settings, load_settings
from app.store.console_sessions import CODE_LIFETIME
from app.store.store import Store


@click.command()
@click.option("--token", "name", type=Text(), help="The token to sign in with; default: the first one of an operator.")
@click.option("--code", "code_only", is_flag=True, help="Print the code of the link alone.")
def console(name: str | None, code_only: bool) -> None:
    """Print a link that signs in to the console once, within a minute."""
    settings = load_settings()
    if not settings.console:
        raise ConfigurationError("the console is switched off", "set ANTIPHON_CONSOLE=on and restart the gateway")
    with open_ready_store() as store:
        code = store.console_sessions.new_code(_chosen(store, name))
    if code_only:
        click.echo(code)
        return
    url = url_of_console(settings)
    click.echo(_link(url, code))
    click.echo(f"works once, within {CODE_LIFETIME} seconds", err=True)
    if not can_sign_in(url):
        click.echo("over http only the machine itself gets pages: set ANTIPHON_URL to the https URL", err=True)


def first_link(settings: Settings) -> str:
    """Where the console is: a link that signs in with the oldest token of an operator, and the plain address if there
    is no such token, or the console shows no page there. Empty for a console that is off or has no URL."""
    if not settings.console or not (settings.url or url_of(settings.bind)):
        return ""
    url = url_of_console(settings)
    with open_store(settings) as store:
        token = first_operator(store.tokens.all())
        if token is None or not can_sign_in(url):
            return url
        return _link(url, store.console_sessions.new_code(token))


def _link(url: str, code: str) -> str:
    return f"{url}/sign-in#code={code}"


def _chosen(store: Store, name: str | None) -> Token:
    """The token with this name, or the oldest of an operator. Raises ConfigurationError when it may not sign in."""
    chosen = first_operator(store.tokens.all()) if name is None else store.tokens.named(name)
    if chosen is None:
        whose = "There is no token of an operator." if name is None else f"There is no token '{name}'."
        raise ConfigurationError(whose, f"run: antiphon tokens create {quote(name or 'NAME')} --console operator")
    if not chosen.console:
        fix = f"run: antiphon tokens update {quote(chosen.name)} --console operator"
        raise ConfigurationError(f"The token '{chosen.name}' has no right to the console.", fix)
    if not chosen.is_valid:
        fix = f"run: antiphon tokens update {quote(chosen.name)} --expires 90d"
        raise ConfigurationError(f"The token '{chosen.name}' has expired.", fix)
    return chosen


def first_operator(tokens: list[Token]) -> Token | None:
    """The oldest of the tokens whose role is `operator`."""
    return next((token for token in tokens if token.console == "operator" and token.is_valid), None)
