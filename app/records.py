"""What the relay writes down about a response and the store keeps. Values only.

JSON columns travel as bytes: an array of items is written once and later spliced into a request, never parsed in
between. Times are whole unix seconds, durations milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import orjson

#: Statuses from which a conversation can go on.
CHAINABLE = frozenset({"completed", "incomplete"})
#: Statuses of a response that has not ended yet.
RUNNING = frozenset({"queued", "in_progress"})

#: Events that a background response begins with: created, queued, in progress. What has a higher number is its answer.
LIFECYCLE = 3


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one response as OpenAI counts them; `estimated` when the upstream gave none."""

    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.estimated or other.estimated,
        )

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def wire(self) -> dict[str, Any]:
        """The contract's `usage` object, every field present."""
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {
                "cached_tokens": self.cached_tokens,
                "cache_write_tokens": self.cache_write_tokens,
            },
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.total_tokens,
        }


@dataclass(frozen=True, slots=True)
class Draft:
    """What is known of a response when its turn begins."""

    id: str
    owner: str
    token: int | None
    """Key of the token that asked, None for work of our own."""
    model: str
    created_at: int
    parent: str | None = None
    """Id of the previous response, already checked to be chainable."""
    conversation: str | None = None
    """Id of the conversation it is a turn of: what was said is appended there when it has ended well."""
    seen: int = 0
    """The position up to which that conversation was its context."""
    kept: bool = True
    """`store`: content is kept and the id can be retrieved and chained from. Else only metadata."""
    streamed: bool = False
    background: bool = False
    """Made by a worker, which holds its row; see `Job`."""
    request_id: str = ""
    settings: bytes = b"{}"
    """JSON object of what repeats from turn to turn (instructions, tools, text); stored once by content."""
    echo: bytes = b"{}"
    """JSON object of every other field the response echoes, where it differs from the contract's default."""
    input: bytes = b"[]"
    """JSON array: the turn's own new input items."""
    item_ids: tuple[str, ...] = ()
    """Ids of the input items that brought one."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try on one channel. `error` is the code it failed with."""

    channel: str
    milliseconds: int
    status: int | None = None
    error: str | None = None
    path: str = ""
    """How its stream was read: `bytes`, `repaired`, `translated`."""
    dropped: tuple[str, ...] = ()
    """Types of the tools that the channel was not told of."""
    said: str | None = None
    """The upstream's own sentence, where it failed with one."""

    def wire(self) -> dict[str, Any]:
        wire: dict[str, Any] = {
            "channel": self.channel,
            "ms": self.milliseconds,
            "status": self.status,
            "error": self.error,
        }
        if self.path:
            wire["path"] = self.path
        if self.dropped:
            wire["dropped"] = list(self.dropped)
        if self.said:
            wire["said"] = self.said
        return wire


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of it."""

    status: str
    """completed, incomplete, failed, cancelled."""
    completed_at: int
    output: bytes = b"[]"
    """JSON array of output items, whole: what a client did not ask to see is left out on the way out, not here."""
    item_ids: tuple[str, ...] = ()
    usage: Usage | None = None
    error: Mapping[str, Any] | None = None
    incomplete_details: Mapping[str, Any] | None = None
    echo: bytes | None = None
    """Replaces the draft's echo once the upstream's defaults are known."""
    channel: str | None = None
    family: str | None = None
    """Which channels can read the opaque items in `output`."""
    upstream_model: str | None = None
    upstream_id: str | None = None
    attempts: tuple[Attempt, ...] = ()
    opaque: bool = False
    """`output` holds items only this family can read (encrypted reasoning, a native compaction)."""
    compacted: bool = False
    """`output` holds a compaction item: a load of the chain starts here."""
    first_byte_ms: int | None = None
    total_ms: int = 0
    compaction: Mapping[str, Any] | None = None
    """What a compaction did: strategy, context tokens before and after, usage of the pass, or why it failed."""


class Link(NamedTuple):
    """One response of a chain as it was stored. A tuple, for a long conversation has thousands of them."""

    id: str
    status: str
    channel: str | None
    family: str | None
    opaque: int
    """A flag, as databases keep them."""
    input_tokens: int | None
    output_tokens: int | None
    input: bytes
    output: bytes


@dataclass(frozen=True, slots=True)
class Chain:
    """A response and its ancestors, oldest first, from the newest compaction on (or from the root)."""

    links: tuple[Link, ...] = ()
    compacted: bool = False
    """The first link's output holds a compaction item; its input is not part of the context."""
    conversation: str | None = None
    """Id of the conversation that these are the turns of. Its items come and go one by one."""
    seen: int = 0
    """The position of its newest turn, in these links or left out of them."""

    @property
    def tip(self) -> Link | None:
        return self.links[-1] if self.links else None

    @property
    def size(self) -> int:
        """Bytes of the items in all links."""
        return sum(len(link.input) + len(link.output) for link in self.links)


