"""Digests of the prompts that models were given, in the column `prompt` of each response, and the facts by which a
report compares a response with the one before it.

A row holds the digests of its tools and instructions, and those of the items that the row before it does not have. The
digests of items are rolling: each covers all items up to its own, so two equal ones stand for equal beginnings. A row
therefore grows with what is new in it, also when its client sends the whole conversation each turn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct
from typing import Any, NamedTuple

import orjson

from app.contract.records import Prompt
from app.ids import known_id
from app.store.database import Database, Row, Session

SIZE = 8
"""Bytes of a digest."""
MOST = 4000
"""Digests of items in a row; those of later items are left out."""
FARTHEST = 64
"""Rows that are read for the beginning that two prompts share."""

_VERSION = 2
#: version, flags, name of the digests' key, adaptations, cache key, seconds, row before it, first item, items of the
#: prompt, tools, instructions
_HEAD = Struct(">BB2s8s8sIQIIHB")
HEAD_SIZE = _HEAD.size
"""Bytes at the beginning of a column that `base_of` reads."""
_HAS_ITEMS, _SHORTENED, _REPORTS_CACHE, _CUT = 1, 2, 4, 8
_BASE = 6
"""The place of the row before it among these."""
_NOTHING = bytes(SIZE)
_CHUNK = 500

#: The members of `CacheFacts`, by the columns that they come from.
_COLUMNS = {
    "key": "r.pk",
    "id": "r.id",
    "status": "r.status",
    "model": "r.model",
    "upstream_model": "r.upstream_model",
    "channel": "r.channel",
    "family": "r.family",
    "created_at": "r.created_at",
    "completed_at": "r.completed_at",
    "input_tokens": "r.input_tokens",
    "cached_tokens": "r.cached_tokens",
    "estimated": "r.estimated",
    "attempts": "r.attempts",
    "compaction": "r.compaction",
    "parent": "r.parent",
    "inferred": "r.inferred",
    "retry_of": "w.retry_of",
    "conversation": "r.conversation",
    "conversation_position": "r.seen",
    "prompt": "r.prompt",
}
_FACTS = f"SELECT {', '.join(_COLUMNS.values())} FROM response r LEFT JOIN thread_turn w ON w.response = r.pk"
_KEY = f"SELECT pk, SUBSTR(prompt, 1, {_HEAD.size}) FROM response WHERE id = ? AND owner = ?"
_SOME = f"{_FACTS} WHERE r.owner = ? AND r.pk IN (%s)"
#: The newest response of a conversation up to a position.
_CONVERSED = (
    "SELECT r.pk FROM conversation c JOIN conversation_turn t ON t.conversation = c.pk"
    " JOIN response r ON r.id = t.response WHERE c.id = ? AND c.owner = ? AND r.owner = ? AND t.position <= ?"
    " ORDER BY t.position DESC LIMIT 1"
)
#: When the prompt of a response was last used by another one that continues it.
_LAST_USED = (
    "SELECT MAX(r.completed_at)"
    # MySQL would look at every response for a union behind IN.
    " FROM (SELECT pk FROM response WHERE parent = ? UNION SELECT pk FROM response WHERE inferred = ?) child"
    " JOIN response r ON r.pk = child.pk WHERE r.owner = ? AND r.pk < ? AND r.channel = ?"
)
#: The first of the items that were deleted from a conversation between two positions, by its place in the context.
_REMOVED = (
    "SELECT MIN(i.place) FROM conversation c JOIN removed_item i ON i.conversation = c.pk"
    " WHERE c.id = ? AND c.owner = ? AND i.position > ? AND i.position <= ?"
)
#: One response, all that may have come before it, and for each of these what happened between the two.
_PAIR = (
    f"SELECT {', '.join(_COLUMNS.values())},"
    " (SELECT MAX(c.completed_at) FROM response c"
    " WHERE c.parent = r.pk AND c.owner = s.owner AND c.pk < s.pk AND c.channel = s.channel),"
    " (SELECT MAX(c.completed_at) FROM response c"
    " WHERE c.inferred = r.pk AND c.owner = s.owner AND c.pk < s.pk AND c.channel = s.channel),"
    " (SELECT MIN(i.place) FROM conversation c JOIN removed_item i ON i.conversation = c.pk"
    " WHERE c.id = s.conversation AND c.id = r.conversation AND c.owner = s.owner"
    " AND i.position > COALESCE(r.seen, 0) AND i.position <= COALESCE(s.seen, 0)),"
    " k.conversed"
    " FROM (SELECT ? AS pk, 0 AS conversed UNION SELECT ?, 0 UNION SELECT parent, 0 FROM response WHERE pk = ?"
    " UNION SELECT inferred, 0 FROM response WHERE pk = ? UNION SELECT retry_of, 0 FROM thread_turn WHERE response = ?"
    " UNION SELECT pk, 1 FROM (SELECT n.pk FROM response s JOIN conversation c ON c.id = s.conversation"
    " AND c.owner = s.owner JOIN conversation_turn t ON t.conversation = c.pk AND t.position <= COALESCE(s.seen, 0)"
    " JOIN response n ON n.id = t.response AND n.owner = s.owner WHERE s.pk = ? ORDER BY t.position DESC LIMIT 1) b) k"
    # SQLite keeps the order of a cross join.
    " CROSS JOIN response r ON r.pk = k.pk CROSS JOIN response s ON s.pk = ? AND s.owner = r.owner"
    " LEFT JOIN thread_turn w ON w.response = r.pk WHERE r.owner = ?"
)
_RECENT = (
    "SELECT pk, owner FROM response WHERE created_at >= ? AND input_tokens IS NOT NULL AND prompt IS NOT NULL"
    " ORDER BY pk DESC LIMIT ?"
)
_READ = "SELECT prompt, parent FROM response WHERE pk = ?"


class End(NamedTuple):
    """Where the items of a response end: how many they are together with those before them, and the digest of all."""

    length: int = 0
    state: bytes = _NOTHING


START = End()


@dataclass(frozen=True, slots=True)
class StoredPrompt:
    """The column of one row."""

    key: bytes
    tools: tuple[bytes, ...]
    instructions: tuple[bytes, ...]
    adapted: bytes
    cache_key: bytes
    kept: int
    base: int
    """Key of the row that has the items before `first`; 0 for the parent's, or for none."""
    first: int
    """Number of items that the row before it has in common."""
    length: int
    """Number of items in the prompt. Those of the answer follow."""
    states: tuple[bytes, ...]
    """Rolling digests: of the items before `first`, then up to each item from `first` on."""
    cut: bool
    """There were more than `MOST`."""
    has_items: bool
    shortened: bool
    reports_cache: bool

    @property
    def end(self) -> End | None:
        """None if it is not known."""
        return None if self.cut or not self.has_items else End(self.first + len(self.states) - 1, self.states[-1])

    @property
    def question(self) -> bytes | None:
        """The digest of all items before the answer; None if it is not known. Two prompts that continue one response
        have equal digests if they have the same input."""
        own = self.length - self.first
        return self.key + self.states[own] if 0 < own < len(self.states) else None


