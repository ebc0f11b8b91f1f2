"""Endpoints that are relayed without translation. Another one is an entry here, and a file in `app/endpoints/` with its
codec, which reads its requests and answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from app.contract.channel import Channel
from app.contract.usage import Usage
from app.errors import UpstreamError


class PassthroughSummary(Protocol):
    """What is recorded of an answer: ids, status and size, never its text."""

    id: str | None
    model: str | None
    usage: Usage | None
    text_length: int
    """Characters, for an estimate where the upstream counts no tokens."""

    @property
    def finished(self) -> bool: ...
    @property
    def status(self) -> str: ...


class PassthroughDecoder(Protocol):
    """A push machine over the bytes of one stream. After an `ending` or a `failure` it takes no more."""

    accepted: bool
    """A first valid event has come."""
    ending: bytes | None
    """The event that ends the stream: the recorder commits before it leaves."""
    failure: UpstreamError | None

    @property
    def summary(self) -> PassthroughSummary: ...
    @property
    def answer(self) -> object | None: ...
    def feed(self, data: bytes) -> bytes: ...
    def finish(self) -> bytes: ...


class Codec(Protocol):
    """How the gateway reads a request and its answer, without changing what they say."""

    def encode(self, request: Mapping[str, Any], model: str) -> bytes: ...
    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError: ...
    def read_whole(self, body: bytes) -> PassthroughSummary:
        """An unstreamed answer. Raises UpstreamError."""
        ...


class StreamCodec(Codec, Protocol):
    """The codec of an endpoint that also streams."""

    def as_stream(self, body: bytes) -> bytes:
        """An unstreamed answer as the events of a stream. Raises UpstreamError."""
        ...

    def decoder(self, request: Mapping[str, Any]) -> PassthroughDecoder: ...


@dataclass(frozen=True, slots=True)
class PassthroughEndpoint:
    """One endpoint. A channel serves it when its format posts there, or when its row says so."""

    path: str
    """Below `/v1` for clients, and below `base_url` for channels."""
    refusal: str
    """The error code for a model that no channel serves here."""
    in_row: Callable[[Channel], bool]
    """Whether a row says that its channel serves this endpoint besides those of its format."""
    id_prefix: str
    """Of the ids under which its requests are recorded."""


PASSTHROUGH: Mapping[str, PassthroughEndpoint] = {
    endpoint.path: endpoint
    for endpoint in (
        PassthroughEndpoint("/chat/completions", "chat_completions_not_supported", lambda row: row.chat, "chatcmpl"),
    )
}
