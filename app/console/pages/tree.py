"""/console/c/ID: the tree of one conversation, by the id of any of its responses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from flask import Blueprint, Response, request

from app.console.access import Visitor, signed_in
from app.console.answers import attachment, fragment, is_swap, page
from app.console.tree_drawing import drawn_curve
from app.console.tree_layout import Layout, curve, lay_out
from app.console.tree_rows import TreeRows
from app.console.tree_view import Asked, TreeView, matches, turn_detail
from app.errors import Forbidden, InvalidRequest, NotFound
from app.ids import known_id
from app.reports.cache import CacheReport, explain_turn
from app.reports.conversations import title_of
from app.reports.tree_export import exported, file_name, format_named, said
from app.reports.tree_names import TreeLinks, tree_names
from app.reports.trees import load_tree
from app.store.tree import Node, Tree

blueprint = Blueprint("tree", __name__)

LONGEST = 20_000
"""Characters of one item's text that are shown before all of it is asked for."""
LARGEST = 4_000_000
"""Characters of all that is shown at once."""
_LONGEST_SEARCH = 200
_MOST_IDS = 50


@blueprint.get("/c/<id_>")
@signed_in
def tree(visitor: Visitor, id_: str) -> Response:
    read = _load(visitor, id_)
    view, layout = _view(visitor, read, _asked(read, id_))
    facts, limit = _facts(visitor, layout)
    detail = turn_detail(view, _cache(visitor, view), request.url_root.rstrip("/"), _price(visitor, view))
    context = curve(layout)
    drawn = drawn_curve(context, layout.names, view.at, limit) if len(context.points) > 1 else None
    return page(
        "tree.html",
        visitor,
        active="Conversations",
        view=view,
        rows=TreeRows(view),
        detail=detail,
        drawn=drawn,
        limit=limit,
        figures=view.figures(facts),
        entries=layout.entries,
    )


@blueprint.get("/c/<id_>/turns")
@signed_in
def turns(visitor: Visitor, id_: str) -> Response:
    """The list of turns, for a page that is open."""
    read = _load(visitor, id_)
    view, layout = _view(visitor, read, _asked(read, id_))
    rows = TreeRows(view)
    return fragment("_tree_turns.html", visitor, view=view, rows=rows, detail=None, entries=layout.entries)


@blueprint.get("/c/<id_>/fold")
@signed_in
def fold(visitor: Visitor, id_: str) -> Response:
    """The rows of a fold, from the turn `first` to the turn `last`."""
    read = _load(visitor, id_)
    view, layout = _view(visitor, read, _asked(read, id_))
    drawn = list(layout.rows())
    places = {row.turn.id: at for at, row in enumerate(drawn)}
    first, last = (places.get(request.args.get(name, "")) for name in ("first", "last"))
    if first is None or last is None:
        raise NotFound("These turns are not in the conversation any more.")
    return fragment("_tree_rows.html", visitor, rows=TreeRows(view), detail=None, entries=drawn[first : last + 1])


@blueprint.post("/c/<id_>/text")
@signed_in
def text(visitor: Visitor, id_: str) -> Response:
    """What one turn says. A look at another's is recorded, with its reason, before anything is shown."""
    read = _load(visitor, id_)
    node = _node(read, id_)
    reason = visitor.form.get("reason")
    if node.owner != visitor.owner:
        if not reason:
            raise InvalidRequest("Please give a reason: it is recorded.", param="reason")
        visitor.gateway.store.audit.record(visitor.token, "show text", node.id, owner=node.owner, reason=reason)
    names = tree_names(TreeLinks(read.nodes)).names
    line = _line(read, node)
    with_before = bool(visitor.form.get("before"))
    shown = _texts(visitor, line if with_before else [node], names, whole=bool(visitor.form.get("all")))
    values: dict[str, Any] = {
        "id": node.id,
        "turn_name": names[node.id] or "–",
        "anchor": f"t{names[node.id]}",
        "parts": shown.parts,
        "cut": shown.cut,
        "before": None if with_before else len(line) - 1,
        "reason": reason,
    }
    if is_swap():
        return fragment("_tree_text.html", visitor, **values)
    return page("tree_text.html", visitor, active="Conversations", **values)


@blueprint.get("/c/<id_>/export")
@signed_in
def export(visitor: Visitor, id_: str) -> Response:
    """One's own conversation as a file. Another's is asked for by a form, because that is recorded."""
    read = _load(visitor, id_)
    if read.nodes[0].owner != visitor.owner:
        raise Forbidden("Exports of another's conversation are recorded: use the button on its page.")
    return _export(visitor, read, id_, request.args.get("as", ""), request.args.get("at", ""))


@blueprint.post("/c/<id_>/export")
@signed_in
def export_recorded(visitor: Visitor, id_: str) -> Response:
    read = _load(visitor, id_)
    owner, format = read.nodes[0].owner, visitor.form.get("as")
    format_named(format)
    if owner != visitor.owner:
        visitor.gateway.store.audit.record(visitor.token, "export", read.nodes[0].id, owner=owner, reason=format)
    return _export(visitor, read, id_, format, visitor.form.get("at"))


