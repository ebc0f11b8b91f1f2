"""A channel as values for all layers: its row, timeouts, cooldown, and the table's defaults for compaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType


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
    max_output_tokens: int | None = None
    """Applied when the client sends none."""
    hosted_tools: str = "drop"
    system_messages: str = "merge"
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
