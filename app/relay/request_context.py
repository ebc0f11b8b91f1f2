"""Who waits for an answer, and what they are told beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

from app.contract.records import Draft, Outcome
from app.contract.turn import Turn
from app.memory import Share
from app.relay.streaming.client_connection import ClientConnection


class ResponseFacts:
    """What the log will say of one request. Whoever writes a response down tells it, the border writes it."""

    __slots__ = ("draft", "outcome")

    def __init__(self) -> None:
        self.draft: Draft | None = None
        self.outcome: Outcome | None = None

    def record(self, draft: Draft, outcome: Outcome) -> None:
        self.draft, self.outcome = draft, outcome


#: Bytes from which on it is worth counting what is made of a request.
_COUNTED = 16 * 1024


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Who waits for an answer. `client_fd` is the descriptor of their connection, where there is one to watch."""

    facts: ResponseFacts = field(default_factory=ResponseFacts, kw_only=True)
    """What the request log will say."""
    request_id: str
    client_fd: int | None = None
    connection: ClientConnection | None = None
    """The same, where it may be written to beside the server."""
    idempotency_key: str | None = None
    """The Idempotency-Key, where there is one."""
    session_key: str | None = None
    """What their headers call the conversation."""
    send_early: Callable[[bytes], None] | None = None
    """Sends whole events of a stream before the stream itself is handed over, behind the header that they need. Raises
    ClientGone."""
    share: Share | None = None
    """What the request has of the memory for large bodies, where that is counted; closed by whoever opened it."""
    size: int = 0
    """Bytes of the request's body."""
    received_at: float = field(default_factory=monotonic)
    """When the request was read."""
    response_headers: dict[str, str] = field(default_factory=dict)
    """What they are told beside the answer, as headers; filled in while it is made."""

    def hold(self, turn: Turn) -> None:
        """Counts what the turn takes beside the request's own value: the history, what is sent, and what is stored.
        Raises PayloadTooLarge and Overloaded."""
        history = sum(len(link.input) + len(link.output) for link in turn.chain.links)
        self.hold_bytes(2 * history + self.size * (2 if turn.store else 1))

    def hold_bytes(self, size: int) -> None:
        """Counts so many more. Raises as `hold` does."""
        if self.share is not None and size >= _COUNTED:
            self.share.grow(size)

    def note_dropped_tools(self, tools: Sequence[str]) -> None:
        if tools:
            self.response_headers["X-Antiphon-Dropped-Tools"] = ", ".join(tools)

    def note_estimated(self, field: str) -> None:
        self.response_headers["X-Antiphon-Estimated"] = field

    def note_replayed(self) -> None:
        self.response_headers["Idempotent-Replayed"] = "true"
