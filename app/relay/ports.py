"""What the relay is handed: a store and the channels, by what it needs of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

from app.errors import UpstreamError
from app.formats import Format
from app.records import (
    Batch,
    Chain,
    Claim,
    Claimed,
    Conversation,
    ConversationTurn,
    Draft,
    Job,
    Outcome,
    Page,
    Stored,
    Trace,
)
from app.relay.watch import Watch
from app.turn import Item, Row


class Conversations(Protocol):
    """Every function takes the owner first. None and False say that it is not there."""

    def create(self, owner: str, conversation: Conversation, first: ConversationTurn) -> None: ...

    def read(self, owner: str, conversation_id: str) -> Conversation | None: ...

    def update(self, owner: str, conversation_id: str, metadata: Mapping[str, str]) -> bool: ...

    def delete(self, owner: str, conversation_id: str) -> bool: ...

    def add(self, owner: str, conversation_id: str, turn: ConversationTurn) -> list[Item] | None: ...

    def item(self, owner: str, conversation_id: str, item_id: str) -> Item | None: ...

    def items(
        self, owner: str, conversation_id: str, *, order: str, after: str | None, limit: int
    ) -> list[Item] | None: ...

    def delete_item(self, owner: str, conversation_id: str, item_id: str) -> bool: ...

    def chain(self, owner: str, conversation_id: str, until: int = ...) -> Chain: ...

    def full_chain(self, owner: str, conversation_id: str, until: int = ...) -> Chain: ...


class Store(Protocol):
    """Every function that touches an owner's data takes the owner first."""

    @property
    def conversations(self) -> Conversations: ...

    def begin(self, draft: Draft) -> None:
        """Writes the row of a response that is about to be announced; returns after its commit."""
        ...

    def finish(self, draft: Draft, outcome: Outcome) -> bool:
        """Writes how it ended; returns after the commit. False when it was cancelled meanwhile."""
        ...

    def finish_later(self, draft: Draft, outcome: Outcome) -> None:
        """Writes how it ended when the store is back, if it is still in progress then; returns at once."""
        ...

    def note(self, draft: Draft, outcome: Outcome) -> None:
        """Writes the metadata of a response that is not kept, some time later, and nothing that was said in it."""
        ...

    def trace(self, owner: str, trace: Trace) -> None:
        """Finds and writes the parent of a response that named none, some time later."""
        ...

    def chain(self, owner: str, response_id: str) -> Chain: ...

    def full_chain(self, owner: str, response_id: str) -> Chain: ...

    def response(self, owner: str, response_id: str) -> Stored | None: ...

    def delete(self, owner: str, response_id: str) -> bool: ...

    def claim_key(self, token: int, claim: Claim, response_id: str) -> Claimed | None:
        """None when the key is the response's from now on, else the response that has it already."""
        ...

    def release_key(self, token: int, claim: Claim, response_id: str) -> None: ...

    def items(self, owner: str, ids: Sequence[str]) -> Mapping[str, Mapping[str, Any]]: ...


class JobStore(Store, Protocol):
    """What background responses need besides."""

    def enqueue(self, draft: Draft, request: bytes, told: Batch, enlist: Callable[[str], object]) -> None:
        """Writes a row that waits, with what it needs to be run; `enlist` is called in the same transaction."""
        ...

    def claim(self, response_id: str) -> Job | None:
        """One that waited is this worker's; None for everything else."""
        ...

    def give_back(self, response_id: str, enlist: Callable[[str], object]) -> bool:
        """One that this worker has claimed waits again. False for everything else."""
        ...

    def running(self) -> set[str]:
        """Ids of this worker's responses that are still in progress."""
        ...

    def unheard(self, enlist: Callable[[str], object]) -> list[str]:
        """Ids of those that have waited for long, which are in the queue once more."""
        ...

    def keep_events(self, response_id: str, batch: Batch) -> bool:
        """False when the response is not this worker's any more."""
        ...

    def events(self, owner: str, response_id: str, after: int) -> Page | None: ...

    def expire_events(self, age: int) -> int: ...

    def cancel(self, owner: str, response_id: str) -> bool: ...


class Queue(Protocol):
    """Carries ids of responses that wait to whoever makes them; one that is lost rings again."""

    def enlist(self, response_id: str) -> None:
        """Called in the transaction that makes it wait, for a queue that lies in the same database."""
        ...

    def ring(self, response_id: str) -> None:
        """Called once that is committed, for every other queue."""
        ...


class Exchange(Protocol):
    """An answer whose body is still to be read; see `app.channels.upstream`."""

    status: int
    headers: Mapping[str, str]

    @property
    def descriptor(self) -> int | None: ...
    def read(self) -> bytes: ...
    def fileno(self) -> int | None: ...
    def receive(self) -> bytes | None: ...
    def close(self) -> None: ...


class Limits(Protocol):
    """Seconds."""

    @property
    def idle(self) -> float: ...
    @property
    def total(self) -> float: ...


class ChannelRow(Row, Protocol):
    @property
    def name(self) -> str: ...
    @property
    def timeouts(self) -> Limits: ...
    @property
    def count_tokens(self) -> bool: ...


class Choice(Protocol):
    """A channel chosen for one try; entered while it is at work."""

    model: str
    format: Format

    @property
    def channel(self) -> ChannelRow: ...

    def __enter__(self) -> Choice: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def post(self, path: str, body: bytes, *, accept: str, watch: Watch | None) -> Exchange: ...
    def accepted(self) -> None: ...
    def succeeded(self) -> None: ...
    def took(self, path: str) -> None: ...
    def failed(self, error: UpstreamError) -> None: ...


#: How much of a turn a channel would leave out.
Loss = Callable[[ChannelRow, Format], int]


#: Waits for so many seconds, or raises why there is nothing to wait for any more.
Wait = Callable[[float], None]


class CompactionRow(Protocol):
    """The table's defaults for compaction."""

    @property
    def model(self) -> str | None: ...
    @property
    def strategy(self) -> str: ...
    @property
    def timeout(self) -> float: ...


class Channels(Protocol):
    @property
    def compaction(self) -> CompactionRow: ...

    def choices(
        self,
        model: str,
        prefer: str | None = None,
        loss: Loss | None = None,
        *,
        owner: str = "",
        wait: Wait | None = None,
    ) -> Iterator[Choice]: ...

    def chat_choices(self, model: str, *, owner: str = "", wait: Wait | None = None) -> Iterator[Choice]: ...
