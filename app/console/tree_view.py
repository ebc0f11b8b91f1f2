"""What the page of a tree shows: figures, words of rows, links, and the detail of the selected turn."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from urllib.parse import urlencode

from markupsafe import Markup

from app.console.formatting import UNKNOWN, amount, count, duration, money, seconds, share
from app.console.tree_layout import Fold, Layout, More, Row, Wanted, failed_over
from app.contract.records import RUNNING
from app.reports.cache import CacheReport
from app.reports.requests import ADVICE
from app.reports.tree_names import is_placed
from app.reports.trees import branch_count
from app.store.tree import MOST, Node, Tree

LAZY = 400
"""Turns above which the inside of a fold is fetched when it is opened."""
_TIPS = 12
_HITS = 20
_EXPORTS = (("json", "JSON, all items"), ("markdown", "Markdown, chain of turn {}"), ("dot", "Graphviz, the tree"))


@dataclass(frozen=True, slots=True)
class Asked:
    """The parameters of the page."""

    at: str | None = None
    """The selected turn."""
    tip: str | None = None
    q: str = ""
    folds: bool = True
    whole: tuple[str, ...] = ()
    unfolded: tuple[str, ...] = ()
    fresh: int | None = None
    line: str | None = None
    """The end of the line that an open page has drawn; no link carries it on."""

    def fixed(self) -> list[tuple[str, str]]:
        """What every link of the page carries on."""
        values = [("tip", self.tip or ""), ("q", self.q), ("fold", "" if self.folds else "none")]
        values += [("all", id_) for id_ in self.whole] + [("unfold", id_) for id_ in self.unfolded]
        return [(name, value) for name, value in values if value]

    def wanted(self, found: Sequence[str]) -> Wanted:
        return Wanted(self.at, self.line or self.tip, found, self.whole, self.unfolded, self.folds, self.fresh)


@dataclass(frozen=True, slots=True)
class Jump:
    name: str
    href: str
    at: int
    current: bool = False


def matches(node: Node, name: str, text: str) -> bool:
    """Whether a search finds the turn: by its name, ids, tools, channels, model, status or error."""
    outline = node.outline
    values: list[object] = [node.id, node.request_id, node.channel, node.model, node.upstream_model, node.status]
    values += [*(outline.calls if outline else ()), *(attempt.get("channel") for attempt in node.attempts)]
    values += [*(attempt.get("error") for attempt in node.attempts), *(node.error or {}).values()]
    values.append((node.incomplete_details or {}).get("reason"))
    wanted = text.casefold()
    return name == wanted or any(isinstance(value, str) and wanted in value.casefold() for value in values)


class TreeView:
    """The page of one tree. Templates call it."""

    def __init__(
        self, tree: Tree, layout: Layout, asked: Asked, found: Sequence[str], *, is_own: bool, title: str | None = None
    ) -> None:
        """`title`: the first words of the conversation, for its owner."""
        self.tree, self.layout, self.asked, self.is_own = tree, layout, asked, is_own
        self.names = layout.names
        self.by_id = {node.id: node for node in tree.nodes}
        self.root = min(tree.nodes, key=lambda node: (node.parent in self.by_id, node.key))
        self.title = title or f"Conversation …{self.root.id[-6:]}"
        self.found = frozenset(found)
        self._found = found
        self.most_tokens = max((node.usage.input_tokens for node in tree.nodes if node.usage), default=0)
        self.suffix = "".join(f"&{urlencode([pair])}" for pair in asked.fixed())
        """What follows the selected turn in the address of every link."""
        self.rows = {row.turn.id: row for row in layout.rows()}
        self._visible = {entry.turn.id for entry in layout.entries if isinstance(entry, Row)}

    # --- the head

    @property
    def owner(self) -> str:
        return self.root.owner

    @property
    def at(self) -> str | None:
        return self.asked.at

    @property
    def q(self) -> str:
        return self.asked.q

    @property
    def tip(self) -> str:
        return self.layout.trunk[-1].id

    @property
    def newest(self) -> int:
        return max(node.key for node in self.tree.nodes)

    @property
    def clients(self) -> list[str]:
        return list(dict.fromkeys(node.client for node in self.tree.nodes if node.client))[:3]

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(node.model for node in self.tree.nodes))[:3]

    @property
    def last_at(self) -> int:
        return max(node.completed_at or node.created_at for node in self.tree.nodes)

    @property
    def exports(self) -> list[tuple[str, str]]:
        name = self.names[self.at or self.tip] or "in flight"
        return [(format, words.format(name)) for format, words in _EXPORTS]

    @property
    def continue_from(self) -> str | None:
        """The newest turn of the line that can be continued."""
        return next((node.id for node in reversed(self.layout.trunk) if can_continue(node)), None)

    @property
    def in_flight(self) -> list[Node]:
        return [node for node in self.tree.nodes if node.status in RUNNING]

    def figures(self, window: int | None) -> list[tuple[str, str, str]]:
        """Name, value and small print of the numbers of the page."""
        nodes = self.tree.nodes
        used = [node.usage for node in nodes if node.usage]
        tokens = sum(usage.input_tokens for usage in used)
        cached = sum(usage.cached_tokens for usage in used)
        cuts = [node for node in nodes if node.compacted and is_placed(node)]
        costs = [usage.cost for usage in used if usage.cost is not None]
        times = [node.first_byte_ms for node in nodes if node.first_byte_ms is not None]
        now = self._context_now()
        side = [self.names[tip.id] for tip in self.layout.tips if tip.id != self.tip]
        last = sizes(cuts[-1]) if cuts else None
        return [
            ("Turns", count(len(nodes)), duration(self.last_at - self.root.created_at)),
            (
                "Branches",
                count(branch_count(nodes)),
                f"tips {', '.join(side[:3])}{' …' if side[3:] else ''}" if side else "",
            ),
            ("Compactions", count(len(cuts)), f"{amount(last[0])} → {amount(last[1])}" if last else ""),
            ("Context now", amount(now), f"of {amount(window)}" if window else ""),
            ("Tokens in", amount(tokens) if used else UNKNOWN, f"{share(cached, tokens)} cached"),
            (
                "Tokens out",
                amount(sum(usage.output_tokens for usage in used)) if used else UNKNOWN,
                f"{amount(sum(usage.reasoning_tokens for usage in used))} reasoning",
            ),
            (
                "Cost",
                money(sum(costs)) if costs else UNKNOWN,
                _cost_words(len(used) - len(costs), cuts),
            ),
            ("First token", seconds(median(times) if times else None), "median"),
        ]

    def _context_now(self) -> int | None:
        for node in reversed(self.layout.trunk):
            left = sizes(node)[1] if node.compacted else None
            if left is not None:
                return left
            if node.usage:
                return node.usage.input_tokens + node.usage.output_tokens
        return None

    @property
    def curve_in_words(self) -> str:
        sizes = [(node, node.usage.input_tokens) for node in self.layout.trunk if node.usage]
        if not sizes:
            return "No turn has a size yet."
        (first, least), (last, now) = sizes[0], sizes[-1]
        top, most = max(sizes, key=lambda pair: pair[1])
        words = f"{amount(least)} at turn {self.names[first.id]}, at most {amount(most)} at turn {self.names[top.id]},"
        return f"{words} and {amount(now)} at turn {self.names[last.id]}."

    @property
    def has_inferred(self) -> bool:
        return any(node.inferred for node in self.tree.nodes)

    @property
    def has_branches(self) -> bool:
        return self.layout.branches > 0

    # --- the list

    @property
    def lanes(self) -> int:
        return self.layout.lanes

    @property
    def whole(self) -> bool:
        return self.tree.whole

    most = MOST

    @property
    def fixed(self) -> list[tuple[str, str]]:
        """The fields that a search keeps."""
        return [pair for pair in self.asked.fixed() if pair[0] != "q"]

    @property
    def fetches_folds(self) -> bool:
        return len(self.tree.nodes) > LAZY

    @property
    def has_folds(self) -> bool:
        return any(isinstance(entry, Fold) for entry in self.layout.entries)

    @property
    def is_unfolded(self) -> bool:
        return not self.asked.folds or bool(self.asked.unfolded)

    @property
    def jumps(self) -> list[Jump]:
        return [
            Jump(self.names[tip.id], self._jump(tip.id), tip.created_at, tip.id == self.tip) for tip in self.layout.tips
        ]

    @property
    def tips(self) -> list[Jump]:
        return self.jumps[:_TIPS]

    @property
    def more_tips(self) -> list[Jump]:
        return self.jumps[_TIPS:]

    @property
    def newer_tip(self) -> Jump | None:
        """A tip that has arrived elsewhere than on the line, while the page was open."""
        newest = next(iter(self.layout.tips), None)
        if newest is None or self.asked.fresh is None or newest.key <= self.asked.fresh or newest.id == self.tip:
            return None
        return Jump(self.names[newest.id], self._jump(newest.id), newest.created_at)

    @property
    def hits(self) -> list[Jump]:
        ids = self._found[:_HITS]
        return [Jump(self.names[id_] or UNKNOWN, self._jump(id_), self.by_id[id_].created_at) for id_ in ids]

    @property
    def more_hits(self) -> int:
        return max(0, len(self._found) - _HITS)

    def _jump(self, id_: str) -> str:
        """To the row; a row that is folded or not drawn is selected, so that it is shown."""
        anchor = self.anchor(id_)
        return f"#{anchor}" if id_ in self._visible else self.link(id_, anchor)

    def anchor(self, id_: str) -> str:
        row = self.rows.get(id_)
        return row.anchor if row else f"t{self.names[id_]}" if self.names.get(id_) else ""

    def clock(self, at: int) -> Markup:
        return clock(at)

    # --- links

    def link(self, id_: str, anchor: str) -> str:
        return f"?at={id_}{self.suffix}" + (f"#{anchor}" if anchor else "")

    def _here(self, **changes: str | None) -> str:
        """This page with other parameters; None removes one."""
        fixed = [pair for pair in self.asked.fixed() if pair[0] not in changes]
        pairs = [("at", self.at or ""), *fixed, *((name, value or "") for name, value in changes.items())]
        return "?" + urlencode([pair for pair in pairs if pair[1]])

    def close_link(self, anchor: str) -> str:
        query = urlencode(self.asked.fixed())
        return f"/console/c/{self.root.id}" + (f"?{query}" if query else "") + f"#{anchor}"

    def fold_url(self, fold: Fold) -> str:
        query = urlencode([("first", fold.rows[0].turn.id), ("last", fold.rows[-1].turn.id)])
        return f"/console/c/{self.root.id}/fold{self._here()}&{query}"

    def unfold_link(self, fold: Fold) -> str:
        return f"{self._here()}&unfold={fold.rows[0].turn.id}#{fold.first.anchor}"

    def whole_link(self, more: More) -> str:
        return f"{self._here()}&all={more.parent.id}#{self.anchor(more.parent.id)}"

    @property
    def unfold_all_link(self) -> str:
        return self._here(fold="none") + "#tree"

    @property
    def refold_link(self) -> str:
        return self._here(fold=None, unfold=None) + "#tree"

    @property
    def unsearched_link(self) -> str:
        return self._here(q=None) + "#tree"

    @property
    def live_url(self) -> str:
        """The list of turns along the line that is drawn now: a turn that arrives elsewhere does not bend it."""
        fresh = self.asked.fresh if self.asked.fresh is not None else self.newest
        pairs = [("at", self.at or ""), *self.asked.fixed(), ("line", self.tip), ("fresh", str(fresh))]
        return f"/console/c/{self.root.id}/turns?{urlencode([pair for pair in pairs if pair[1]])}"

    # --- one turn

    def lost_cache(self, turn: Node) -> bool:
        """Nothing came from the cache, unlike in the turn before."""
        before = self.by_id.get(turn.parent or "")
        if turn.usage is None or before is None or before.usage is None or not before.usage.cached_tokens:
            return False
        return turn.usage.cached_tokens == 0


def failover_words(node: Node) -> str:
    """`azure-eu 429 in 0.2 s → openai-a`."""
    failed = [
        f"{attempt['channel']} {attempt.get('status') or attempt['error']} in {seconds(attempt.get('ms'))}"
        for attempt in node.attempts
        if attempt.get("error")
    ]
    last = node.attempts[-1]
    return " → ".join([*failed, *([] if last.get("error") else [str(last["channel"])])])


def can_continue(node: Node) -> bool:
    return is_placed(node) and node.stored and not node.deleted


def sizes(node: Node) -> tuple[int | None, int | None]:
    """Tokens before and after a compaction."""
    note = node.compaction or {}
    before, after = note.get("before"), note.get("after")
    return before if isinstance(before, int) else None, after if isinstance(after, int) else None


def _cost_words(unpriced: int, cuts: Sequence[Node]) -> str:
    """What the sum lacks, or else what compactions cost."""
    if unpriced:
        return f"{count(unpriced)} {'turn' if unpriced == 1 else 'turns'} without a price"
    passes = [cost for cut in cuts if isinstance(cost := (cut.compaction or {}).get("cost_micros"), int)]
    return f"compaction {money(sum(passes))}" if passes else ""


@lru_cache(maxsize=4096)
def clock(at: int) -> Markup:
    """Hours and minutes, in the server's zone; the date stands in the detail."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    return Markup('<time datetime="{}">{}</time>').format(moment, time.strftime("%H:%M", time.localtime(at)))


