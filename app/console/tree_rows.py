"""The rows of a tree as HTML. They are written here because a page has thousands of them, for which a template takes
three times as long. All words of clients, models and upstreams are escaped.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from markupsafe import Markup, escape

from app.console.formatting import UNKNOWN, amount, count, duration, seconds, share
from app.console.tree_drawing import context_bar, fold_graph, growth_bar, more_graph, row_graph
from app.console.tree_layout import Entry, Fold, More, Row, Shape, failed_over
from app.console.tree_view import TreeView, clock, failover_words, sizes
from app.contract.records import RUNNING
from app.reports.tree_export import came_out, went_in
from app.store.tree import Node

#: The client of turns that the playground sends.
PLAYGROUND = "console"
_CLASSES = {Shape.COMPACTION: " cut", Shape.IN_FLIGHT: " live"}
_WAITS = {"in_progress": "in flight", "queued": "waiting for a worker"}
_CURRENT = ' aria-current="true"'
_INFERRED = '<span class="vh">, parent inferred</span>'
_TIP, _FOUND = (f' <span class="tag">{word}</span>' for word in ("tip", "found"))
#: Symbol, kind and words.
_Badge = tuple[str, str, str]


class TreeRows:
    """The rows of one page."""

    def __init__(self, view: TreeView) -> None:
        self._view = view
        self._suffix = escape(view.suffix)

    def written(self, entries: Iterable[Entry], detail: str = "") -> Markup:
        """`detail`: the HTML of the selected turn, which stands in its row."""
        return Markup("".join([self._written(entry, detail) for entry in entries]))  # noqa: S704

    def _written(self, entry: Entry, detail: str) -> str:
        if isinstance(entry, Row):
            return self._turn(entry, detail)
        return self._fold(entry, detail) if isinstance(entry, Fold) else self._more(entry)

    # --- a turn

    def _turn(self, row: Row, detail: str) -> str:
        turn, anchor = row.turn, escape(row.anchor)
        selected, kind = " sel" if row.selected else "", _CLASSES.get(row.shape, "")
        name = escape(row.name or ("…" if row.shape is Shape.IN_FLIGHT else UNKNOWN))
        tip, current = " data-tip" if row.tip else "", _CURRENT if row.selected else ""
        channel = "" if row.channel_changed else " hide-s"
        return (
            f'<li class="turn{selected}{kind}" id="{anchor}">\n  <div class="row">{row_graph(row)}'
            f'<a class="no" data-row{tip} href="?at={escape(turn.id)}{self._suffix}#{anchor}"{current}>'
            f'<span class="vh">turn </span>{name}{_INFERRED if turn.inferred else ""}</a>\n    {self._what(row)}\n'
            f'    <span class="m">{self._numbers(turn)}<span class="ch dim{channel}">{_by(turn)}</span>'
            f'<span class="lo dim">{clock(turn.created_at)}</span></span></div>\n'
            f"{detail if row.selected else ''}</li>\n"
        )

    def _numbers(self, turn: Node) -> str:
        used, dim = turn.usage, "" if self._view.lost_cache(turn) else "dim"
        given, cached, out = (
            (amount(used.input_tokens), share(used.cached_tokens, used.input_tokens), amount(used.output_tokens))
            if used
            else (UNKNOWN,) * 3
        )
        return (
            f'<span class="cx">{context_bar(used, self._view.most_tokens)}</span>'
            f'<span class="cxn"><span class="vh">context </span><b>{given}</b></span>'
            f'<span class="{dim}">{cached}<span class="lab"> cached</span></span>'
            f'<span class="lo dim"><span class="lab">out </span>{out}</span>'
            f'<span><span class="lab">first </span>{seconds(turn.first_byte_ms)}</span>'
            f'<span class="dim hide-s"><span class="lab">total </span>{seconds(turn.total_ms)}</span>'
        )

    def _what(self, row: Row) -> str:
        """What went in and what came out, and all that is unusual."""
        turn = row.turn
        if turn.status in RUNNING:
            words = _in_flight(turn)
        elif row.shape is Shape.COMPACTION:
            words = _compaction(turn)
        else:
            words = _in_and_out(turn)
        badges = "".join(
            [
                f' <span class="badge{" " + kind if kind else ""} wrap"><svg class="i" aria-hidden="true">'
                f'<use href="#i-{name}"/></svg><span>{escape(said)}</span></span>'
                for name, kind, said in self._badges(row)
            ]
        )
        found = _FOUND if turn.id in self._view.found else ""
        return f'<span class="what">{words}{badges}{_TIP if row.tip else ""}{found}</span>'

    def _badges(self, row: Row) -> Iterator[_Badge]:
        node = row.turn
        if row.origin:
            yield "fork", "", f"from {row.origin}{self._fork_words(node)}"
        elif node.retry_of:
            yield "fork", "", "the same input again"
        if node.attempts:
            yield from _attempted(node)
        if node.status != "completed":
            yield from _ended(node)
        if node.compaction is not None and "failed" in node.compaction:
            yield "warn", "warn", f"compaction failed: {node.compaction['failed']}"
        yield from self._storage(row)
        if node.started:
            yield "fork", "", f"started {count(len(node.started))} {'thread' if len(node.started) == 1 else 'threads'}"
        if node.started_by:
            yield "fork", "", f"{node.subagent or 'thread'} of another conversation"

    def _fork_words(self, node: Node) -> str:
        """Where a branch comes from, beside its turn: what differs from the turn before it."""
        before = self._view.by_id.get(node.parent or "")
        if node.retry_of:
            return ", the same input again"
        if node.client == PLAYGROUND:
            return ", in the playground"
        if before is not None and node.client and node.client != before.client:
            return f", by {node.client}"
        if before is not None and node.token and node.token != before.token:
            return f", by {node.token}"
        return ""

    def _storage(self, row: Row) -> Iterator[_Badge]:
        node = row.turn
        parent = self._view.by_id.get(node.parent or "")
        if node.deleted:
            yield "off", "", "deleted"
        elif node.stored or node.status in RUNNING or (parent is not None and not parent.stored):
            if row.first_inferred:
                yield "open", "", "parents inferred from here"
        else:
            yield "open", "", "not stored; parents inferred from here" if row.first_inferred else "not stored"

    # --- what stands for several turns

    def _fold(self, fold: Fold, detail: str) -> str:
        first, last, view = fold.first, fold.last, self._view
        context = amount(last.turn.usage.input_tokens if last.turn.usage else None)
        if view.fetches_folds:
            inside = (
                f'<ol hx-get="{escape(view.fold_url(fold))}" hx-trigger="toggle from:closest details once"'
                f' hx-swap="innerHTML"><li class="empty"><a href="{escape(view.unfold_link(fold))}">'
                "Show these turns</a></li></ol>\n"
            )
        else:
            inside = f"<ol>\n{self.written(fold.rows, detail)}</ol>\n"
        names = f", {escape(first.name)} to {escape(last.name)}"
        return (
            f'<li class="fold" id="f-{escape(first.anchor)}">\n<details><summary data-row><span class="row">'
            f'{fold_graph(fold)}\n    <span class="what"><span>{count(len(fold.rows))} turns'
            f'<span class="vh">{names}</span></span> <span>{escape(_folded(fold))}</span></span>\n'
            f'    <span class="m"><span class="cx">{growth_bar(fold, view.most_tokens)}</span>'
            f'<span class="cxn"><span class="vh">context to </span>→ {context}</span>'
            f'<span>{share(fold.cached_share, 1)}<span class="lab"> cached</span></span>'
            f'<span class="lo"><span class="lab">out </span>{amount(fold.output_tokens)}</span>'
            f'<span class="hide-s"><span class="lab">median first token </span>{seconds(fold.first_byte_ms)}</span>'
            f'<span><span class="lab">total </span>{seconds(fold.total_ms)}</span>'
            f'<span class="ch hide-s">{_by(first.turn)}</span><span class="lo">{clock(first.turn.created_at)}</span>'
            f"</span></span></summary>\n{inside}</details>\n</li>\n"
        )

    def _more(self, more: More) -> str:
        return (
            f'<li class="fold" id="m-{escape(more.parent.id[-12:])}">\n  <div class="row">{more_graph(more)}'
            f'<span class="no" aria-hidden="true"></span><span class="what">'
            f'<a href="{escape(self._view.whole_link(more))}" data-row>{count(more.branches)} more branches</a> '
            f'<span class="to">from {escape(more.name)}, {count(more.turns)} turns</span></span>'
            '<span class="m"></span></div>\n</li>\n'
        )


# --- words ------------------------------------------------------------------------------------------------------


def _by(turn: Node) -> str:
    return f'<span class="lab">by </span>{escape(turn.channel)}' if turn.channel else ""


def _in_and_out(turn: Node) -> str:
    given, came = went_in(turn), came_out(turn)
    asked = "<b>user</b>" if given == "user" else given
    arrow = ' <span class="to">→</span>' if given and came else ""
    return f"<span>{asked}{arrow}{' ' if came else ''}{escape(came)}</span>"


def _in_flight(turn: Node) -> str:
    given, elapsed = went_in(turn), max(0, int(time.time()) - turn.created_at)
    asked = ": <b>user</b>" if given == "user" else f": {given}" if given else ""
    return (
        f'<span>{_WAITS[turn.status]}{asked}, <span data-elapsed="{elapsed}">{duration(elapsed)}</span> so far</span>'
        f' <button class="btn small" type="submit" form="cancel-{escape(turn.id[-12:])}">Cancel</button>'
    )


def _compaction(turn: Node) -> Markup:
    """`182k → 9.4k (−95 %) compaction, native`."""
    note = turn.compaction or {}
    before, after = sizes(turn)
    how = str(note.get("strategy") or ("by the client" if turn.compaction is None else ""))
    words = f"compaction, {how}" if how else "compaction"
    if before is None:
        return Markup('<span><b>compacted</b> <span class="to">{}</span></span>').format(words)
    shrunk = f" (−{100 * (before - after) / before:.0f} %)" if after is not None and before else ""
    change = f"{amount(before)} → {amount(after)}"
    return Markup('<span><b>{}</b>{} <span class="to">{}</span></span>').format(change, shrunk, words)


def _attempted(node: Node) -> Iterator[_Badge]:
    if failed_over(node):
        yield "warn", "warn", failover_words(node)
    if any(attempt.get("shortened") for attempt in node.attempts):
        yield "warn", "warn", "the oldest items were left out"


def _ended(node: Node) -> Iterator[_Badge]:
    if node.status == "incomplete":
        yield "half", "warn", f"stopped: {(node.incomplete_details or {}).get('reason') or 'incomplete'}"
    if node.status == "failed":
        yield "bad", "bad", str((node.error or {}).get("code") or "failed")
    if node.status == "cancelled":
        yield "bad", "bad", "cancelled" + (f" after {seconds(node.total_ms)}" if node.total_ms is not None else "")


def _folded(fold: Fold) -> str:
    """`exec_command ×5, apply_patch ×1`, and what a whole branch hides."""
    tools = [f"{name} ×{calls}" for name, calls in fold.tools[:4]]
    troubles = [f"{number} {word}" for word, number in fold.troubles]
    return ", ".join([*tools, *(["…"] if fold.tools[4:] else []), *troubles]) or "messages"
