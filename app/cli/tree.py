"""antiphon tree: a conversation with all its branches, one line a response."""

from __future__ import annotations

from typing import Any

import click

from app.cli.context import as_json, find_response, open_store, print_json
from app.cli.output import moment, percent, table
from app.contract.money import shown
from app.reports.cache import CacheReport, cache_notes, explain_all
from app.reports.tree_export import FORMATS, exported
from app.reports.trees import SHORT, drawn, load_tree, notes, summary
from app.store.tree import Node

#: Behind the response that was given.
_MARK = " ◀"

_HEAD = ("response", "time (UTC)", "status", "model", "channel", "context", "cached", "output", "cost", "")


@click.command(short_help="Draw the conversation that RESPONSE_ID belongs to.")
@click.argument("response_id")
@as_json
@click.option(
    "--export",
    "export_as",
    type=click.Choice(list(FORMATS)),
    help="Print a file instead: all items as JSON, the text up to RESPONSE_ID as Markdown, or the tree for Graphviz.",
)
def tree(response_id: str, as_json: bool, export_as: str | None) -> None:
    """Draw the conversation that RESPONSE_ID belongs to, from its first response on.

    RESPONSE_ID may be the beginning of an id. Exit code 4 when there is no such response.
    """
    with open_store() as store:
        store.schema.check()
        owner, found = find_response(store, response_id)
        read = load_tree(store, owner, found)
        if export_as is not None:
            click.echo(exported(store, read, found, export_as), nl=False)
            return
        caches = explain_all(store, owner, [node.key for node in read.nodes])
    if as_json:
        responses = [{**node.wire(), "cache": _wire(caches.get(node.key))} for node in read.nodes]
        print_json({"id": found, "whole": read.whole, "responses": responses})
        return
    rows = (_row(drawing, node, found, caches.get(node.key)) for drawing, node in drawn(read.nodes))
    click.echo(table(_HEAD, rows))
    click.echo(summary(read))


def _wire(cache: CacheReport | None) -> dict[str, Any] | None:
    return cache.wire() if cache else None


def _row(drawing: str, node: Node, marked: str, cache: CacheReport | None) -> tuple[object, ...]:
    name = f"{drawing}{node.id[:SHORT]}{_MARK if node.id == marked else ''}"
    status = "deleted" if node.deleted else node.status
    usage = node.usage
    share = percent(cache.share) if cache and usage else None
    tokens = (usage.input_tokens, share, usage.output_tokens, shown(usage.cost)) if usage else (None,) * 4
    said = "; ".join((*notes(node), *cache_notes(cache))) or " "
    return name, moment(node.created_at), status, node.model, node.channel, *tokens, said
