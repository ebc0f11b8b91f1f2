"""antiphon tree: a conversation with all its branches, one line a response."""

from __future__ import annotations

from typing import Any

import click

from app.cli.context import as_json, find_response, open_ready_store, open_store, print_json
from app.cli.output import moment, percent, table
from app.cli.parameters import Text
from app.contract.money import shown
from app.reports.cache import CacheReport, cache_notes, explain_all
from app.reports.conversations import tree_notes
from app.reports.tree_export import FORMATS, exported
from app.reports.trees import SHORT, drawn, load_tree, notes, summary
from app.store.tree import Node
from app.store.tree_list import MOST, TreeRow, Wanted

#: Behind the response that was given.
_MARK = " ◀"

_HEAD = ("response", "time (UTC)", "status", "model", "channel", "context", "cached", "output", "cost", "")


_LIST_HEAD = (
    *("conversation", "last (UTC)", "owner", "client", "model", "turns", "branches", "compacted", "context", "input"),
    *("cached", "output", "cost", ""),
)


@click.command(short_help="Draw the conversation that RESPONSE_ID belongs to, or list conversations.")
@click.argument("response_id", required=False)
@click.option("--list", "listed", is_flag=True, help="List the newest conversations.")
@click.option("--owner", type=Text(), help="With --list: only those of this owner.")
@click.option("--limit", type=click.IntRange(1, MOST), default=20, show_default=True, help="With --list: how many.")
@as_json
@click.option(
    "--export",
    "export_as",
    type=click.Choice(list(FORMATS)),
    help="Print a file instead: all items as JSON, the text up to RESPONSE_ID as Markdown, or the tree for Graphviz.",
)
def tree(
    response_id: str | None, listed: bool, owner: str | None, limit: int, as_json: bool, export_as: str | None
) -> None:
    """Draw the conversation that RESPONSE_ID belongs to, from its first response on.

    RESPONSE_ID may be the beginning of an id. Exit code 4 when there is no such response.
    """
    if listed == (response_id is not None) or (listed and export_as):
        raise click.UsageError("Name a RESPONSE_ID, or use --list.")
    if response_id is None:
        _print_list(owner, limit, as_json)
    else:
        _print_tree(response_id, as_json, export_as)


def _print_list(owner: str | None, limit: int, as_json: bool) -> None:
    with open_ready_store() as store:
        found = store.tree_list.newest(None, None, Wanted(owner=owner), limit)
    if as_json:
        print_json({"conversations": [row.wire() for row in found]})
    else:
        click.echo(table(_LIST_HEAD, map(_list_row, found)) if found else "There are no conversations.")


def _list_row(row: TreeRow) -> tuple[object, ...]:
    counts = row.counts
    return (
        row.id[:SHORT],
        moment(row.newest_at),
        row.owner,
        row.client or "-",
        row.model,
        counts["turns"],
        counts["branches"],
        counts["compactions"],
        row.context,
        counts["input_tokens"],
        percent(counts["cached_tokens"] / counts["input_tokens"]) if counts["input_tokens"] else None,
        counts["output_tokens"],
        shown(row.cost),
        ", ".join(note for _, note in tree_notes(row)) or " ",
    )


def _print_tree(response_id: str, as_json: bool, export_as: str | None) -> None:
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
