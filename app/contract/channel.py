"""A channel as values for all layers: its row, timeouts, cooldown, and the table's defaults for compaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any


class Secret(str):
    """Text whose repr is masked."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "***"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, to the first byte of a stream, between two of its bytes, for the whole exchange."""

    connect: float = 5.0
    first_byte: float = 90.0
    idle: float = 120.0
    total: float = 900.0
    unstreamed_first_byte: float | None = None
    """To the first byte of an unstreamed answer, where the row itself has a `first_byte`. Otherwise only `total` bounds
    it, since a model may write for minutes before it sends anything."""


@dataclass(frozen=True, slots=True)
class Cooldown:
    """`seconds` of cooldown follow `after` failures in a row."""

    after: int = 5
    seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Params:
    """Changes of the members of a request. Each member is named by its path in the upstream's request, such as
    `temperature` or `tools[].function.strict`; `**` stands for any depth.
    """

    drop: tuple[str, ...] = ()
    omit: tuple[str, ...] = ()
    """Members that are left out where their value means the same as none. Learnt only."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """Path → the member's new name."""
    set: Mapping[str, Any] = field(default_factory=dict)
    """Path → the value that every request gets."""
    allow: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Path → the values that the upstream takes. The nearest one replaces any other value. Learnt only."""
    hash: tuple[str, ...] = ()
    """Members that are replaced by their hash. Learnt only."""
    at_most: Mapping[str, int] = field(default_factory=dict)
    """Path → the largest number that the upstream takes. Learnt only."""

    def __bool__(self) -> bool:
        return bool(self.drop or self.omit or self.rename or self.set or self.allow or self.hash or self.at_most)

    def with_(self, name: str, path: str, value: Any) -> Params:
        """With one more change: `name` is a field, `path` its member, `value` None for a field without values."""
        known = getattr(self, name)
        more: Any = {**known, path: value} if isinstance(known, Mapping) else tuple(dict.fromkeys((*known, path)))
        return replace(self, **{name: more})

    def wire(self) -> dict[str, Any]:
        """The fields that are not empty."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name))}


@dataclass(frozen=True, slots=True)
class Channel:
    """A row of the channel table: an upstream, the models it serves and its limits."""

    name: str
    format: str
    base_url: str | None = None
    api_key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    models: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Public name → the upstream's name; literal names only."""
    globs: tuple[str, ...] = ()
    priority: int = 0
    """Higher first."""
    weight: int = 1
    """Share among channels of the same priority."""
    max_concurrency: int | None = None
    """Most requests at the same time, over all processes of one machine."""
    queue: float = 0.0
    """Seconds that a request waits for a place in the full channel when no other channel is free."""
    timeouts: Timeouts = Timeouts()
    cooldown: Cooldown = Cooldown()
    family: str = ""
    """Channels of one family can read each other's opaque items; the channel's own name unless given."""
    compact: str = "gateway"
    """`native`: the upstream has /responses/compact; `trigger`: it takes compaction_trigger; `gateway`: we compact."""
    bridge: bool = True
    """False: not for /v1/responses."""
    chat: bool = False
    """The base URL also answers /chat/completions."""
    count_tokens: bool = False
    """The upstream has a request that counts tokens."""
    encrypted_reasoning: bool = False
    """The upstream understands `include: [reasoning.encrypted_content]`."""
    reasoning_text: bool = False
    """The upstream takes reasoning text back with the history, as servers of open models do."""
    cache_key: str = "auto"
    """Whether the upstream gets the gateway's own `prompt_cache_key` if the client gives none: `on`, `off`, or `auto`,
    as the format does by default."""
    item_ids: str = "given"
    """`omit`: the upstream of a `responses` channel refuses the ids of items, so that they are left out; `made`: it
    refuses an assistant's message without an id and a status, so that it gets them."""
    call_ids: str = "given"
    """`short`: the upstream takes ids of calls with exactly nine letters and digits."""
    call_signatures: str = "given"
    """What calls of other models get in place of a signature that the upstream requires: `google` or `openrouter` for
    the placeholder in the member of that API."""
    max_output_tokens: int | None = None
    """Applied when the client sends none."""
    hosted_tools: str = "drop"
    mcp: str = "gateway"
    """`native`: the upstream itself calls the MCP servers that a client names."""
    system_messages: str = "merge"
    """`merge` into one, `keep` apart, or `user`: the upstream's template takes no system message."""
    message_order: str = "free"
    """`strict`: user and assistant alternate, and no user message follows a tool result directly."""
    tool_images: str = "user"
    """Where images of a tool's result go: a `user` message after the results, or the `tool` message itself."""
    tools: str = "native"
    """`functions`: the upstream of a `responses` channel takes functions only; other tools are sent as functions."""
    tool_schemas: str = "given"
    """`plain`: the upstream takes no union at the top of a tool's schema; `inlined`: no `$ref` in it either."""
    tool_strictness: str = "mixed"
    """`uniform`: the upstream takes `strict` for all tools or for none."""
    streaming: str = "both"
    """`always`: the upstream answers in streams only, so that every request asks for one."""
    sampling: str = "both"
    """`one`: the upstream takes `temperature` or `top_p`, not both."""
    thinking: str = "adaptive"
    """The form in which a `messages` channel asks for thinking: `adaptive`; a `budget` of tokens; `always`: the
    model cannot stop thinking; `between_tools`: it can, except between tools."""
    text_format: str = "schema"
    """What the upstream takes of `text.format`: a `schema`, any JSON `object`, or only an `instruction`."""
    params: Params = field(default_factory=Params, hash=False)
    """Members that every request leaves out, renames or sets."""
    learnt_window: int | None = None
    """Tokens of the model's window, which a refusal of a context that was too long has named. Learnt only."""
    guessed_window: int | None = None
    """Tokens that fitted after refusals that named no number. Passes over a history go by it; the model's window may
    be larger. Learnt only."""
    retry_unanswered: bool = False
    """A request that was accepted and never answered may be sent to another channel."""
    ca_file: str | None = None
    tags: tuple[str, ...] = ()
    enabled: bool = True
    line: int = 0
    """Where the row begins in the file."""
    missing_key: str = ""
    """Why the channel has no key and is left out; empty when it has one or needs none."""

    def __post_init__(self) -> None:
        if not self.family:
            object.__setattr__(self, "family", self.name)
        if self.api_key is not None:
            object.__setattr__(self, "api_key", Secret(self.api_key))
        masked = {name: Secret(value) for name, value in self.headers.items()}
        object.__setattr__(self, "headers", MappingProxyType(masked))

    def upstream_model(self, model: str) -> str | None:
        """The upstream's name of this model; None when the channel does not serve it."""
        literal = self.models.get(model)
        if literal is not None:
            return literal
        return model if any(fnmatchcase(model, glob) for glob in self.globs) else None


@dataclass(frozen=True, slots=True)
class Compaction:
    """Defaults of the table for compaction. Without a model, the conversation's own model writes the summary."""

    model: str | None = None
    strategy: str = "auto"
    timeout: float = 120.0
    """Seconds that one pass may take."""
