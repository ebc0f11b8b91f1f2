"""Records of responses, conversations, tokens and channels, as the relay writes them and the store returns them.

JSON columns travel as bytes: an array of items is written once and later spliced into a request without parsing.
Times are whole unix seconds, durations milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from time import time
from typing import Any, NamedTuple

import orjson

from app.contract.limits import UNSTATED, Limits
from app.contract.outline import Outline
from app.contract.tools import is_granted
from app.contract.usage import Usage

#: Statuses of a response that can be chained from.
CHAINABLE = frozenset({"completed", "incomplete"})

#: Statuses of a response that has not ended.
RUNNING = frozenset({"queued", "in_progress"})

#: An operator sees what all owners have, and an owner their own.
CONSOLE_ROLES = ("operator", "owner")

#: Number of events before the answer of a background response: created, queued, in progress.
LIFECYCLE_EVENTS = 3


@dataclass(frozen=True, slots=True)
class Draft:
    """A response when its turn begins."""

    id: str
    owner: str
    token: int | None
    """Key of the client's token; None for requests of the gateway itself."""
    model: str
    created_at: int
    parent: str | None = None
    """Id of the previous response, already checked to be chainable."""
    conversation: str | None = None
    """Id of its conversation: a completed or incomplete response is appended there."""
    conversation_position: int = 0
    """The position up to which that conversation was its context."""
    stored: bool = True
    """`store`: content is stored, and the id can be retrieved and chained from. Otherwise only metadata is stored."""
    streamed: bool = False
    background: bool = False
    """A worker makes it and holds its row; see `Job`."""
    request_id: str = ""
    client: str = ""
    """The program that sent the request: one of a few names, empty if unknown; see `client_names`."""
    settings: bytes = b"{}"
    """JSON object of large fields that repeat from turn to turn (instructions, tools, text); stored by content."""
    echo: bytes = b"{}"
    """JSON object of the other echoed fields that differ from the contract's defaults."""
    input: bytes = b"[]"
    """JSON array: the turn's own new input items."""
    item_ids: tuple[str, ...] = ()
    """Ids of the input items that have one."""


@dataclass(frozen=True, slots=True)
class AttemptSpan:
    """What the span of an attempt needs beside its record."""

    id: str
    """Hex digits, as the upstream got them."""
    started_at: int
    """Unix time in nanoseconds."""
    model: str
    """The upstream's name of it."""
    host: str = ""
    """Of the upstream; empty if it has none."""
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of an exchange on one channel. `error` is the code of its failure."""

    channel: str
    milliseconds: int
    status: int | None = None
    error: str | None = None
    path: str = ""
    """How the output was relayed: `bytes`, `repaired`, `translated`."""
    dropped: tuple[str, ...] = ()
    """Types of the tools that the request to the channel left out."""
    upstream_message: str | None = None
    """The upstream's error message, if it sent one."""
    adapted: tuple[str, ...] = ()
    """What the request to the channel left out, renamed or replaced, for an upstream that does not take it."""
    usage: Usage | None = None
    """Of this exchange, in a turn of several."""
    shortened: bool = False
    """The oldest items were left out, because the upstream found the context too long."""
    span: AttemptSpan | None = field(default=None, compare=False)
    """None while it is not traced."""

    @property
    def is_plain(self) -> bool:
        """It has succeeded, and the channel got the request as the client sent it."""
        return self.error is None and not (self.dropped or self.adapted or self.shortened)

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
        if self.adapted:
            wire["adapted"] = list(self.adapted)
        if self.usage:
            wire["usage"] = self.usage.wire()
            if self.usage.cost is not None:
                wire["cost_micros"] = self.usage.cost
        if self.shortened:
            wire["shortened"] = True
        if self.upstream_message:
            wire["said"] = self.upstream_message  # the member that older rows have
        return wire


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool server, or the denial of one, as it is recorded for the operator."""

    item_id: str
    """Of the call's item; for a denial the id of the approval request."""
    server: str
    """Its label."""
    tool: str
    started_at: int
    """Unix time in milliseconds; 0 while an answer to an approval request has run no call, as a denial never does."""
    approval_request_id: str | None = None
    milliseconds: int | None = None
    """None while the call has not ended."""
    size: int | None = None
    """Bytes of the result."""
    error: str | None = None
    """The kind of the failure, without the words of the server."""
    result: bytes | None = field(default=None, repr=False)
    """JSON: what a hosted tool has found, for the next turns' model."""
    stored: bool = field(default=True, compare=False)
    """Whether the response is stored, and the result with it."""
    repeatable: bool = field(default=False, compare=False)
    """The call may run again: it only reads, or has the same effect as once."""

    def wire(self) -> dict[str, Any]:
        """What an operator sees, without the result."""
        return {
            "item": self.item_id,
            "server": self.server,
            "tool": self.tool,
            "started_at": self.started_at,
            "ms": self.milliseconds,
            "bytes": self.size,
            "error": self.error,
            "approval_request": self.approval_request_id,
        }