def unpacked(data: bytes | None) -> StoredPrompt | None:
    """None for a row without digests, or with those of a later version."""
    if not data or data[0] != _VERSION:
        return None
    _, flags, key, adapted, cache_key, kept, base, first, length, tools, instructions = _HEAD.unpack_from(data)
    digests = _split(data[_HEAD.size :])
    said = tools + instructions
    return StoredPrompt(
        key=key,
        tools=digests[:tools],
        instructions=digests[tools:said],
        adapted=b"" if adapted == _NOTHING else adapted,
        cache_key=b"" if cache_key == _NOTHING else cache_key,
        kept=kept,
        base=base,
        first=first,
        length=length,
        states=digests[said:],
        cut=bool(flags & _CUT),
        has_items=bool(flags & _HAS_ITEMS),
        shortened=bool(flags & _SHORTENED),
        reports_cache=bool(flags & _REPORTS_CACHE),
    )


def base_of(head: bytes | None) -> int | None:
    """Key of the row that has the items before a prompt's own. `head`: the first `HEAD_SIZE` bytes of its column."""
    if not head or head[0] != _VERSION:
        return None
    return _HEAD.unpack(head)[_BASE] or None


class Column(NamedTuple):
    """The column of a row, and where its items end."""

    data: bytes | None
    end: End | None


NO_COLUMN = Column(None, None)


def added(prompt: Prompt, before: End | None) -> Column:
    """The column of a response whose own items follow those of its parent. None: the parent's end is not known."""
    start = before or START
    states = _rolled(start.state, prompt.input + prompt.output)
    has_items = prompt.has_items and before is not None
    end = End(start.length + len(states) - 1, states[-1]) if has_items and len(states) <= MOST + 1 else None
    length = start.length + len(prompt.input) // SIZE
    return Column(_packed(prompt, states, start.length, length, has_items), end)


