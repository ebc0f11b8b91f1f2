"""What was said before: a response with its ancestors, in one query over the branches they lie in. A chain is complete
or it is an error; it is never shortened silently.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from app.errors import InvalidRequest, previous_response_not_found
from app.records import CHAINABLE, Chain, Link
from app.store import conversations
from app.store.database import Database, Session
from app.store.places import Place, Places
from app.store.responses import known_id

LONGEST = 10_000
YOUNG = 43_200
"""Seconds for which nobody needs to note that a response is gone on from: pruning begins far beyond (see `pruning`)."""

# Bodies as bytes: as text they would be decoded by the driver and encoded again by us, a quarter of the time.
_ANCESTOR = (
    "r.pk, r.id, r.parent, r.branch, r.depth, r.since, r.status, r.channel, r.family, r.opaque, r.input_tokens,"
    " r.output_tokens, COALESCE(r.continued_at, r.created_at), CAST(c.input AS BLOB), CAST(c.output AS BLOB),"
    " r.conversation, r.seen"
)

# Sorted by us: a database would carry all that was said through its own sort, a third of the time it takes.
# `high` is the last depth that is taken from a branch. The first row's parent may lie before the compaction; its id is
# looked up for that row only.
_BY_BRANCH = (
    "WITH RECURSIVE lineage (branch, high, since, parent, fork) AS ("
    " SELECT b.pk, t.depth, {since}, b.parent, b.fork FROM response t JOIN branch b ON b.pk = t.branch"
    " WHERE t.id = ? AND t.owner = ? AND t.kept = 1 AND {length} <= ?"
    " UNION ALL"
    " SELECT b.pk, l.fork, l.since, b.parent, b.fork FROM lineage l JOIN branch b ON b.pk = l.parent"
    " WHERE l.fork >= l.since)"
    " SELECT {ancestor}, CASE WHEN r.depth = l.since THEN (SELECT p.id FROM response p WHERE p.pk = r.parent) END"
    " FROM lineage l JOIN response r ON r.branch = l.branch AND r.depth BETWEEN l.since AND l.high AND r.owner = ?"
    " LEFT JOIN content c ON c.response = r.pk"
)

# The slow way, for a place in the tree that was damaged: parent links only.
_BY_PARENT = (
    "WITH RECURSIVE line (pk, parent, own, steps) AS ("
    " SELECT t.pk, t.parent, {stop}, 1 FROM response t WHERE t.id = ? AND t.owner = ? AND t.kept = 1"
    " UNION ALL"
    " SELECT r.pk, r.parent, {stop_above}, l.steps + 1 FROM line l JOIN response r ON r.pk = l.parent AND r.owner = ?"
    " WHERE l.own = 0 AND l.steps <= ?)"
    " SELECT {ancestor}, CASE WHEN l.own = 1 THEN (SELECT p.id FROM response p WHERE p.pk = r.parent) END"
    " FROM line l JOIN response r ON r.pk = l.pk LEFT JOIN content c ON c.response = r.pk ORDER BY l.steps DESC"
)

_WHY = (
    "SELECT t.status, {length} FROM response t WHERE t.id = ? AND t.owner = ? AND t.kept = 1 AND t.deleted_at IS NULL"
)


@dataclass(frozen=True, slots=True)
class Extent:
    """How far back a chain is read, in the words that differ in its queries."""

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
    """A row of either query."""

    pk: int
    id: str
    parent: int | None
    branch: int | None
    depth: int | None
    since: int
    status: str
    channel: str | None
    family: str | None
    opaque: int
    input_tokens: int | None
    output_tokens: int | None
    used_at: int
    input: bytes | None
    output: bytes | None
    conversation: str | None
    seen: int | None
    before: str | None

    @property
    def compacted(self) -> bool:
        return self.since > 0 and self.since == self.depth

    @property
    def present(self) -> bool:
        # What was deleted has no content any more.
        return self.input is not None and self.status in CHAINABLE


def load(database: Database, places: Places, owner: str, response_id: str, extent: Extent) -> Chain:
    if not known_id(response_id):
        raise previous_response_not_found(response_id)
    found = database.read(lambda session: _find(session, owner, response_id, extent))
    _check_present(found, response_id)
    tip = found[-1]
    if not extent.whole and tip.used_at < time.time() - YOUNG:
        _renew(database, tip)
    if tip.branch is not None:
        places.remember(owner, response_id, Place(tip.pk, tip.branch, tip.depth or 0, tip.since))
    chain = Chain(links=_links(found), compacted=found[0].compacted and not extent.whole)
    first = found[0]
    return chain if chain.compacted or first.conversation is None else _within(database, owner, first, chain, extent)


def _within(database: Database, owner: str, first: Ancestor, chain: Chain, extent: Extent) -> Chain:
    """The chain behind the conversation that its first response was made in, as that was then."""
    until, conversation = first.seen or 0, first.conversation or ""
    newest_compaction = conversations.NOWHERE if extent.whole else until
    before = database.read(lambda session: conversations.load(session, owner, conversation, until, newest_compaction))
    if before is None:
        raise InvalidRequest(
            f"Previous response with id '{first.id}' not found: its conversation with id '{conversation}' was deleted.",
            code="previous_response_not_found",
            param="previous_response_id",
        )
    links = before.links + chain.links
    if len(links) > LONGEST:
        raise _too_long(chain.links[-1].id)
    return Chain(links, before.compacted)


def _renew(database: Database, tip: Ancestor) -> None:
    """From here on it counts as new, so that it is not pruned before the turn that goes on from it is stored."""
    renewed = database.transaction(
        lambda session: session.run(
            "UPDATE response SET continued_at = ? WHERE pk = ? AND id = ? AND deleted_at IS NULL",
            (int(time.time()), tip.pk, tip.id),
        )
    )
    if not renewed:
        raise previous_response_not_found(tip.id)


def _find(session: Session, owner: str, response_id: str, extent: Extent) -> list[Ancestor]:
    rows = session.rows(extent.by_branch, (response_id, owner, LONGEST, owner))
    found = sorted(map(Ancestor._make, rows), key=_depth)
    if found and _begins(found[0], extent) and _is_line(found, response_id):
        return found
    _refuse(session, owner, response_id, extent)
    return _walk(session, owner, response_id, extent)


def _depth(row: Ancestor) -> int:
    return row.depth or 0


def _is_line(found: Sequence[Ancestor], response_id: str) -> bool:
    """Each row's parent is the row before it."""
    if found[-1].id != response_id:
        return False
    return all(row.parent == before.pk for before, row in pairwise(found))