def _export(visitor: Visitor, read: Tree, id_: str, format: str, at: str) -> Response:
    kind = format_named(format)
    ids = {node.id for node in read.nodes}
    turn = at if at in ids else id_
    body = exported(visitor.gateway.store, read, turn, format)
    return attachment(body, file_name(read, turn, format), kind.content_type)


# --- what is asked for ------------------------------------------------------------------------------------------


def _load(visitor: Visitor, id_: str) -> Tree:
    """Raises NotFound, for another owner's response as for an unknown id."""
    at = request.args.get("at") or id_
    read = load_tree(visitor.gateway.store, visitor.scope, id_, at) if known_id(id_) else Tree((), True)
    if not read.nodes:
        raise NotFound("There is no such conversation.")
    return read


def _asked(read: Tree, id_: str) -> Asked:
    """The parameters. What names no turn of this tree is left out."""
    ids = {node.id for node in read.nodes}

    def known(name: str) -> str | None:
        value = request.args.get(name, "")
        return value if value in ids else None

    def listed(name: str) -> tuple[str, ...]:
        return tuple(value for value in request.args.getlist(name)[:_MOST_IDS] if value in ids)

    named = id_ if id_ in ids and id_ != read.nodes[0].id else None
    fresh = request.args.get("fresh", "")
    return Asked(
        at=known("at") or named,
        tip=known("tip"),
        line=known("line"),
        q=request.args.get("q", "").strip()[:_LONGEST_SEARCH],
        folds=request.args.get("fold") != "none",
        whole=listed("all"),
        unfolded=listed("unfold"),
        fresh=int(fresh) if fresh.isascii() and fresh.isdigit() and len(fresh) < 19 else None,
    )


def _view(visitor: Visitor, read: Tree, asked: Asked) -> tuple[TreeView, Layout]:
    names = tree_names(TreeLinks(read.nodes))
    found = [node.id for node in read.nodes if matches(node, names.names[node.id], asked.q)] if asked.q else []
    layout = lay_out(read.nodes, asked.wanted(found), names)
    is_own = read.nodes[0].owner == visitor.owner
    title = title_of(read.beginning) if is_own else None
    return TreeView(read, layout, asked, found, is_own=is_own, title=title), layout


def _facts(visitor: Visitor, layout: Layout) -> tuple[int | None, int | None]:
    """The window of the newest turn's model, and the tokens at which the gateway compacts its histories."""
    model = layout.trunk[-1].model
    known = visitor.gateway.model_facts
    return known.facts(model).context_window, known.compaction_threshold(model)


def _cache(visitor: Visitor, view: TreeView) -> CacheReport | None:
    node = view.by_id.get(view.at or "")
    if node is None or node.usage is None:
        return None
    return explain_turn(visitor.gateway.store, node.owner, node.key, view.tree.base)


def _price(visitor: Visitor, view: TreeView) -> str:
    """Where an operator finds the price of the selected turn's model: `channels.yaml:31`."""
    node, table = view.by_id.get(view.at or ""), visitor.gateway.state.table
    line = table.current.price_line(node.model) if node and visitor.is_operator else None
    return f"{table.path.name}:{line}" if line else ""


def _node(read: Tree, id_: str) -> Node:
    node = next((node for node in read.nodes if node.id == id_), None)
    if node is None or not node.stored or node.deleted:
        raise NotFound("Of this turn no text is stored.")
    return node


def _line(read: Tree, node: Node) -> list[Node]:
    """The stored turns that the model was given with this one, oldest first: from the newest compaction on."""
    by_id = {one.id: one for one in read.nodes}
    line = [node]
    while not line[-1].compacted and line[-1].parent in by_id and len(line) <= len(by_id):
        line.append(by_id[line[-1].parent or ""])
    return [one for one in reversed(line) if one.stored and not one.deleted]


# --- texts ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    by: str
    text: str
    turn: str
    before: bool
    """It belongs to an earlier turn."""


@dataclass(frozen=True, slots=True)
class Texts:
    parts: list[Part]
    cut: int
    """Characters that are not shown."""


def _texts(visitor: Visitor, nodes: Sequence[Node], names: Any, *, whole: bool) -> Texts:
    """`whole`: as far as `LARGEST` allows."""
    parts: list[Part] = []
    cut, left = 0, LARGEST
    last = nodes[-1].key if nodes else None
    for key, by, words in _items(visitor, nodes):
        shown = words[: min(left, LARGEST if whole else LONGEST)]
        left -= len(shown)
        cut += len(words) - len(shown)
        node = next(node for node in nodes if node.key == key)
        if shown or not words:
            parts.append(Part(by, shown, names[node.id] or "–", key != last))
    return Texts(parts, cut)


def _items(visitor: Visitor, nodes: Sequence[Node]) -> Iterator[tuple[int, str, str]]:
    for key, *bodies in visitor.gateway.store.trees.contents([node.key for node in nodes]):
        for body in bodies:
            for item in orjson.loads(body):
                spoken = said(item)
                yield key, spoken.by, spoken.text
