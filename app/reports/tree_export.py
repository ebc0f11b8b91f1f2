"""A conversation as a file: all its items as JSON, the text of one line as Markdown, or the tree for Graphviz."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.contract.items import description
from app.contract.outline import Outline
from app.errors import InvalidRequest, PayloadTooLarge
from app.reports.tree_names import TreeLinks, TreeNames, is_placed, tree_names
from app.reports.trees import rounded
from app.store.store import Store
from app.store.tree import Node, Tree

LARGEST = 128 * 1024 * 1024
"""Bytes of a file."""


@dataclass(frozen=True, slots=True)
class Format:
    suffix: str
    content_type: str
    has_content: bool
    """It shows what was said."""


FORMATS: Mapping[str, Format] = {
    "json": Format("json", "application/json", True),
    "markdown": Format("md", "text/markdown; charset=utf-8", True),
    "dot": Format("dot", "text/vnd.graphviz; charset=utf-8", False),
}


def format_named(name: str) -> Format:
    """Raises InvalidRequest."""
    if name not in FORMATS:
        raise InvalidRequest(f"Unknown format {name!r}. Supported are: {', '.join(FORMATS)}.", param="as")
    return FORMATS[name]


def file_name(tree: Tree, at: str, format: str) -> str:
    """Plain ASCII: `conversation-cf0ea7.json`, `conversation-cf0ea7-turn-15b.md`."""
    root = tree.nodes[0].id
    name = tree_names(TreeLinks(tree.nodes)).names.get(at)
    turn = f"-turn-{name}" if format == "markdown" and name and name.isalnum() and name.isascii() else ""
    return f"conversation-{root[-6:]}{turn}.{FORMATS[format].suffix}"


def exported(store: Store, tree: Tree, at: str, format: str) -> bytes:
    """The file. `at`: the id of the turn to which the Markdown goes. Raises InvalidRequest for an unknown format and
    PayloadTooLarge."""
    format_named(format)
    lines = {"json": _json, "markdown": _markdown, "dot": _dot}[format](store, tree, at)
    parts: list[bytes] = []
    size = 0
    for part in lines:
        parts.append(part)
        size += len(part)
        if size > LARGEST:
            raise PayloadTooLarge(
                f"The file would be larger than {LARGEST} bytes. The command 'antiphon db export' writes files of any"
                " size."
            )
    return b"".join(parts)


def _with_bodies(store: Store, nodes: Sequence[Node]) -> Iterator[tuple[Node, tuple[str, str] | None]]:
    """Each turn with its input and output, as far as they are stored."""
    bodies = store.trees.contents([node.key for node in nodes])
    body = next(bodies, None)
    for node in nodes:
        if body is not None and body[0] == node.key:
            yield node, body[1:]
            body = next(bodies, None)
        else:
            yield node, None


# --- JSON -------------------------------------------------------------------------------------------------------


def _json(store: Store, tree: Tree, at: str) -> Iterator[bytes]:
    """`responses` stand as they were begun. `input` holds the turn's own items, and is null where nothing is stored."""
    names = tree_names(TreeLinks(tree.nodes)).names
    head = orjson.dumps({"object": "conversation.tree", "id": tree.nodes[0].id, "at": at, "whole": tree.whole})
    yield head[:-1] + b',"responses":['
    for number, (node, body) in enumerate(_with_bodies(store, tree.nodes)):
        input, output = map(orjson.Fragment, body) if body else (None, None)
        wire = {"turn": names[node.id] or None, **node.wire(), "input": input, "output": output}
        yield (b",\n" if number else b"\n") + orjson.dumps(wire)
    yield b"\n]}\n"


# --- Markdown ---------------------------------------------------------------------------------------------------


