"""Who waits for an answer, and what they are told beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

from app.contract.records import Draft, Outcome
from app.contract.turn import Turn
from app.memory import Share
from app.relay.streaming.client_connection import Client


class Entry:
    """What the log will say of one request. Whoever writes a response down tells it, the border writes it."""

    __slots__ = ("draft", "outcome")

    def __init__(self) -> None:
        self.draft: Draft | None = None
        self.outcome: Outcome | None = None

    def tell(self, draft: Draft, outcome: Outcome) -> None:
        self.draft, self.outcome = draft, outcome


#: Bytes from which on it is worth counting what is made of a request.
_COUNTED = 16 * 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """Who waits for an answer. `client` is the descriptor of their connection, where there is one to watch."""

    entry: Entry = field(default_factory=Entry, kw_only=True)
    """What the request log will say."""
    request_id: str
    client: int | None = None
    connection: Client | None = None
    """The same, where it may be written to beside the server."""
    key: str | None = None
    """The Idempotency-Key, where there is one."""
    session: str | None = None
    """What their headers call the conversation."""
    say: Callable[[bytes], None] | None = None
    """Sends whole events of a stream before the stream itself is handed over, behind the header that they need. Raises
    ClientGone."""
    share: Share | None = None
    """What the request has of the memory for large bodies, where that is counted; closed by whoever opened it."""
    size: int = 0
    """Bytes of the request's body."""
    came: float = field(default_factory=monotonic)
    """When the request was read."""
    told: dict[str, str] = field(default_factory=dict)
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

    def tell_dropped(self, tools: Sequence[str]) -> None:
        if tools:
            self.told["X-Antiphon-Dropped-Tools"] = ", ".join(tools)

    def tell_estimated(self, field: str) -> None:
        self.told["X-Antiphon-Estimated"] = field

    def tell_replayed(self) -> None:
        self.told["Idempotent-Replayed"] = "true"