@dataclass(frozen=True, slots=True)
class Stored:
    """A response read back, with everything that is needed to answer a GET."""

    id: str
    owner: str
    parent: str | None
    status: str
    model: str
    created_at: int
    completed_at: int | None
    settings: bytes
    echo: bytes
    input: bytes
    output: bytes
    usage: Usage | None
    error: Mapping[str, Any] | None
    incomplete_details: Mapping[str, Any] | None
    streamed: bool = False
    conversation: str | None = None
    seen: int = 0
    """The position up to which the conversation was its context."""

    def input_items(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = orjson.loads(self.input)
        return items

    def output_items(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = orjson.loads(self.output)
        return items


@dataclass(frozen=True, slots=True)
class Job:
    """A background response that a worker has claimed."""

    id: str
    owner: str
    token: int
    """Key of the token that asked."""
    created_at: int
    request: bytes
    """JSON: the request as it was validated."""
    last: int
    """Number of the newest event that is kept; -1 for none."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of a response, numbered from `first` to `last`, as they are sent."""

    first: int
    last: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """The next kept events of a response, and whether more may come."""

    status: str
    batches: tuple[Batch, ...]
    last: int | None = None
    """Number of the newest event that is kept, None for none; known once the response has ended."""
    more: bool = False
    """There are others already."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation without what was said in it."""

    id: str
    created_at: int
    metadata: Mapping[str, str] = field(default_factory=dict)

    def wire(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "conversation",
            "created_at": self.created_at,
            "metadata": dict(self.metadata),
        }


@dataclass(frozen=True, slots=True)
class ConversationTurn:
    """What is appended to a conversation at once: a response's input and output, or items that a client adds."""

    created_at: int
    response: str | None = None
    status: str = "completed"
    input: bytes = b"[]"
    output: bytes = b"[]"
    compacted: bool = False
    """`output` holds a compaction item, which stands for all that was seen: a load starts here."""
    seen: int | None = None
    """The position up to which the conversation was its context; None for all that stands before it."""
    channel: str | None = None
    family: str | None = None
    opaque: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None

    def items(self) -> list[dict[str, Any]]:
        return [*orjson.loads(self.input), *orjson.loads(self.output)]


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is checked: never its secret."""

    key: int
    name: str
    owner: str
    prefix: str
    models: tuple[str, ...] = ()
    """Names or globs; empty means every model."""
    created_at: int = 0
    expires_at: int | None = None
    revoked_at: int | None = None
    last_used_at: int | None = None
    keeps: bool = True
    """False: every request is treated as `store: false`."""

    def may_use(self, model: str) -> bool:
        return not self.models or any(fnmatchcase(model, allowed) for allowed in self.models)

    def wire(self) -> dict[str, Any]:
        return {
            "id": self.key,
            "name": self.name,
            "owner": self.owner,
            "prefix": self.prefix,
            "models": list(self.models),
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "revoked_at": self.revoked_at,
            "last_used_at": self.last_used_at,
            "store": self.keeps,
        }


@dataclass(frozen=True, slots=True)
class ChannelStatus:
    """How one channel fares in one worker."""

    name: str
    in_flight: int = 0
    failures: int = 0
    """In a row, since it last went well or rested."""
    rests: int = 0
    """In a row, since it last went well."""
    resting: float = field(default=0.0, compare=False)
    """Seconds of rest that are left. They pass by themselves: that is no news."""
    on_trial: bool = False
    """It has rested, and takes one request at a time until one has gone well."""
    last_error: str | None = None
    """Code of what it failed with since it last went well."""
    path: str = ""
    """How its last stream was read: `bytes`, `repaired`, `translated`."""

    def wire(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, wire: Mapping[str, Any]) -> ChannelStatus:
        """Workers of another version may tell more or less."""
        return cls(**{name: wire[name] for name in cls.__slots__ if name in wire})


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """What a living worker last said of its channels, and how many seconds ago."""

    worker: str
    age: int
    channels: tuple[ChannelStatus, ...] = ()
    server: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Where it listens, which table it reads, fingerprints of its other settings."""

    @property
    def host(self) -> str:
        return self.worker.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Claim:
    """An Idempotency-Key, and what tells the request that came with it from another one."""

    key: str
    fingerprint: str
    """Hex digits of a SHA-256."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """The response that a key belongs to already."""

    fingerprint: str
    response: str
    status: str | None
    """None while there is no row of it."""
    running: bool
    """A living worker is at it, or will be."""
    background: bool = False
    """It waits for a worker of its own, or is with one."""


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item found by its id: the JSON of the array it stands in, and where."""

    response_id: str
    item: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trace:
    """What tells where a response goes on from when its client did not say: hashes of what was said, no text."""

    response: str
    token: int
    starts: tuple[bytes, ...]
    """Where earlier answers ended in its input, the longest beginning first."""
    end: bytes | None
    """Where it ends itself; None when nobody can go on from it."""
