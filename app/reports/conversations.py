"""The newest conversations as rows of a list, and what of a conversation its owner can delete."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.contract.records import RUNNING
from app.store.store import Store
from app.store.tree import Node
from app.store.tree_list import Place, Point, TreeRow, Wanted

PAGE = 50
"""Conversations of one page."""
TITLE_WORDS = 12
MOST_DELETED = 2000
"""Responses that one call deletes."""
_DAY = 86_400
_TITLE_LENGTH = 80

#: The text of a message in JSON that may be cut.
_TEXT = re.compile(r'"(?:text|content)"\s*:\s*"((?:[^"\\]|\\.)*)')
#: What clients put in front of the user's own words: `<environment_context>`, `<user_instructions>`.
_MACHINE_MADE = re.compile(r"<[a-z]+[_-][a-z_-]+>")

#: The counters that are noted about a conversation, with the words for one and for several.
_NOTED = (
    ("failovers", "failover", "failovers"),
    ("incomplete", "incomplete", "incomplete"),
    ("cancelled", "cancelled", "cancelled"),
    ("failed", "failed", "failed"),
    ("deleted", "deleted", "deleted"),
)


@dataclass(frozen=True, slots=True)
class Contexts:
    """Tokens that the newest turns of a conversation were given, along the line to the newest one."""

    tokens: tuple[int, ...]
    compactions: tuple[int, ...]
    """Their places in `tokens`."""


@dataclass(frozen=True, slots=True)
class ConversationLine:
    row: TreeRow
    title: str | None
    """The first words of the user; None unless they are stored, and the reader's own."""
    contexts: Contexts


@dataclass(frozen=True, slots=True)
class ConversationsReport:
    lines: tuple[ConversationLine, ...]
    older: Place | None
    """Where the next page begins; None if this is the last one."""
    recent: int
    """Conversations of the last 24 hours, and all; a number above `tree_list.MOST` stands for any larger one."""
    total: int


@dataclass(frozen=True, slots=True)
class Deletable:
    """What of a conversation its owner can delete."""

    root: str
    turns: int
    """With content or in progress."""
    running: int
    """Of these, those that are in progress."""
    unstored: int
    """Turns of which there is nothing but metadata."""


def conversations_report(
    scope: str | None, store: Store, reader: str, wanted: Wanted, before: Place | None, now: int
) -> ConversationsReport:
    """`scope`: the owner whose conversations are listed; None for all. `reader`: the owner who reads them."""
    rows = store.tree_list.newest(scope, reader, wanted, PAGE + 1, before)
    shown = rows[:PAGE]
    points: defaultdict[int, list[Point]] = defaultdict(list)
    for point in store.tree_list.points([row for row in shown if row.counts["turns"] > 1]):
        points[point.root].append(point)
    recent, total = store.tree_list.counts(scope, now - _DAY)
    lines = tuple(ConversationLine(row, title_of(row.input), _contexts(points[row.root])) for row in shown)
    return ConversationsReport(lines, shown[-1].place if len(rows) > PAGE else None, recent, total)


def tree_notes(row: TreeRow) -> Iterator[tuple[str, str]]:
    """What is unusual about a conversation: the counter, and words with its number."""
    for name, one, several in _NOTED:
        if count := row.counts[name]:
            yield name, f"{count:,} {one if count == 1 else several}"
    if unstored := row.counts["unstored"]:
        yield "unstored", "not stored" if unstored >= row.counts["turns"] else f"{unstored:,} not stored"


def title_of(input: str | None) -> str | None:
    """The first words of the user in an input, as JSON that may be cut; None if there are none."""
    for text in _texts(input or ""):
        words = text.split()
        if words and not _MACHINE_MADE.match(words[0]):
            title = " ".join(words[:TITLE_WORDS])
            cut = len(words) > TITLE_WORDS or len(title) > _TITLE_LENGTH
            return f"{title[:_TITLE_LENGTH]}…" if cut else title
    return None


def _texts(input: str) -> Iterator[str]:
    try:
        items: list[Mapping[str, Any]] = orjson.loads(input)
    except orjson.JSONDecodeError:
        # It is cut.
        yield from map(_unescaped, _TEXT.findall(input))
        return
    for item in items:
        if item.get("role") == "user":
            content = item.get("content")
            parts: Sequence[Mapping[str, Any]] = content if isinstance(content, list) else [{"text": content}]
            yield from (text for part in parts if isinstance(text := part.get("text"), str))


def _unescaped(text: str) -> str:
    """A string of JSON that may end in an escape."""
    for end in range(len(text), max(0, len(text) - 12), -1):
        try:
            return str(orjson.loads(f'"{text[:end]}"'))
        except orjson.JSONDecodeError:
            continue
    return ""


def _contexts(points: Sequence[Point]) -> Contexts:
    """Along the line from the newest turn upwards, as far as the turns are known."""
    known = {point.key: point for point in points}
    line: list[Point] = []
    at = max(known, default=None)
    while at is not None and at in known:
        point = known.pop(at)
        line.append(point)
        at = point.above
    drawn = [point for point in reversed(line) if point.input_tokens is not None]
    compactions = tuple(at for at, point in enumerate(drawn) if point.is_compaction)
    return Contexts(tuple(point.input_tokens or 0 for point in drawn), compactions)


# --- deleting -------------------------------------------------------------------------------------------------------


def deletable(owner: str, store: Store, response_id: str) -> Deletable | None:
    """None when the owner has no such conversation."""
    tree = store.trees.load(owner, response_id)
    if tree is None or not tree.nodes:
        return None
    left = _left(tree.nodes)
    return Deletable(
        root=tree.nodes[0].id,
        turns=len(left),
        running=sum(node.status in RUNNING for node in left),
        unstored=sum(not node.stored for node in tree.nodes),
    )


def delete_conversation(owner: str, store: Store, response_id: str) -> int:
    """Deletes the responses of the conversation that belong to the owner, the newest first, so that what is left when
    it breaks off can be continued. At most `MOST_DELETED`; how many were deleted.
    """
    tree = store.trees.load(owner, response_id)
    left = _left(tree.nodes) if tree is not None else []
    newest = sorted(left, key=lambda node: node.key, reverse=True)[:MOST_DELETED]
    return sum(store.responses.delete(owner, node.id) for node in newest)


def _left(nodes: Sequence[Node]) -> list[Node]:
    return [node for node in nodes if node.stored and not node.deleted]