# --- the selected turn ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AttemptView:
    channel: str
    words: str
    ms: int | None
    failed: bool
    bars: tuple[tuple[str, float, float], ...] = ()
    """Kind, beginning and width in percent of all attempts."""


@dataclass(frozen=True, slots=True)
class TurnDetail:
    turn: Node
    name: str
    anchor: str
    is_own: bool
    parent: Row | None
    ended: str
    attempts: tuple[AttemptView, ...]
    why: str
    failures: str
    """What the curve says beside the name."""
    cached_before: str
    cache_note: str
    remedy: str
    answered: tuple[Jump, ...]
    """The turns that go on with results of the client's tools."""
    answers_all: bool
    """Each of them has as many results as the turn has calls."""
    price: str
    """Where the price of its model stands; empty if that is not to be shown."""
    continue_from: str | None
    may_branch: bool
    curl: str


def turn_detail(view: TreeView, cache: CacheReport | None, url: str, price: str = "") -> TurnDetail | None:
    """Of the selected turn; None if none is. `url`: of this server, for the curl. `price`: see `TurnDetail`."""
    row = view.rows.get(view.at or "")
    if row is None:
        return None
    node = row.turn
    parent = view.rows.get(node.parent or "")
    own = view.is_own and can_continue(node)
    usage = parent.turn.usage if parent else None
    following = [child for child in view.tree.nodes if child.parent == node.id and child.outline]
    answering = [child for child in following if child.outline and child.outline.results and is_placed(child)]
    calls = sum(node.outline.calls.values()) if node.outline else 0
    return TurnDetail(
        turn=node,
        name=row.name or "in flight",
        anchor=row.anchor,
        is_own=view.is_own,
        parent=parent,
        ended=_ended(node),
        attempts=tuple(_attempts(node)),
        why=why_this_channel(node, parent),
        failures=_failures(view, node),
        cached_before=f"turn {parent.name}: {share(usage.cached_tokens, usage.input_tokens)}"
        if parent and usage
        else "",
        cache_note=_cache_note(cache),
        remedy=_remedy(node),
        answered=tuple(
            Jump(view.names[child.id], view.link(child.id, view.anchor(child.id)), child.created_at)
            for child in answering
        ),
        answers_all=all(child.outline is not None and child.outline.results == calls for child in answering),
        price=price if node.usage and node.usage.cost is not None else "",
        continue_from=_tip_below(view, node) if own else None,
        may_branch=own and not row.tip,
        curl=f'curl {url}/v1/responses/{node.id} -H "Authorization: Bearer $ANTIPHON_TOKEN"'
        if can_continue(node)
        else "",
    )