def end_of(data: bytes | None) -> End | None:
    stored = unpacked(data)
    return stored.end if stored is not None else None


class Whole:
    """The prompt of a response whose client sends the whole conversation."""

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self._states = _rolled(_NOTHING, prompt.input + prompt.output)

    def shared(self, session: Session, candidate: int) -> int | None:
        """The number of items that the response with this key has in common; None if its items are not known, or if
        it looks like the beginning of another conversation."""
        key, upper, length = candidate, None, None
        for _ in range(FARTHEST):
            row = session.row(_READ, (key,))
            stored = unpacked(row[0]) if row else None
            if row is None or stored is None or not stored.has_items or stored.key != self._prompt.key:
                return None
            length = length or stored.length
            common = self._common(stored)
            if upper is not None and common is not None:
                common = min(common, upper)
            if common or not stored.first:
                return common or (0 if self.length > length else None)
            key, upper = stored.base or row[1], stored.first
        return None

    def _common(self, stored: StoredPrompt) -> int | None:
        """The items in common; None if the difference lies before the first state of the row."""
        common = None
        for position, state in enumerate(stored.states, stored.first):
            if position >= len(self._states) or self._states[position] != state:
                break
            common = position
        return common

    @property
    def length(self) -> int:
        return len(self._prompt.input) // SIZE

    def packed(self, base: int | None, shared: int) -> bytes:
        """The column. Only the states behind the shared ones are written, unless there is no base."""
        first = shared if base else 0
        return _packed(self._prompt, self._states[first:], first, self.length, self._prompt.has_items, base or 0)


