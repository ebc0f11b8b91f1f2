"""One turn, as the relay opens it and a format translates it; and the answer a format makes of what came back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.contract.items import Item
from app.echo import Echo
from app.errors import UpstreamError
from app.records import Chain, Usage

__all__ = ["Answer", "Item", "Turn"]


@dataclass(frozen=True, slots=True)
class Turn:
    """A request that is about to become a response. Nothing in it is ever changed: a retry encodes it again."""

    id: str
    owner: str
    created_at: int
    model: str
    request: Mapping[str, Any]
    """The client's body as validated: nulls dropped, `input` a list of items."""
    input: Sequence[Item]
    """The turn's own new items, references resolved."""
    echo: Echo
    chain: Chain = field(default_factory=Chain)
    store: bool = True
    stream: bool = False
    preface: Sequence[Item] = ()
    """Items of ours that stand in the output before the answer: a compaction. `chain` is then what they open to."""
    spent: Usage | None = None
    """What the pass that made them cost, to be summed with the answer's."""
    compaction: Mapping[str, Any] | None = None
    """What became of a compaction, for the operator."""
    seal: Callable[[str], str] | None = None
    """Makes `encrypted_content` of reasoning text, for a client that asked for it."""

    @property
    def background(self) -> bool:
        """Made by a worker after the request was answered; see `app.relay.background`."""
        return bool(self.request.get("background"))

    @property
    def previous_response_id(self) -> str | None:
        return self.request.get("previous_response_id")


@dataclass(frozen=True, slots=True)
class Answer:
    """What an upstream answered, in the contract's terms."""

    status: str
    """completed, incomplete or failed."""
    output: Sequence[Item]
    usage: Usage | None = None
    error: Mapping[str, Any] | None = None
    incomplete_details: Mapping[str, Any] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """The upstream's own response object, for the defaults that a client left open."""
    upstream_id: str | None = None
    upstream_model: str | None = None
    failure: UpstreamError | None = field(default=None, compare=False)
    """Of a failed one, what the channel failed with."""
    path: str = ""
    """How it came to be what it is: `bytes` as the upstream sent it, `repaired`, or `translated`."""
