"""Upstream wire formats. One file a format; its name is the `format:` of a channel. Pure: values in, values out.

A format is a module with the names of `Format`; its `decoder` reads streams. No function changes its arguments, so a
retry may encode the same turn again. Only decoders have state: each exchange has one.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Protocol, cast

from app.contract.channel import Channel
from app.contract.items import Item
from app.contract.token_estimate import TILES, ImageRule
from app.contract.turn import Answer, Turn
from app.errors import UpstreamError
from app.formats._adaptation import adapted
from app.formats._context import shortened, wants_truncation
from app.formats._events import Emitter, replay
from app.formats._ids import CHAT_SECRET, MESSAGES_SECRET
from app.formats._passthrough import (
    PASSTHROUGH,
    Codec,
    PassthroughDecoder,
    PassthroughEndpoint,
    PassthroughSummary,
    StreamCodec,
)
from app.formats._remedies import remedies_for
from app.formats._text_format import unenforced

__all__ = [
    "PASSTHROUGH",
    "Codec",
    "Compacting",
    "Counting",
    "Decoder",
    "Emitter",
    "Format",
    "PassthroughDecoder",
    "PassthroughEndpoint",
    "PassthroughSummary",
    "Serving",
    "StreamCodec",
    "adapted",
    "counting",
    "image_rule",
    "load",
    "names",
    "remedies_for",
    "replay",
    "sends_mcp",
    "serving",
    "shortened",
    "unenforced",
    "wants_truncation",
]


class Decoder(Protocol):
    """A push machine over the bytes of one upstream stream."""

    accepted: bool
    """A first valid event has come."""
    started: bool
    """`feed` has returned the first output event: from here on there is no failover."""
    answer: Answer | None
    """Set by the terminal event. `feed` never returns that event: the relay sends it once the response is stored."""
    defaults: Mapping[str, object]
    """The upstream's response object, from its first event."""
    path: str
    """How output events are relayed: `bytes`, `repaired` or `translated`; empty until the first one."""

    def feed(self, data: bytes) -> bytes:
        """Takes the next bytes of the stream; returns whole events to send on. Raises UpstreamError."""
        ...

    def finish(self) -> bytes:
        """The upstream has closed. Returns the last events to send on. Raises UpstreamBroken if the answer had not
        ended."""
        ...

    def partial(self) -> list[Item]:
        """The items so far; an unfinished last one has status `incomplete`."""
        ...

    @property
    def sequence(self) -> int:
        """`sequence_number` of the next event of this stream."""
        ...


class Format(Protocol):
    """The module itself."""

    def path(self, model: str, stream: bool) -> str:
        """Where a request for this model is posted, below the channel's `base_url`; some APIs stream elsewhere."""
        ...

    def encode(self, turn: Turn, row: Channel, model: str) -> bytes:
        """The upstream's request body. Raises InvalidRequest for content that this format cannot express."""
        ...

    def decode(self, body: bytes, turn: Turn) -> Answer:
        """An unstreamed answer. Raises UpstreamError."""
        ...

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        """The failure that an HTTP status other than 200 stands for."""
        ...

    def decoder(self, turn: Turn, sequence: int) -> Decoder:
        """A decoder whose first event has the number `sequence`."""
        ...

    def headers(self, api_key: str | None) -> Mapping[str, str]:
        """Headers that carry the channel's key, and others that servers of this format require."""
        ...

    def dropped(self, turn: Turn, row: Channel) -> Sequence[str]:
        """Types of the tools that `encode` leaves out for this row, fit for a header."""
        ...

    def amended(self, turn: Turn, row: Channel, error: UpstreamError) -> Turn | None:
        """The turn for a retry on the same channel after this refusal; None where a retry cannot help."""
        ...


class Compacting(Protocol):
    """A format whose upstreams can compact a conversation."""

    def compaction_path(self, model: str) -> str:
        """As `path`, for a compaction."""
        ...

    def encode_compaction(self, turn: Turn, row: Channel, model: str) -> bytes: ...


class Counting(Protocol):
    """A format whose upstreams can count the tokens of a request without answering it."""

    def count_path(self, model: str) -> str:
        """As `path`, for a count of tokens."""
        ...

    def encode_count(self, turn: Turn, row: Channel, model: str) -> bytes:
        """Raises InvalidRequest for content that this format cannot express."""
        ...

    def decode_count(self, body: bytes) -> int:
        """Raises UpstreamBroken."""
        ...


class Listing(Protocol):
    """A format whose upstreams list their models elsewhere than others, or only with a query."""

    def list_path(self) -> str:
        """Where a GET request answers with the list of models, below the channel's `base_url`."""
        ...


class Serving(Protocol):
    """A format without an upstream: the module answers the requests."""

    def serve(self, path: str, body: bytes) -> tuple[int, Iterator[bytes]]:
        """Status and the pieces of the body, as an upstream would send them."""
        ...


def names() -> frozenset[str]:
    """All formats: the listing of this folder."""
    return frozenset(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


@cache
def load(name: str) -> Format:
    return cast(Format, import_module(f"{__name__}.{name}"))


def counting(name: str) -> Counting | None:
    """The format as one that counts tokens; None if it cannot."""
    format_ = load(name)
    return cast(Counting, format_) if hasattr(format_, "count_path") else None


def sends_mcp(name: str) -> bool:
    """Whether the format can name MCP servers to its upstream."""
    return getattr(load(name), "SENDS_MCP", False)


def names_its_reader(secret: object) -> bool:
    """Whether the secret of reasoning shows which format reads it, so that upstreams of other formats do not get it."""
    return isinstance(secret, str) and secret.startswith((CHAT_SECRET, MESSAGES_SECRET))


def cache_key(turn: Turn, row: Channel) -> str | None:
    """The key by which this row's upstream finds the prompt in its cache; None for an upstream that gets none."""
    key = getattr(load(row.format), "cache_key", None)
    return key(turn, row) if key else None


def image_rule(name: str) -> ImageRule:
    """How the models of this format count an image, if the format says so."""
    return getattr(load(name), "IMAGES", TILES)


@cache
def list_path(name: str) -> str:
    """Where the format's upstreams list their models, below the channel's `base_url`."""
    format_ = load(name)
    return cast(Listing, format_).list_path() if hasattr(format_, "list_path") else "/models"


def serving(name: str) -> Serving:
    """The format as one that answers without an upstream."""
    return cast(Serving, load(name))