def _packed(prompt: Prompt, states: Sequence[bytes], first: int, length: int, has_items: bool, base: int = 0) -> bytes:
    """The column; see `StoredPrompt` for its parts."""
    flags = has_items * _HAS_ITEMS | prompt.shortened * _SHORTENED | prompt.reports_cache * _REPORTS_CACHE
    flags |= (len(states) > MOST + 1) * _CUT
    said = (len(prompt.tools) // SIZE, len(prompt.instructions) // SIZE)
    sent = (prompt.adapted or _NOTHING, prompt.cache_key or _NOTHING)
    head = _HEAD.pack(_VERSION, flags, prompt.key, *sent, prompt.kept, base, first, length, *said)
    return b"".join((head, prompt.tools, prompt.instructions, *states[: MOST + 1]))


def _rolled(state: bytes, digests: bytes) -> list[bytes]:
    """The state, then that after each of the digests."""
    states = [state]
    for at in range(0, len(digests), SIZE):
        state = blake2b(state + digests[at : at + SIZE], digest_size=SIZE).digest()
        states.append(state)
    return states


def _split(digests: bytes) -> tuple[bytes, ...]:
    return tuple([digests[at : at + SIZE] for at in range(0, len(digests), SIZE)])


# --- reading ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """What a report needs of one response."""

    key: int
    id: str
    status: str
    model: str
    upstream_model: str | None
    channel: str | None
    family: str | None
    created_at: int
    completed_at: int | None
    input_tokens: int | None
    cached_tokens: int | None
    estimated: bool
    attempts: tuple[Mapping[str, Any], ...]
    compaction: Mapping[str, Any] | None
    parent: int | None
    """Key of the response that the client names."""
    inferred: int | None
    retry_of: int | None
    conversation: str | None
    conversation_position: int
    prompt: StoredPrompt | None

    @property
    def is_compacted(self) -> bool:
        """The history was compacted for this response."""
        return self.compaction is not None and "failed" not in self.compaction

    @property
    def is_compaction(self) -> bool:
        """The response is a compaction without an answer: no channel saw its context as a conversation."""
        return self.is_compacted and self.upstream_model is None

    @property
    def is_whole(self) -> bool:
        """The client sent the whole conversation."""
        return self.parent is None and self.conversation is None

    @property
    def before(self) -> int | None:
        """Key of the response before it, unless it belongs to a conversation."""
        based_on = self.prompt.base if self.prompt else 0
        return self.parent or based_on or self.inferred or self.retry_of


class Pair(NamedTuple):
    """A response, the one before it, and what happened between the two."""

    response: CacheFacts
    before: CacheFacts | None
    last_used: int | None
    """When the prompt of the one before was last used."""
    removed: int | None = None
    """Where the first of the items stood that were deleted from the conversation between the two."""


class PromptDigests:
    def __init__(self, database: Database) -> None:
        self._database = database

    def pair(self, owner: str, response_id: str) -> Pair | None:
        """The response and the one before it; None when there is no such response."""
        if not known_id(response_id):
            return None
        return self._database.read(lambda session: _pair(session, owner, response_id))

    def pair_of(self, owner: str, key: int, base: int | None) -> Pair | None:
        """The response with this key and the one before it, from one query. `base`: the key of the response that its
        prompt continues, if its digests name one."""
        return self._database.read(lambda session: _pair_of(session, owner, key, base))

    def pairs(self, owner: str, keys: Sequence[int]) -> dict[int, Pair]:
        """The same for each of these responses, by key."""
        return self._database.read(lambda session: _pairs(session, owner, keys))

    def recent(self, since: int, limit: int) -> list[Pair]:
        """The newest answered responses of all owners, for an operator: those created since then, at most so many."""
        rows = self._database.read(lambda session: session.rows(_RECENT, (since, limit)))
        by_owner: defaultdict[str, list[int]] = defaultdict(list)
        for key, owner in rows:
            by_owner[owner].append(key)
        return [pair for owner, keys in by_owner.items() for pair in self.pairs(owner, keys).values()]


def _pair(session: Session, owner: str, response_id: str) -> Pair | None:
    row = session.row(_KEY, (response_id, owner))
    return None if row is None else _pair_of(session, owner, row[0], base_of(row[1]))


def _pair_of(session: Session, owner: str, key: int, base: int | None) -> Pair | None:
    rows = session.rows(_PAIR, (key, base, *[key] * 5, owner))
    found = {row[0]: _facts(row[: len(_COLUMNS)]) for row in rows}
    response = found.get(key)
    if response is None:
        return None
    conversed = next((row[0] for row in rows if row[-1]), None)
    before = found.get((response.before if response.conversation is None else conversed) or 0)
    if before is None:
        return Pair(response, None, None)
    *_, named, inferred, removed, _ = next(row for row in rows if row[0] == before.key)
    times = [time for time in (before.completed_at, named, inferred) if time is not None]
    return Pair(response, before, max(times, default=None), removed)


def _pairs(session: Session, owner: str, keys: Sequence[int]) -> dict[int, Pair]:
    known = _some(session, owner, keys)
    before = [_key_before(session, owner, response) for response in known.values()]
    known |= _some(session, owner, [key for key in before if key not in known])
    return {key: _with_before(session, owner, known[key], known) for key in keys if key in known}


def _with_before(session: Session, owner: str, response: CacheFacts, known: Mapping[int, CacheFacts]) -> Pair:
    before = known.get(_key_before(session, owner, response) or 0)
    if before is None:
        return Pair(response, None, None)
    used = session.row(_LAST_USED, (before.key, before.key, owner, response.key, response.channel))
    times = [time for time in (before.completed_at, used[0] if used else None) if time is not None]
    return Pair(response, before, max(times, default=None), _first_removed(session, owner, response, before))


def _first_removed(session: Session, owner: str, response: CacheFacts, before: CacheFacts) -> int | None:
    if response.conversation is None or response.conversation != before.conversation:
        return None
    between = (before.conversation_position, response.conversation_position)
    row = session.row(_REMOVED, (response.conversation, owner, *between))
    return row[0] if row else None


def _key_before(session: Session, owner: str, response: CacheFacts) -> int | None:
    if response.conversation is None:
        return response.before
    place = (response.conversation, owner, owner, response.conversation_position)
    row = session.row(_CONVERSED, place)
    return int(row[0]) if row else None


def _some(session: Session, owner: str, keys: Iterable[int | None]) -> dict[int, CacheFacts]:
    wanted = [key for key in keys if key]
    found: dict[int, CacheFacts] = {}
    for start in range(0, len(wanted), _CHUNK):
        chunk = wanted[start : start + _CHUNK]
        rows = session.rows(_SOME % ", ".join("?" * len(chunk)), (owner, *chunk))
        found.update({row[0]: _facts(row) for row in rows})
    return found


def _facts(row: Row) -> CacheFacts:
    values = dict(zip(_COLUMNS, row, strict=True))
    prompt = values.pop("prompt")
    return CacheFacts(
        **{
            **values,
            "estimated": bool(values["estimated"]),
            "attempts": tuple(orjson.loads(values["attempts"] or "[]")),
            "compaction": orjson.loads(values["compaction"]) if values["compaction"] else None,
            "conversation_position": values["conversation_position"] or 0,
        },
        prompt=unpacked(bytes(prompt) if prompt is not None else None),
    )