def _begins(first: Ancestor, extent: Extent) -> bool:
    return first.parent is None or (first.compacted and not extent.whole)


def _refuse(session: Session, owner: str, response_id: str, extent: Extent) -> None:
    """Raises when the response is none that a conversation can go on from."""
    row = session.row(extent.why, (response_id, owner))
    if row is None:
        raise previous_response_not_found(response_id)
    status, length = row
    if status not in CHAINABLE:
        raise _unfit(response_id, status)
    if length is not None and length > LONGEST:
        raise _too_long(response_id)


def _walk(session: Session, owner: str, response_id: str, extent: Extent) -> list[Ancestor]:
    found = [Ancestor._make(row) for row in session.rows(extent.by_parent, (response_id, owner, owner, LONGEST))]
    if len(found) > LONGEST:
        raise _too_long(response_id)
    if not found or not _begins(found[0], extent):
        # The row above it is gone, and its id with it.
        raise previous_response_not_found(response_id)
    return found


def _check_present(found: Sequence[Ancestor], response_id: str) -> None:
    if not found or found[-1].id != response_id or not found[-1].present:
        raise previous_response_not_found(response_id)
    for row in reversed(found):
        if not row.present:
            raise previous_response_not_found(row.id)


def _links(found: Sequence[Ancestor]) -> tuple[Link, ...]:
    befores: list[Any] = [found[0].before, *(row.id for row in found[:-1])]
    return tuple(_link(row, before) for row, before in zip(found, befores, strict=True))


def _link(row: Ancestor, before: str | None) -> Link:
    # By place, in the order of the fields: a thousand of these are made for a long conversation.
    return Link(
        row.id,
        before,
        row.depth or 0,
        row.status,
        row.channel,
        row.family,
        bool(row.opaque),
        row.input or b"[]",
        row.output or b"[]",
        row.input_tokens,
        row.output_tokens,
    )


_UNFIT = {
    "queued": ("is still queued", "previous_response_not_ready"),
    "in_progress": ("is still in progress", "previous_response_not_ready"),
    "failed": ("has failed and cannot be continued", "previous_response_failed"),
    "cancelled": ("was cancelled and cannot be continued", "previous_response_failed"),
}


def _unfit(response_id: str, status: str) -> InvalidRequest:
    words, code = _UNFIT[status]
    return InvalidRequest(
        f"Previous response with id '{response_id}' {words}.", code=code, param="previous_response_id"
    )


def _too_long(response_id: str) -> InvalidRequest:
    return InvalidRequest(
        f"The conversation that ends with response '{response_id}' has over {LONGEST} responses. Compact it first.",
        code="chain_too_long",
        param="previous_response_id",
    )
