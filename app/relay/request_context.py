"""The context of one request: its client, its limits, and the headers that its answer gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

from app.contract.records import Draft, Outcome
from app.contract.turn import Turn
from app.memory import Share
from app.relay.streaming.client_connection import ClientConnection


class ResponseFacts:
    """The facts about one response for the access log. Recorders set them; the web layer writes the log."""

    __slots__ = ("draft", "outcome")

    def __init__(self) -> None:
        self.draft: Draft | None = None
        self.outcome: Outcome | None = None

    def record(self, draft: Draft, outcome: Outcome) -> None:
        self.draft, self.outcome = draft, outcome


#: Longest value of a header that lists changes.
_MAX_HEADER = 1024
#: Request size in bytes from which on memory is counted.
_COUNTED = 16 * 1024


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The client of one request. `client_fd` is the descriptor of its connection, if it can be polled."""

    facts: ResponseFacts = field(default_factory=ResponseFacts, kw_only=True)
    """For the access log."""
    request_id: str
    client_fd: int | None = None
    connection: ClientConnection | None = None
    """The client's connection, if it can be written to directly."""
    idempotency_key: str | None = None
    """The Idempotency-Key header, if it was sent."""
    client: str = ""
    """The program that sent the request, as `client_names` knows it."""
    thread_headers: Mapping[str, str] = field(default_factory=dict)
    """The headers that name the client's session and thread, by lower-case name."""
    send_early: Callable[[bytes], None] | None = None
    """Sends whole events of a stream before the stream itself is returned, after the HTTP header. Raises ClientGone."""
    share: Share | None = None
    """The request's part of the memory for large bodies, if that is counted. Its opener closes it."""
    size: int = 0
    """Size of the request's body in bytes."""
    received_at: float = field(default_factory=monotonic)
    """When the request was read."""
    response_headers: dict[str, str] = field(default_factory=dict)
    """Extra headers of the answer, set while it is made."""

    def hold(self, turn: Turn) -> None:
        """Counts the memory of the turn: the history, the bodies sent upstream, and the row. Raises PayloadTooLarge and
        Overloaded."""
        history = sum(len(link.input) + len(link.output) for link in turn.chain.links)
        self.hold_bytes(2 * history + self.size * (2 if turn.store else 1))

    def hold_bytes(self, size: int) -> None:
        """Counts this many bytes more. Raises as `hold` does."""
        if self.share is not None and size >= _COUNTED:
            self.share.grow(size)

    def note_dropped_tools(self, tools: Sequence[str]) -> None:
        if tools:
            self.response_headers["X-Antiphon-Dropped-Tools"] = ", ".join(tools)

    def note_adapted(self, changes: Sequence[str]) -> None:
        """Names what the upstream did not get as the client sent it. A header takes printable ASCII only."""
        if changes:
            text = ", ".join(changes).encode("ascii", "replace").decode()[:_MAX_HEADER]
            self.response_headers["X-Antiphon-Adapted"] = "".join(char if char.isprintable() else "?" for char in text)

    def note_estimated(self, field: str) -> None:
        self.response_headers["X-Antiphon-Estimated"] = field

    def note_replayed(self) -> None:
        self.response_headers["Idempotent-Replayed"] = "true"
