"""Conversation trees and single responses for operators and pages, in any status. The queries follow parent links, and
no request of a client runs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import orjson

from app.contract.outline import Outline, unpacked
from app.contract.usage import Usage
from app.ids import known_id
from app.store.database import Database, Row, Session
from app.store.prompt_digests import HEAD_SIZE, base_of

#: Responses of one tree that are read.
MOST = 5000
#: How far a tree is climbed to its root.
HIGHEST = 20_000
BEGINNING = 4096
"""Characters of a tree's first input that are read with it."""
LONGEST_CONTENT = 64 * 1024
"""Characters of an input and an output up to which an excerpt has them."""
LONGEST_INPUT = 16 * 1024
"""Characters of an input up to which an excerpt has it instead of its digests."""
_LONGEST_PROMPT = 4 * 1024
"""Bytes of these digests."""
#: The first characters of an id that are looked for.
SHORTEST = 12

#: A row for each thread that the response started, or one row. A response outside of a thread starts none.
_NODE = (
    "r.pk, r.id, p.id, q.id, r.owner, r.status, r.kept, r.deleted_at, r.streamed, r.model, r.channel, r.upstream_model,"
    " r.request_id, r.created_at, r.completed_at, r.first_byte_ms, r.total_ms, r.input_tokens, r.cached_tokens,"
    " r.cache_write_tokens, r.output_tokens, r.reasoning_tokens, r.estimated, r.cost, r.client, r.attempts,"
    " r.compaction,"
    " CASE WHEN r.since > 0 AND r.since = r.depth THEN 1 ELSE 0 END, r.error, r.incomplete_details, r.branch, r.depth,"
    " r.outline, t.name, x.id, y.id, w.subagent, s.id"
)
_FROM = (
    " LEFT JOIN response p ON p.pk = r.parent LEFT JOIN response q ON q.pk = r.inferred"
    " LEFT JOIN token t ON t.pk = r.token LEFT JOIN thread_turn w ON w.response = r.pk"
    " LEFT JOIN response x ON x.pk = w.retry_of LEFT JOIN response y ON y.pk = w.started_by"
    " LEFT JOIN thread_turn v ON v.started_by = r.pk AND w.response IS NOT NULL"
    " LEFT JOIN response s ON s.pk = v.response AND s.owner = r.owner"
)
_IN_ORDER = " ORDER BY r.pk, v.ended_at, s.pk"
_ONE = f"SELECT {_NODE} FROM response r{_FROM} WHERE r.id = ? AND r.owner = ?{_IN_ORDER}"
_CHILDREN = (
    f"SELECT {_NODE}"
    # MySQL would look at every response for a union behind IN, and SQLite for a plain join in the order of the keys.
    " FROM (SELECT pk FROM response WHERE parent = ? UNION SELECT pk FROM response WHERE inferred = ?) child"
    f" CROSS JOIN response r ON r.pk = child.pk{_FROM} WHERE r.owner = ?{_IN_ORDER} LIMIT {MOST}"
)
#: Up to the root, and down again from there. Each of the three links has an index of its own.
_TREE = (
    "WITH RECURSIVE line (pk, above, owner, steps) AS ("
    " SELECT r.pk, COALESCE(r.parent, r.inferred, w.retry_of), r.owner, 0 FROM response r"
    " LEFT JOIN thread_turn w ON w.response = r.pk WHERE r.id = ? AND COALESCE(?, r.owner) = r.owner"
    " UNION ALL"
    " SELECT r.pk, COALESCE(r.parent, r.inferred, w.retry_of), l.owner, l.steps + 1 FROM line l"
    " JOIN response r ON r.pk = l.above AND r.owner = l.owner"
    f" LEFT JOIN thread_turn w ON w.response = r.pk WHERE l.steps < {HIGHEST}),"
    " root (pk, owner) AS (SELECT pk, owner FROM line ORDER BY steps DESC LIMIT 1),"
    " tree (pk, owner, root) AS ("
    " SELECT pk, owner, pk FROM root"
    " UNION SELECT c.pk, t.owner, t.root FROM tree t JOIN response c ON c.parent = t.pk"
    " UNION SELECT c.pk, t.owner, t.root FROM tree t JOIN response c ON c.inferred = t.pk"
    " UNION SELECT c.response, t.owner, t.root FROM tree t JOIN thread_turn c ON c.retry_of = t.pk)"
    f" SELECT {_NODE}, CASE WHEN found.pk = found.root THEN"
    f" (SELECT SUBSTR(c.input, 1, {BEGINNING}) FROM content c WHERE c.response = found.pk) END,"
    f" CASE WHEN r.id = ? THEN SUBSTR(r.prompt, 1, {HEAD_SIZE}) END"
    f" FROM (SELECT pk, owner, root FROM tree ORDER BY pk LIMIT {MOST + 1}) found"
    # SQLite would go through all responses in the order of their keys; it keeps the order of a cross join.
    f" CROSS JOIN response r ON r.pk = found.pk AND r.owner = found.owner{_FROM}{_IN_ORDER}"
)
_WHOLE = (
    "SELECT response, input, COALESCE(output, '[]'), NULL FROM content WHERE response IN (%s)"
    f" AND LENGTH(input) + COALESCE(LENGTH(output), 0) <= {LONGEST_CONTENT}"
)
_INPUT = (
    f"SELECT c.response, CASE WHEN LENGTH(c.input) <= {LONGEST_INPUT} THEN c.input END, NULL,"
    f" CASE WHEN LENGTH(c.input) > {LONGEST_INPUT} AND LENGTH(r.prompt) <= {_LONGEST_PROMPT} THEN r.prompt END"
    " FROM content c JOIN response r ON r.pk = c.response WHERE c.response IN (%s)"
)
_CONTENT = (
    "SELECT s.json, r.echo, c.input, c.output FROM response r LEFT JOIN setting s ON s.pk = r.settings"
    " LEFT JOIN content c ON c.response = r.pk WHERE r.pk = ? AND r.deleted_at IS NULL"
)