@dataclass(frozen=True, slots=True)
class Prompt:
    """Keyed digests of what a turn gave its model, and what else decides whether the provider's cache serves the next
    turn; no text. Each digest has 8 bytes."""

    key: bytes
    """Two bytes that name the key of the digests."""
    tools: bytes = b""
    """One digest a tool."""
    instructions: bytes = b""
    """One digest for the instructions, one for the form of the answer."""
    input: bytes = b""
    """One digest for each of the turn's own input items."""
    output: bytes = b""
    """One digest an output item."""
    has_items: bool = True
    """False while `input` and `output` are not known yet."""
    adapted: bytes = b""
    """Digest of what the channel did not get as the client sent it; empty if there was nothing."""
    cache_key: bytes = b""
    """Digest of the cache key that the upstream got; empty if it got none."""
    shortened: bool = False
    """The oldest items were left out for a model that found the context too long."""
    reports_cache: bool = True
    """The upstream says how many tokens came from its cache."""
    reasoning: bool = False
    """The channel takes reasoning items, so that they have digests as well."""
    kept: int = 0
    """Seconds for which the client asked the provider to keep the prompt; 0 if it did not."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a response ended."""

    status: str
    """completed, incomplete, failed, cancelled."""
    completed_at: int
    output: bytes = b"[]"
    """JSON array of complete output items. Parts that the client does not include are left out when it is shown."""
    item_ids: tuple[str, ...] = ()
    usage: Usage | None = None
    error: Mapping[str, Any] | None = None
    incomplete_details: Mapping[str, Any] | None = None
    echo: bytes | None = None
    """Replaces the draft's echo, with the upstream's defaults."""
    channel: str | None = None
    family: str | None = None
    """Channel family that can read the opaque items in `output`."""
    upstream_model: str | None = None
    upstream_id: str | None = None
    attempts: tuple[Attempt, ...] = ()
    opaque: int = 0
    """What of the response not every upstream takes as it is: `SECRETS` that only this family can read (encrypted
    reasoning, a native compaction), items of `TOOLS`, both, or 0."""
    compacted: bool = False
    """`output` holds a compaction item: a load of the chain starts here."""
    first_byte_ms: int | None = None
    total_ms: int = 0
    prompt: Prompt | None = None
    """None when nothing can follow the response."""
    compaction: Mapping[str, Any] | None = None
    """A compaction's strategy, context tokens before and after, usage of the pass, or its failure."""
    outline: Outline | None = None
    """None when it is not known what the turn asked and did."""


class UpstreamResponse(NamedTuple):
    """A response under the id that its upstream gave it. Only channels of the family know this id."""

    id: str
    family: str


class Link(NamedTuple):
    """One stored response of a chain. A tuple, because a long conversation has thousands."""

    id: str
    status: str
    channel: str | None
    family: str | None
    opaque: int
    """As in `Outcome`."""
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
    """Id of the conversation that has these turns. Its items can be added and deleted one by one."""
    conversation_position: int = 0
    """The position of its newest turn, also if the links leave that out."""
    origin: str | None = None
    """Where it began, if the links do not show it: before a compaction, or in a conversation."""

    @property
    def root(self) -> str | None:
        """Id of the conversation that it began in, or of its first response: the same in every turn and branch, also
        after a compaction; None without a history."""
        return self.conversation or self.origin or (self.links[0].id if self.links else None) or None

    @property
    def tip(self) -> Link | None:
        return self.links[-1] if self.links else None

    @property
    def size(self) -> int:
        """Bytes of the items in all links."""
        return sum(len(link.input) + len(link.output) for link in self.links)


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A stored response, with all that a GET returns."""

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
    conversation_position: int = 0
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
    """Key of the client's token."""
    created_at: int
    request: bytes
    """JSON object: the validated request."""
    last: int
    """Number of the newest stored event; -1 if there is none."""
    trace: tuple[str | None, str | None] = (None, None)
    """`traceparent` and `tracestate` of the client."""


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events of a response, numbered from `first` to `last`, as they are sent."""

    first: int
    last: int
    body: bytes


@dataclass(frozen=True, slots=True)
class EventPage:
    """The next stored events of a response, and whether more may follow."""

    status: str
    batches: tuple[EventBatch, ...]
    last: int | None = None
    """Number of the newest stored event once the response has ended; None if there is none."""
    more: bool = False
    """More stored events follow."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation without its items."""

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
    """Items that are appended to a conversation together: input and output of a response, or a client's items."""

    created_at: int
    response: str | None = None
    status: str = "completed"
    input: bytes = b"[]"
    output: bytes = b"[]"
    compacted: bool = False
    """`output` holds a compaction item, which stands for all items before it: a load of the chain starts here."""
    conversation_position: int | None = None
    """The position up to which the conversation was its context; None for all turns before it."""
    channel: str | None = None
    family: str | None = None
    opaque: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None

    def items(self) -> list[dict[str, Any]]:
        return [*orjson.loads(self.input), *orjson.loads(self.output)]


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its secret."""

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
    stores: bool = True
    """False: every request is treated as `store: false`."""
    tools: tuple[str, ...] = ()
    """Labels of tool servers, or globs; empty means none."""
    limits: Limits = UNSTATED
    """Its own; what is not stated is the table's."""
    retention: int | None = None
    """Seconds after which its responses are pruned, if that is sooner than for others."""
    metrics: bool = False
    """It may read /metrics."""
    console: str | None = None
    """The role with which it may sign in to the console, one of `CONSOLE_ROLES`; None if it may not."""

    @property
    def is_valid(self) -> bool:
        """It is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > time())

    def under(self, defaults: Limits) -> Token:
        """The token as the table's limits make it, where it states nothing of its own."""
        if defaults.models is None and not defaults.no_store:
            return self
        limits = self.limits.or_else(defaults)
        return replace(self, models=self.models or limits.models or (), stores=self.stores and not limits.no_store)

    def may_use(self, model: str) -> bool:
        return not self.models or any(fnmatchcase(model, allowed) for allowed in self.models)

    def may_use_tools(self, label: str) -> bool:
        return is_granted(label, self.tools)

    def wire(self) -> dict[str, Any]:
        return {
            "id": self.key,
            "name": self.name,
            "owner": self.owner,
            "prefix": self.prefix,
            "models": list(self.models),
            "tools": list(self.tools),
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "revoked_at": self.revoked_at,
            "last_used_at": self.last_used_at,
            "store": self.stores,
            "limits": self.limits.wire(),
            "retention": self.retention,
            "metrics": self.metrics,
            "console": self.console,
        }


