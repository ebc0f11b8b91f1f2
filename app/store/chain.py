"""The chain of a response: the response and its ancestors, read with one query over their branches. A chain is complete
or an error; it is never shortened silently.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import orjson

from app.contract.records import CHAINABLE, Chain, Link
from app.ids import known_id
from app.memory import Share
from app.store import conversations
from app.store.database import Database, Row, Session
from app.store.errors import ChainTooLong, FirstConversationMissing, ResponseMissing, ResponseNotChainable
from app.store.tree_positions import TreePosition, TreePositions

LONGEST = 10_000
YOUNG = 43_200
"""Seconds for which the use of a response as a parent need not be noted: pruning begins far later (see `pruning`)."""

# All columns but the bodies are one array: a driver in Python pays for each column of each row. Bodies are read as
# bytes: as text, the driver would decode them and we would encode them again, which takes a quarter of the time.
_ANCESTOR = (
    "r.depth, JSON_ARRAY(r.pk, r.parent, r.branch, r.since, COALESCE(r.continued_at, r.created_at), r.conversation,"
    " r.seen, r.root, r.id, r.status, r.channel, r.family, r.opaque, r.input_tokens, r.output_tokens),"
    " CAST(c.input AS BLOB), CAST(c.output AS BLOB)"
)
_CONTENTS = slice(2, 4)

# Sorted in Python: the database would copy every body through its own sort, for a third more time.
# `high` is the last depth that is taken from a branch.
_BY_BRANCH = (
    "WITH RECURSIVE lineage (branch, high, since, parent, fork) AS ("
    " SELECT b.pk, t.depth, {since}, b.parent, b.fork FROM response t JOIN branch b ON b.pk = t.branch"
    " WHERE t.id = ? AND t.owner = ? AND t.kept = 1 AND {length} <= ?"
    " UNION ALL"
    " SELECT b.pk, l.fork, l.since, b.parent, b.fork FROM lineage l JOIN branch b ON b.pk = l.parent"
    " WHERE l.fork >= l.since)"
    " SELECT {ancestor} FROM lineage l"
    " JOIN response r ON r.branch = l.branch AND r.depth BETWEEN l.since AND l.high AND r.owner = ?"
    " LEFT JOIN content c ON c.response = r.pk"
)

# The slow query for a damaged position in the tree: it follows parent links only.
_BY_PARENT = (
    "WITH RECURSIVE line (pk, parent, own, steps) AS ("
    " SELECT t.pk, t.parent, {stop}, 1 FROM response t WHERE t.id = ? AND t.owner = ? AND t.kept = 1"
    " UNION ALL"
    " SELECT r.pk, r.parent, {stop_above}, l.steps + 1 FROM line l JOIN response r ON r.pk = l.parent AND r.owner = ?"
    " WHERE l.own = 0 AND l.steps <= ?)"
    " SELECT {ancestor} FROM line l"
    " JOIN response r ON r.pk = l.pk LEFT JOIN content c ON c.response = r.pk ORDER BY l.steps DESC"
)

_WHY = (
    "SELECT t.status, {length} FROM response t WHERE t.id = ? AND t.owner = ? AND t.kept = 1 AND t.deleted_at IS NULL"
)


@dataclass(frozen=True, slots=True)
class Extent:
    """How far back a chain is read, as the parts of its queries that differ."""

    by_branch: str
    by_parent: str
    why: str
    whole: bool

    @classmethod
    def of(cls, *, since: str, length: str, stop: str, stop_above: str, whole: bool) -> Extent:
        return cls(
            by_branch=_BY_BRANCH.format(ancestor=_ANCESTOR, since=since, length=length),
            by_parent=_BY_PARENT.format(ancestor=_ANCESTOR, stop=stop, stop_above=stop_above),
            why=_WHY.format(length=length),
            whole=whole,
        )


_COMPACTED = "CASE WHEN {0}.since = {0}.depth AND {0}.since > 0 THEN 1 ELSE 0 END"

RECENT = Extent.of(
    since="t.since",
    length="CASE WHEN t.since > 0 THEN t.depth - t.since + 1 ELSE t.depth END",
    stop=_COMPACTED.format("t"),
    stop_above=_COMPACTED.format("r"),
    whole=False,
)
WHOLE = Extent.of(since="0", length="t.depth", stop="0", stop_above="0", whole=True)


class Ancestor(NamedTuple):
    """Columns of the first and of the last row beside its link."""

    depth: int | None
    pk: int
    parent: int | None
    branch: int | None
    since: int
    used_at: int
    conversation: str | None
    seen: int | None
    root: int | None

    @property
    def compacted(self) -> bool:
        return self.since > 0 and self.since == self.depth


@dataclass(frozen=True, slots=True)
class ChainRows:
    """The rows of a chain by columns, oldest first. An object for each row would cost as much as its read."""

    links: tuple[Link, ...]
    keys: tuple[int, ...]
    parents: tuple[int | None, ...]
    inputs: tuple[bytes | None, ...]
    outputs: tuple[bytes | None, ...]
    first: Ancestor
    tip: Ancestor

    @classmethod
    def of(cls, rows: Sequence[Row]) -> ChainRows:
        depths, packed, inputs, outputs = zip(*rows, strict=True)
        columns = tuple(zip(*map(orjson.loads, packed), strict=True))
        places = (depths, *columns[:8])
        return cls(
            links=tuple(map(Link, *columns[8:], inputs, outputs)),
            keys=columns[0],
            parents=columns[1],
            inputs=inputs,
            outputs=outputs,
            first=Ancestor._make(column[0] for column in places),
            tip=Ancestor._make(column[-1] for column in places),
        )

    def leads_to(self, response_id: str) -> bool:
        """Whether the last row is this response and the parent of each row is the row before it."""
        return self.links[-1].id == response_id and self.parents[1:] == self.keys[:-1]

    def begins(self, extent: Extent) -> bool:
        return self.first.parent is None or (self.first.compacted and not extent.whole)

    def missing(self) -> str | None:
        """Id of the newest response that cannot be continued from; a deleted one has no content."""
        backwards = zip(reversed(self.links), reversed(self.inputs), reversed(self.outputs), strict=True)
        for link, input, output in backwards:
            if link.status not in CHAINABLE or input is None or output is None:
                return link.id
        return None


def load(database: Database, positions: TreePositions, owner: str, response_id: str, extent: Extent) -> Chain:
    if not known_id(response_id):
        raise ResponseMissing(response_id)
    with closing(Share(database.budget)) as share:
        chain_rows = database.read(lambda session: _find_by_branches(session, owner, response_id, extent, share))
    missing = response_id if chain_rows.links[-1].id != response_id else chain_rows.missing()
    if missing is not None:
        raise ResponseMissing(missing)
    first, tip = chain_rows.first, chain_rows.tip
    if not extent.whole and tip.used_at < time.time() - YOUNG:
        _mark_used(database, tip.pk, response_id)
    if tip.branch is not None:
        positions.remember(owner, response_id, TreePosition(tip.pk, tip.branch, tip.depth or 0, tip.since, tip.root))
    chain = Chain(links=chain_rows.links, compacted=first.compacted and not extent.whole)
    return chain if chain.compacted or first.conversation is None else _within(database, owner, first, chain, extent)


def _within(database: Database, owner: str, first: Ancestor, chain: Chain, extent: Extent) -> Chain:
    """The chain behind the conversation that its first response was made in, as that was then."""
    until, conversation = first.seen or 0, first.conversation or ""
    newest_compaction = conversations.NOWHERE if extent.whole else until
    with closing(Share(database.budget)) as share:
        before = database.read(
            lambda session: conversations.load(session, owner, conversation, until, newest_compaction, share)
        )
    if before is None:
        raise FirstConversationMissing(chain.links[0].id, conversation)
    links = before.links + chain.links
    if len(links) > LONGEST:
        raise ChainTooLong(chain.links[-1].id, LONGEST)
    return Chain(links, before.compacted, origin=conversation)


def _mark_used(database: Database, pk: int, response_id: str) -> None:
    """Marks the response as used now, so that it is not pruned before the turn that continues from it is stored."""
    changed = database.transaction(
        lambda session: session.run(
            "UPDATE response SET continued_at = ? WHERE pk = ? AND id = ? AND deleted_at IS NULL",
            (int(time.time()), pk, response_id),
        )
    )
    if not changed:
        raise ResponseMissing(response_id)


def _find_by_branches(session: Session, owner: str, response_id: str, extent: Extent, share: Share) -> ChainRows:
    rows = session.large_rows(extent.by_branch, _CONTENTS, (response_id, owner, LONGEST, owner), share)
    if rows:
        chain_rows = ChainRows.of(sorted(rows, key=itemgetter(0)))
        if chain_rows.begins(extent) and chain_rows.leads_to(response_id):
            return chain_rows
    _refuse(session, owner, response_id, extent)
    return _find_by_parents(session, owner, response_id, extent, share)


def _refuse(session: Session, owner: str, response_id: str, extent: Extent) -> None:
    """Raises HistoryError when no conversation can continue from the response."""
    row = session.row(extent.why, (response_id, owner))
    if row is None:
        raise ResponseMissing(response_id)
    status, length = row
    if status not in CHAINABLE:
        raise ResponseNotChainable(response_id, status)
    if length is not None and length > LONGEST:
        raise ChainTooLong(response_id, LONGEST)


def _find_by_parents(session: Session, owner: str, response_id: str, extent: Extent, share: Share) -> ChainRows:
    rows = session.large_rows(extent.by_parent, _CONTENTS, (response_id, owner, owner, LONGEST), share)
    if len(rows) > LONGEST:
        raise ChainTooLong(response_id, LONGEST)
    chain_rows = ChainRows.of(rows) if rows else None
    if chain_rows is None or not chain_rows.begins(extent):
        # The row of the parent was removed, so its id is unknown.
        raise ResponseMissing(response_id)
    return chain_rows
