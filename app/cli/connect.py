"""antiphon connect: the settings and the code with which a client uses this gateway, ready to be pasted."""

from __future__ import annotations

from collections.abc import Iterator

import click

from app.cli.address import url_of
from app.cli.context import as_json, print_json
from app.cli.parameters import Text
from app.cli.table import read_table
from app.errors import ConfigurationError
from app.reports.connect import CLIENTS, PLACEHOLDER, Guide, guide, target
from app.settings import Settings, load_settings


@click.command(short_help="Print how to configure CLIENT for this gateway.")
@click.argument("client", type=click.Choice(CLIENTS))
@click.option(
    "--url", type=Text(), help="The gateway's base URL; default ANTIPHON_URL, or the address that it listens on."
)
@click.option("--model", type=Text(), help="The model to use; default: the first of the channel table.")
@click.option("--token", type=Text(), default=PLACEHOLDER, help="The token to use; default: a placeholder.")
@as_json
def connect(client: str, url: str | None, model: str | None, token: str, as_json: bool) -> None:
    """Print how to configure CLIENT for this gateway. The command writes no file."""
    settings = load_settings()
    found = guide(client, target(read_table(settings), url or settings.url or _own_url(settings), model, token))
    if as_json:
        print_json(found.wire())
    else:
        click.echo("\n".join(_lines(found)))


def _lines(found: Guide) -> Iterator[str]:
    for number, step in enumerate(found.steps, 1):
        yield f"# {number}. {step.title} {step.file}".rstrip()
        yield step.text
    yield "# If it does not work:"
    for trouble in found.troubles:
        yield f"#   {trouble.error}"
        yield f"#     {trouble.cause}"


def _own_url(settings: Settings) -> str:
    url = url_of(settings.bind)
    if url is None:
        raise ConfigurationError(
            f"this gateway listens on {settings.bind}, which is not a URL", "add --url, or set ANTIPHON_URL"
        )
    return url
