"""Upstream wire formats. One file a format; its name is the `format:` of a channel. Pure: values in, values out.

A format is a module with these names, and `Decoder` is what its streams are read with. Arguments are never changed,
so that another channel may be asked with the same turn. State lives in the decoder, one per exchange.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Protocol, cast

from app.contract.channel import Channel
from app.errors import UpstreamError
from app.formats._events import Emitter, replay
from app.formats._passthrough import PASSTHROUGH, PassthroughDecoder, PassthroughEndpoint, PassthroughSummary
from app.turn import Answer, Item, Turn

__all__ = [
    "PASSTHROUGH",
    "Compacting",
    "Counting",
    "Decoder",
    "Emitter",
    "Format",
    "PassthroughDecoder",
    "PassthroughEndpoint",
    "PassthroughSummary",
    "Serving",
    "counting",
    "load",
    "names",
    "replay",
    "serving",
]


class Decoder(Protocol):
    """A push machine over the bytes of one upstream stream."""

    accepted: bool
    """A first valid event has come."""
    started: bool
    """The first output event has been given back: from here on no other channel can take over."""
    answer: Answer | None
    """Set by the terminal event, which is never given back: the one who stores the response sends it."""
    defaults: Mapping[str, object]
    """What the upstream said of itself when it began."""
    path: str
    """How the output events went: `bytes` as they came, `repaired`, or `translated`; empty until that is known."""

    def feed(self, data: bytes) -> bytes:
        """Takes any piece of the stream; gives back whole events to send on. Raises UpstreamError."""
        ...

    def finish(self) -> None:
        """The upstream has closed. Raises UpstreamBroken when that was not the end of an answer."""
        ...

    def partial(self) -> list[Item]:
        """The items so far, the unfinished last one with status `incomplete`."""
        ...

    @property
    def sequence(self) -> int:
        """The number of the next event on this stream, whoever sends it."""
        ...


class Format(Protocol):
    """The module itself."""

    def path(self, model: str, stream: bool) -> str:
        """Where a request for this model is posted, below the channel's `base_url`; some APIs stream elsewhere."""
        ...

    def encode(self, turn: Turn, row: Channel, model: str) -> bytes:
        """The upstream's request body. Raises InvalidRequest for what this format cannot carry."""
        ...

    def decode(self, body: bytes, turn: Turn) -> Answer:
        """An unstreamed answer. Raises UpstreamError."""
        ...

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        """The failure that an HTTP status other than 200 stands for."""
        ...

    def decoder(self, turn: Turn, sequence: int) -> Decoder:
        """A decoder whose first event to be sent on gets the number `sequence`."""
        ...

    def headers(self, api_key: str | None) -> Mapping[str, str]:
        """How a request shows the channel's key, and what else this format's servers ask for."""
        ...

    def dropped(self, turn: Turn, row: Channel) -> Sequence[str]:
        """Types of the tools that `encode` leaves out for this row, fit for a header."""
        ...

    def amended(self, turn: Turn, row: Channel, error: UpstreamError) -> Turn | None:
        """The turn as the same channel may be asked once more after this refusal; None when that is of no use."""
        ...


class Compacting(Protocol):
    """A format whose upstreams may compact by themselves."""

    def compaction_path(self, model: str) -> str:
        """As `path`, for a compaction."""
        ...

    def encode_compaction(self, turn: Turn, row: Channel, model: str) -> bytes: ...


class Counting(Protocol):
    """A format whose upstreams may tell how many tokens a request would take, without answering it."""

    def count_path(self, model: str) -> str:
        """As `path`, for a count of tokens."""
        ...

    def encode_count(self, turn: Turn, row: Channel, model: str) -> bytes:
        """Raises InvalidRequest for what this format cannot carry."""
        ...

    def decode_count(self, body: bytes) -> int:
        """Raises UpstreamBroken."""
        ...


class Serving(Protocol):
    """A format that needs no upstream: it answers its own requests."""

    def serve(self, path: str, body: bytes) -> tuple[int, Iterator[bytes]]:
        """Status and the pieces of the body, as an upstream would send them."""
        ...


def names() -> frozenset[str]:
    """Every format there is: the listing of this folder."""
    return frozenset(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> Format:
    return cast(Format, import_module(f"{__name__}.{name}"))


def counting(name: str) -> Counting | None:
    """The same module where its upstreams can count."""
    format_ = load(name)
    return cast(Counting, format_) if hasattr(format_, "count_path") else None


def serving(name: str) -> Serving:
    """The same module where it answers by itself."""
    return cast(Serving, load(name))
