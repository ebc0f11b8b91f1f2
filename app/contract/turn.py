"""A turn, which the relay builds and a format encodes, and the answer that the format decodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.contract.items import Item, is_hidden
from app.contract.records import Chain, UpstreamResponse
from app.contract.response import Echo
from app.contract.tool_history import ToolHistory
from app.contract.usage import Usage
from app.errors import UpstreamError


@dataclass(frozen=True, slots=True)
class Secret:
    """What an upstream wants back with an item, and only the channels of its family may read."""

    value: str
    """The item's `encrypted_content`, as the format of the upstream reads it."""
    text: str = ""
    """The reasoning text of the item, for a client that sends the item back without it."""
    item_id: str = ""
    """The upstream's own id of the item, if the value is bound to it and the client knows another one."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request becoming one response. A turn never changes, so a retry can encode it again."""

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
    comparison: UpstreamResponse | None = None
    """The earlier response whose cache the client wants compared: `prompt_cache_options.comparison_response_id`."""
    store: bool = True
    stream: bool = False
    leading_items: Sequence[Item] = ()
    """Output items of the gateway before the answer: a compaction. `chain` then holds the items that it stands for. A
    hidden one is stored and not shown."""
    compaction_usage: Usage | None = None
    """Usage of the pass that made them; the response reports it with the answer's."""
    compaction: Mapping[str, Any] | None = None
    """The outcome of a compaction, for the operator."""
    cache_key: str | None = None
    """Names the conversation for the upstream's cache, if its client gives no key. No client sees it."""
    forbids_calls: bool = False
    """The answer is text, whatever tools the request offers. A format keeps the request's `tool_choice` if a change of
    it would cost what the provider has cached; an answer that calls a tool is then a failure."""
    functions_only: bool = False
    """The channel takes functions only: other tools were sent as functions, and their calls are to be restored."""
    tool_history: ToolHistory = field(default_factory=ToolHistory)
    """How calls of tools that the gateway ran are shown to the model."""
    changes: Sequence[str] = ()
    """What the model does not get as it was said, for the operator."""
    seal: Callable[[str], str] | None = None
    """Makes `encrypted_content` from reasoning text, for a client that includes it."""
    seal_secret: Callable[[Secret], str] | None = None
    """Makes `encrypted_content` that only the family of the channel which answers gets back opened."""

    @property
    def shown_items(self) -> Sequence[Item]:
        """The leading items that the client gets."""
        return [item for item in self.leading_items if not is_hidden(item)]

    def sealed(self, secret: Secret) -> str:
        """The secret as `encrypted_content` for the store and the client."""
        return secret.value if self.seal_secret is None else self.seal_secret(secret)

    def response(self, status: str, echo: Echo | None = None, **outcome: Any) -> dict[str, Any]:
        """The response object of this turn. `echo` holds the upstream's defaults too, once they are known. `outcome`:
        the arguments of `Echo.response` from `output` on."""
        return (echo or self.echo).response(
            id=self.id,
            created_at=self.created_at,
            model=self.model,
            previous_response_id=self.previous_response_id,
            status=status,
            **outcome,
        )

    @property
    def background(self) -> bool:
        """Whether a background worker makes the response; see `app.relay.background.jobs`."""
        return bool(self.request.get("background"))

    @property
    def previous_response_id(self) -> str | None:
        return self.request.get("previous_response_id")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of an upstream, in the contract's terms."""

    status: str
    """completed, incomplete or failed."""
    output: Sequence[Item]
    usage: Usage | None = None
    error: Mapping[str, Any] | None = None
    incomplete_details: Mapping[str, Any] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """The upstream's response object, for settings that the client left open."""
    upstream_id: str | None = None
    upstream_model: str | None = None
    failure: UpstreamError | None = field(default=None, compare=False)
    """The channel's failure, if the answer has failed."""
    path: str = ""
    """How the output was relayed: `bytes` as the upstream sent it, `repaired` or `translated`."""
