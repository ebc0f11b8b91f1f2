"""antiphon tree: a conversation with all its branches, one line a response."""

from __future__ import annotations

import click

from app.cli.context import as_json, find_response, open_store, print_json
from app.cli.output import moment, table
from app.reports.trees import SHORT, drawn, load_tree, notes, summary
from app.store.tree import Node

#: Behind the response that was given.
_MARK = " ◀"

_HEAD = ("response", "time (UTC)", "status", "model", "channel", "context", "output", "")


@click.command(short_help="Draw the conversation that RESPONSE_ID belongs to.")
@click.argument("response_id")
@as_json
def tree(response_id: str, as_json: bool) -> None:
    """Draw the conversation that RESPONSE_ID belongs to, from its first response on.

    RESPONSE_ID may be the beginning of an id. Exit code 4 when there is no such response.
    """
    with open_store() as store:
        store.schema.check()
        owner, found = find_response(store, response_id)
        read = load_tree(store, owner, found)
    if as_json:
        print_json({"id": found, "whole": read.whole, "responses": [node.wire() for node in read.nodes]})
        return
    click.echo(table(_HEAD, (_row(drawing, node, found) for drawing, node in drawn(read.nodes))))
    click.echo(summary(read))


def _row(drawing: str, node: Node, marked: str) -> tuple[object, ...]:
    name = f"{drawing}{node.id[:SHORT]}{_MARK if node.id == marked else ''}"
    status = "deleted" if node.deleted else node.status
    usage = node.usage
    tokens = (usage.input_tokens, usage.output_tokens) if usage else (None, None)
    return name, moment(node.created_at), status, node.model, node.channel, *tokens, "; ".join(notes(node)) or " "