#: The members of a channel status whose names in JSON differ, because workers of earlier versions read them as well.
_STATUS_NAMES = {"cooldowns": "rests", "cooldown_left": "resting", "half_open": "on_trial"}


@dataclass(frozen=True, slots=True)
class ChannelStatus:
    """Health of one channel in one worker."""

    name: str
    in_flight: int = 0
    failures: int = 0
    """Consecutive failures since the last success or cooldown."""
    cooldowns: int = 0
    """Consecutive cooldowns since the last success."""
    cooldown_left: float = field(default=0.0, compare=False)
    """Seconds of cooldown that are left. Not compared: a running cooldown is not a change of status."""
    half_open: bool = False
    """After a cooldown the channel takes one request at a time until one succeeds."""
    last_error: str | None = None
    """Code of the newest failure since the last success."""
    path: str = ""
    """How its last output was relayed: `bytes`, `repaired`, `translated`."""
    paused: str = ""
    """`paused` or `draining` while an operator has taken it out of service."""

    def wire(self) -> dict[str, Any]:
        return {_STATUS_NAMES.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def of(cls, wire: Mapping[str, Any]) -> ChannelStatus:
        """The status from JSON. Workers of other versions may write more or fewer members."""
        names = {name: _STATUS_NAMES.get(name, name) for name in cls.__slots__}
        return cls(**{name: wire[key] for name, key in names.items() if key in wire})


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """The last channel statuses of a live worker, and their age in seconds."""

    worker: str
    age: int
    channels: tuple[ChannelStatus, ...] = ()
    server: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Its addresses, its channel table and fingerprints of its other settings."""

    @property
    def host(self) -> str:
        return self.worker.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Claim:
    """An Idempotency-Key and the fingerprint of its request."""

    key: str
    fingerprint: str
    """Hex digits of a SHA-256."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """The response that already has a key."""

    fingerprint: str
    response: str
    status: str | None
    """None while it has no row."""
    running: bool
    """A live worker makes it, or will."""
    background: bool = False
    """It waits for a background worker, or one makes it."""


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item found by its id, and its response."""

    response_id: str
    item: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trace:
    """Hashes of a response's items and thread, to find the relatives of a request without `previous_response_id`; no
    text."""

    response: str
    token: int
    starts: tuple[bytes, ...]
    """Hashes of the prefixes of its input that end with an answer, the longest first."""
    end: bytes | None
    """Hash of its input and output; None if it cannot be chained from."""
    thread: bytes = b""
    """Hash of the client's thread."""
    question: bytes | None = None
    """Hash of its whole input, by which a retry is recognised; None when other conversations may begin the same way."""
    parents: tuple[bytes, ...] = ()
    """Hashes under which the thread that started this one may be known."""
    subagent: str | None = None
    """The kind of sub-agent, in the client's words."""
    began_at: int = 0
    """When its request came, in milliseconds."""
    ended_at: int = 0
    """When its answer was ready to leave: a thread that this response started began later."""
    prompt: Prompt | None = None
    """Digests of the whole context; None if the client names the parent, or nothing can follow the response."""