def _markdown(store: Store, tree: Tree, at: str) -> Iterator[bytes]:
    """The line from the first turn to this one, as one reads it."""
    links = TreeLinks(tree.nodes)
    names = tree_names(links)
    wanted = links.line_to(at)
    line = sorted((node for node in tree.nodes if node.id in wanted), key=lambda node: names.depths[node.id])
    yield f"# Conversation {tree.nodes[0].id}\n".encode()
    for node, body in _with_bodies(store, line):
        yield f"\n## Turn {names.names[node.id] or 'in flight'}\n\n{_facts(node)}\n".encode()
        if body is None:
            yield b"\n*Its text is not stored.*\n"
        for text in body or ():
            for item in orjson.loads(text):
                yield "\n".join(("", *_item(item), "")).encode()


def _facts(node: Node) -> str:
    words = [node.id, node.status, node.model, node.channel or ""]
    return f"*{', '.join(filter(None, words))}*"


def _item(item: Mapping[str, Any]) -> Iterator[str]:
    """A message as it is; what a tool got or gave in a block of its own."""
    spoken = said(item)
    yield f"**{spoken.by}**"
    yield ""
    yield spoken.text if spoken.is_prose else _fenced(spoken.text)


def _fenced(text: str) -> str:
    """With more backticks than the text has in a row."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


@dataclass(frozen=True, slots=True)
class Said:
    """One item as one reads it."""

    by: str
    """The role of a message, or the type and the name of another item."""
    text: str
    is_prose: bool


def said(item: Mapping[str, Any]) -> Said:
    role = item.get("role")
    shown = {**item, "name": None}
    text = "\n".join(value if isinstance(value, str) else orjson.dumps(value).decode() for value in description(shown))
    words = [str(role or item.get("type") or "item")]
    if isinstance(name := item.get("name"), str) and not role:
        words.append(name)
    return Said(" ".join(words), text, bool(role))


# --- Graphviz ---------------------------------------------------------------------------------------------------

_COLOURS = {"failed": "red", "cancelled": "red", "incomplete": "orange"}


def _dot(_store: Store, tree: Tree, at: str) -> Iterator[bytes]:
    """The tree without any text: dotted where the parent was inferred."""
    links = TreeLinks(tree.nodes)
    names = tree_names(links)
    chain = links.line_to(at)
    yield b'digraph conversation {\n  node [shape=box, fontname="sans-serif"];\n'
    for node in links.order:
        yield f"  {_quoted(node.id)} [{_attributes(node, names, chain)}];\n".encode()
        above = links.above(node)
        if above is not None:
            style = "" if node.parent and not node.inferred else " [style=dotted]"
            yield f"  {_quoted(above)} -> {_quoted(node.id)}{style};\n".encode()
    yield b"}\n"


def _attributes(node: Node, names: TreeNames, chain: frozenset[str]) -> str:
    facts = [names.names[node.id] or "in flight", what_happened(node), node.channel or ""]
    if node.usage:
        facts.append(f"{rounded(node.usage.input_tokens)} in, {rounded(node.usage.output_tokens)} out")
    attributes = [f"label={_quoted(chr(10).join(filter(None, facts)))}"]
    if not node.stored or node.deleted:
        attributes.append("style=dashed")
    if node.id in chain:
        attributes.append("penwidth=2")
    if node.compacted and is_placed(node):
        attributes.append("shape=diamond")
    if colour := _COLOURS.get(node.status):
        attributes.append(f"color={colour}")
    return ", ".join(attributes)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


# --- words ------------------------------------------------------------------------------------------------------


def what_happened(node: Node) -> str:
    """`user → exec_command ×2`, `2 results → message`; empty where it is not known."""
    return " → ".join(filter(None, (went_in(node), came_out(node)))) if node.outline else ""


def went_in(node: Node) -> str:
    outline = node.outline or Outline()
    if outline.asked:
        return "user"
    if outline.results:
        return "1 result" if outline.results == 1 else f"{outline.results} results"
    return ""


def came_out(node: Node) -> str:
    if node.outline is None:
        return ""
    calls = counted_calls(list(node.outline.calls.items()))
    return calls or ("message" if node.outline.message else "" if is_placed(node) else "nothing whole")


def counted_calls(calls: Sequence[tuple[str, int]]) -> str:
    """`exec_command ×2, apply_patch`."""
    return ", ".join(name if count == 1 else f"{name} ×{count}" for name, count in calls)