def _failures(view: TreeView, node: Node) -> str:
    """`cache lost, azure-eu 429`: what the curve has room for."""
    first = next((attempt for attempt in node.attempts if attempt.get("error")), None)
    tried = f"{first['channel']} {first.get('status') or first['error']}" if first and failed_over(node) else ""
    return ", ".join(filter(None, ("cache lost" if view.lost_cache(node) else "", tried)))


def _remedy(node: Node) -> str:
    advice = ADVICE.get(str((node.error or {}).get("code")))
    return f"{advice.meaning} {advice.remedy}" if advice else ""


def _ended(node: Node) -> str:
    if node.status in RUNNING:
        return "in flight" if node.status == "in_progress" else "waits for a worker"
    tries = len(node.attempts)
    ordinal = {2: "second", 3: "third"}.get(tries, f"{tries}th")
    return f"{node.status} on the {ordinal} try" if failed_over(node) and is_placed(node) else node.status


def _attempts(node: Node) -> Iterator[AttemptView]:
    if not node.attempts:
        if node.channel:
            yield AttemptView(
                node.channel, _answered(node, 0), node.total_ms, False, tuple(_split(node, 0, node.total_ms))
            )
        return
    total = sum(attempt.get("ms") or 0 for attempt in node.attempts)
    before = 0
    for attempt in node.attempts:
        ms, error = attempt.get("ms") or 0, attempt.get("error")
        status = attempt.get("status")
        if error:
            words = " ".join(str(word) for word in (status, error) if word)
            bars: tuple[tuple[str, float, float], ...] = (
                ("warn", _percent(before, total), max(_percent(ms, total), 1.0)),
            )
        else:
            words = _answered(node, before)
            bars = tuple(_split(node, before, total))
        notes = [f"left out: {', '.join(attempt['dropped'])}"] if attempt.get("dropped") else []
        notes += [f"adapted: {', '.join(attempt['adapted'])}"] if attempt.get("adapted") else []
        notes += [f"“{attempt['said']}”"] if attempt.get("said") else []
        yield AttemptView(str(attempt["channel"]), "; ".join([words, *notes]), ms, bool(error), bars)
        before += ms