@dataclass(frozen=True, slots=True)
class Node:
    """One response without its content."""

    key: int
    id: str
    parent: str | None
    inferred: bool
    """The parent was inferred from the input: the client did not name it."""
    retry_of: str | None
    """The response to an earlier request with the same input in the same thread."""
    started_by: str | None
    """The response of another thread that started this one's; known for the first response of a thread."""
    started: tuple[str, ...]
    """The first responses of the threads that this one started."""
    subagent: str | None
    """The kind of sub-agent that the client calls its thread."""
    owner: str
    token: str | None
    """Its name, while it is known."""
    status: str
    stored: bool
    deleted: bool
    streamed: bool
    model: str
    channel: str | None
    upstream_model: str | None
    request_id: str | None
    client: str | None
    """The program that sent the request."""
    created_at: int
    completed_at: int | None
    first_byte_ms: int | None
    total_ms: int | None
    usage: Usage | None
    attempts: tuple[Mapping[str, Any], ...]
    """Empty when the first one sufficed."""
    compacted: bool
    """The load of a chain stops here, since the output holds a compaction item, or the client compacted here."""
    compaction: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    incomplete_details: Mapping[str, Any] | None
    branch: int | None = None
    """Key of its branch in the store; None for a response that no turn can continue by naming it."""
    depth: int | None = None
    """Its place in that branch."""
    outline: Outline | None = None
    """None for a response that did not end, or that an earlier release wrote."""

    def wire(self) -> dict[str, Any]:
        wire = asdict(self)
        del wire["key"], wire["branch"], wire["depth"]
        return {
            **wire,
            "outline": self.outline.wire() if self.outline else None,
            "usage": self.usage.wire() if self.usage else None,
            "usage_estimated": self.usage.estimated if self.usage else False,
            "cost_micros": self.usage.cost if self.usage else None,
        }


@dataclass(frozen=True, slots=True)
class Tree:
    """Responses that come from one root, as they were written."""

    nodes: tuple[Node, ...]
    whole: bool
    """False when there are more than were read."""
    beginning: str | None = None
    """How the root's input begins, as JSON that may be cut; None if it is not stored."""
    base: int | None = None
    """Key of the response that the selected prompt continues, if its digests name one."""


class Excerpt(NamedTuple):
    """What is stored of one response, as far as it is not too long: input and output, or what tells its input from
    others."""

    key: int
    input: str | None
    output: str | None
    """None where only the input was asked for."""
    prompt: bytes | None
    """The digests of its prompt, where only the input was asked for and is too long."""


@dataclass(frozen=True, slots=True)
class Detail:
    """One response with everything that is stored of it."""

    node: Node
    children: tuple[Node, ...]
    settings: Mapping[str, Any]
    """The request without its input, where it differs from the defaults."""
    input: tuple[Mapping[str, Any], ...]
    output: tuple[Mapping[str, Any], ...]


