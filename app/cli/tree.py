"""antiphon tree: a conversation with all its branches, a line a response."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from app.cli.context import as_json, find_response, open_store, print_json
from app.cli.output import moment, rounded, table
from app.store import Node, Tree

#: Enough of an id to be found by: its prefix, its second, and what tells it from others of that second.
_SHORT = 19
_HERE = " ◀"

#: In front of a response: the first of a tree, one that goes on from the line above, the first of a branch.
_ROOT = "┌ "
_ON = {False: "│ ", True: "┊ "}
_BRANCH = {False: "├─ ", True: "├┄ "}
_LAST_BRANCH = {False: "└─ ", True: "└┄ "}

_HEAD = ("response", "time (UTC)", "status", "model", "channel", "context", "output", "")


@click.command(short_help="Draw the conversation that RESPONSE_ID belongs to.")
@click.argument("response_id")
@as_json
def tree(response_id: str, as_json: bool) -> None:
    """Draw the conversation that RESPONSE_ID belongs to, from its first response on.

    RESPONSE_ID may be the beginning of an id. Exit code 4 when there is no such response.
    """
    with open_store() as store:
        store.check_schema()
        owner, found = find_response(store, response_id)
        read = store.tree(owner, found) or Tree((), True)
    if as_json:
        print_json({"id": found, "whole": read.whole, "responses": [node.wire() for node in read.nodes]})
        return
    click.echo(table(_HEAD, (_row(drawing, node, found) for drawing, node in drawn(read.nodes))))
    click.echo(_summary(read))


def drawn(nodes: Sequence[Node]) -> Iterator[tuple[str, Node]]:
    """The responses, each below the one it goes on from, with the lines in front of it. Only branches are indented."""
    known = {node.id for node in nodes}
    below: defaultdict[str | None, list[Node]] = defaultdict(list)
    for node in nodes:
        below[node.parent if node.parent in known else None].append(node)
    waiting = [(_ROOT, "", node) for node in reversed(below[None])]
    while waiting:
        drawing, margin, node = waiting.pop()
        yield drawing, node
        waiting.extend(reversed(_drawn_below(below[node.id], margin)))


def _drawn_below(children: Sequence[Node], margin: str) -> list[tuple[str, str, Node]]:
    if len(children) == 1:
        return [(margin + _ON[children[0].inferred], margin, children[0])]
    return [
        (margin + _LAST_BRANCH[child.inferred], margin + "   ", child)
        if child is children[-1]
        else (margin + _BRANCH[child.inferred], margin + "│  ", child)
        for child in children
    ]


def _row(drawing: str, node: Node, here: str) -> tuple[object, ...]:
    name = f"{drawing}{node.id[:_SHORT]}{_HERE if node.id == here else ''}"
    status = "deleted" if node.deleted else node.status
    usage = node.usage
    tokens = (usage.input_tokens, usage.output_tokens) if usage else (None, None)
    return name, moment(node.created_at), status, node.model, node.channel, *tokens, "; ".join(notes(node)) or " "


def notes(node: Node) -> Iterator[str]:
    """What is out of the ordinary with a response."""
    if node.compaction is not None and "failed" in node.compaction:
        yield f"compaction failed: {node.compaction['failed']}"
    elif node.compacted:
        yield compacted(node.compaction or {})
    if failed := [attempt for attempt in node.attempts if attempt.get("error")]:
        yield "⚠ " + ", ".join(f"{attempt['channel']} {attempt['error']}" for attempt in failed)
    if node.error and node.error.get("code") and not failed:
        yield str(node.error["code"])
    if node.incomplete_details and node.incomplete_details.get("reason"):
        yield str(node.incomplete_details["reason"])
    if node.usage and node.usage.estimated:
        yield "≈ estimated"
    if not node.stored:
        yield "not stored"


def compacted(note: Mapping[str, Any]) -> str:
    before, after = note.get("before"), note.get("after")
    if before is None:
        return "✂ compacted"
    return f"✂ {rounded(before)} → {rounded(after) if after is not None else '?'}"


def _summary(read: Tree) -> str:
    nodes = read.nodes
    forks = sum(1 for drawing, _ in drawn(nodes) if drawing.endswith((*_BRANCH.values(), *_LAST_BRANCH.values())))
    told = [
        counted(len(nodes), "response", "responses"),
        counted(forks, "branch", "branches"),
        counted(sum(node.compacted for node in nodes), "compaction", "compactions"),
        counted(sum(node.inferred for node in nodes), "inferred link (┊ ┄)", "inferred links (┊ ┄)"),
    ]
    return ", ".join(filter(None, told)) + ("" if read.whole else "; there are more, which are not shown")


def counted(count: int, one: str, many: str) -> str:
    """Nothing for none."""
    return f"{count:,} {one if count == 1 else many}" if count else ""