def _answered(node: Node, before: int) -> str:
    """`first token 1.7 s, 162 tokens/s`."""
    words = []
    if node.first_byte_ms is not None:
        words.append(f"first token {seconds(max(0, node.first_byte_ms - before))}")
    speed = _speed(node)
    if speed is not None:
        words.append(f"{speed:.0f} tokens/s")
    return ", ".join(words) or "answered"


def _speed(node: Node) -> float | None:
    if node.usage is None or node.total_ms is None or node.first_byte_ms is None:
        return None
    writing = node.total_ms - node.first_byte_ms
    return 1000 * node.usage.output_tokens / writing if writing > 0 else None


def _split(node: Node, before: int, total: int | None) -> Iterator[tuple[str, float, float]]:
    """The wait for the first token, and the writing."""
    if not total:
        return
    first = min(max(node.first_byte_ms or before, before), total)
    yield "b1", _percent(before, total), _percent(first - before, total)
    yield "b2", _percent(first, total), _percent(total - first, total)


def _percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 1) if whole else 0.0


def why_this_channel(node: Node, parent: Row | None) -> str:
    """One or two sentences from what the row knows."""
    tried = [str(attempt["channel"]) for attempt in node.attempts] or ([node.channel] if node.channel else [])
    if not tried:
        return ""
    first, before = tried[0], parent.turn.channel if parent else None
    others = [name for name in dict.fromkeys(tried) if name != first]
    if parent is None:
        words = f"{first} came first by priority and weight: no turn came before."
    elif first == before:
        words = f"{first} came first because it served turn {parent.name}, and may have the conversation in its cache."
    elif before:
        words = f"{before}, which served turn {parent.name}, was not tried: it did not serve this request then."
    else:
        words = f"{first} came first by priority and weight."
    return f"{words} Next came {', then '.join(others)}." if others else words


def _cache_note(cache: CacheReport | None) -> str:
    if cache is None or not cache.is_miss:
        return ""
    lost = (cache.expected_tokens or 0) - (cache.cached_tokens or 0)
    return cache.detail + (f" {amount(lost)} tokens were read anew." if lost > 0 else "")


def _tip_below(view: TreeView, node: Node) -> str:
    """The turn that "Continue" goes on from: the end of this turn's line, along its branch."""
    by_parent: defaultdict[str | None, list[Node]] = defaultdict(list)
    for turn in filter(can_continue, view.tree.nodes):
        by_parent[turn.parent].append(turn)
    on_trunk = {turn.id for turn in view.layout.trunk}
    while below := by_parent.pop(node.id, None):
        node = max(below, key=lambda turn: (turn.id in on_trunk, turn.branch == node.branch, turn.key))
    return node.id