class Trees:
    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, start: str) -> list[tuple[str, str]]:
        """Owner and id of the response with this id, or of the responses whose ids begin so: one, or two when the text
        is ambiguous. For an operator: it searches the responses of every owner.
        """
        if not known_id(start):
            return []
        exact = self._database.read(
            lambda session: session.rows("SELECT owner, id FROM response WHERE id = ?", (start,))
        )
        if exact or len(start) < SHORTEST:
            return [(owner, id_) for owner, id_ in exact]
        rows = self._database.read(
            lambda session: session.rows(
                "SELECT owner, id FROM response WHERE id > ? AND id < ? ORDER BY id LIMIT 2", (start, f"{start}~")
            )
        )
        return [(owner, id_) for owner, id_ in rows]

    def load(self, scope: str | None, response_id: str, selected: str | None = None) -> Tree | None:
        """All responses with the same root, without content, deleted and unstored ones included. `scope`: the owner
        whose responses may be seen; None for everyone's. `selected`: the id of the response whose base is read as well.
        """
        if not known_id(response_id):
            return None
        return self._database.read(lambda session: _load(session, scope, response_id, selected))

    def excerpts(self, whole: Sequence[int], inputs: Sequence[int]) -> list[Excerpt]:
        """Inputs and outputs of the responses with the keys `whole`, and inputs of those with the keys `inputs`, from
        one query. What is too long, or not stored, is left out."""
        wanted = [(sql, keys) for sql, keys in ((_WHOLE, whole), (_INPUT, inputs)) if keys]
        if not wanted:
            return []
        sql = " UNION ALL ".join(sql % ", ".join("?" * len(keys)) for sql, keys in wanted)
        rows = self._database.read(partial(Session.rows, sql=sql, parameters=(*whole, *inputs)))
        return [Excerpt(*row) for row in rows]

    def contents(self, keys: Sequence[int], together: int = 20) -> Iterator[tuple[int, str, str]]:
        """Input and output of these responses as JSON arrays, by the node's key, in the order of the keys. What is not
        stored is left out. `together`: how many are read in one query, and are in memory at a time.
        """
        for chunk in (keys[first : first + together] for first in range(0, len(keys), together)):
            sql = f"SELECT response, input, output FROM content WHERE response IN ({', '.join('?' * len(chunk))})"
            rows = self._database.read(partial(Session.rows, sql=sql, parameters=tuple(chunk)))
            found = {key: (input, output) for key, input, output in rows}
            yield from ((key, found[key][0], found[key][1] or "[]") for key in chunk if key in found)

    def node(self, owner: str, response_id: str) -> Node | None:
        """A response without its content."""
        if not known_id(response_id):
            return None
        return self._database.read(lambda session: _read_node(session, owner, response_id))

    def detail(self, owner: str, response_id: str) -> Detail | None:
        """A response with everything that is stored of it."""
        if not known_id(response_id):
            return None
        return self._database.read(lambda session: _detail(session, owner, response_id))


def _load(session: Session, scope: str | None, response_id: str, selected: str | None) -> Tree | None:
    rows = session.rows(_TREE, (response_id, scope, selected))
    if not rows:
        return None
    nodes = _nodes(row[:-2] for row in rows)
    beginning = next((row[-2] for row in rows if row[-2] is not None), None)
    head = next((row[-1] for row in rows if row[-1] is not None), None)
    return Tree(nodes[:MOST], len(nodes) <= MOST, beginning, base_of(head))


def _read_node(session: Session, owner: str, response_id: str) -> Node | None:
    return next(iter(_nodes(session.rows(_ONE, (response_id, owner)))), None)


def _detail(session: Session, owner: str, response_id: str) -> Detail | None:
    node = _read_node(session, owner, response_id)
    if node is None:
        return None
    children = session.rows(_CHILDREN, (node.key, node.key, owner))
    settings, echo, input, output = session.row(_CONTENT, (node.key,)) or (None,) * 4
    return Detail(
        node=node,
        children=_nodes(children),
        settings={**orjson.loads(settings or "{}"), **orjson.loads(echo or "{}")},
        input=tuple(orjson.loads(input or "[]")),
        output=tuple(orjson.loads(output or "[]")),
    )


def _nodes(rows: Iterable[Row]) -> tuple[Node, ...]:
    groups = (list(group) for _, group in groupby(rows, itemgetter(0)))
    return tuple([_node(group[0], [row[-1] for row in group if row[-1] is not None]) for group in groups])


def _node(row: Row, started: Sequence[str]) -> Node:
    (
        key,
        id_,
        parent,
        inferred,
        owner,
        status,
        stored,
        deleted_at,
        streamed,
        model,
        channel,
        upstream_model,
        request_id,
        created_at,
        completed_at,
        first_byte_ms,
        total_ms,
        input_tokens,
        cached,
        cache_write,
        output_tokens,
        reasoning,
        estimated,
        cost,
        client,
        attempts,
        compaction,
        begins_anew,
        error,
        incomplete_details,
        branch,
        depth,
        outline,
        token,
        retry_of,
        started_by,
        subagent,
        _,
    ) = row
    note = orjson.loads(compaction) if compaction else None
    usage = None
    if input_tokens is not None:
        usage = Usage(input_tokens, cached, cache_write, output_tokens, reasoning, bool(estimated), cost=cost)
    return Node(
        key=key,
        id=id_,
        parent=parent or inferred,
        inferred=parent is None and inferred is not None,
        retry_of=retry_of,
        started_by=started_by,
        started=tuple(started),
        subagent=subagent,
        owner=owner,
        token=token,
        status=status,
        stored=bool(stored),
        deleted=deleted_at is not None,
        streamed=bool(streamed),
        model=model,
        channel=channel,
        upstream_model=upstream_model,
        request_id=request_id,
        client=client,
        created_at=created_at,
        completed_at=completed_at,
        first_byte_ms=first_byte_ms,
        total_ms=total_ms,
        usage=usage,
        attempts=tuple(orjson.loads(attempts)) if attempts else (),
        compacted=bool(begins_anew) or (note is not None and "failed" not in note),
        compaction=note,
        error=orjson.loads(error) if error else None,
        incomplete_details=orjson.loads(incomplete_details) if incomplete_details else None,
        branch=branch,
        depth=depth,
        outline=unpacked(outline),
    )
