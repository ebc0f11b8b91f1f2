"""What the relay is handed: a store and the channels, by what it needs of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

from app.errors import UpstreamError
from app.formats import Format
from app.records import Chain, Claim, Claimed, Draft, Outcome, Stored
from app.turn import Row


class Store(Protocol):
    """Every function that touches an owner's data takes the owner first."""

    def begin(self, draft: Draft) -> None:
        """Writes the row of a response that is about to be announced; returns after its commit."""
        ...

    def finish(self, draft: Draft, outcome: Outcome) -> bool:
        """Writes how it ended; returns after the commit. False when it was cancelled meanwhile."""
        ...

    def note(self, draft: Draft, outcome: Outcome) -> None:
        """Writes the metadata of a response that is not kept, some time later, and nothing that was said in it."""
        ...

    def chain(self, owner: str, response_id: str) -> Chain: ...

    def full_chain(self, owner: str, response_id: str) -> Chain: ...

    def response(self, owner: str, response_id: str) -> Stored | None: ...

    def delete(self, owner: str, response_id: str) -> bool: ...

    def claim(self, token: int, claim: Claim, response_id: str) -> Claimed | None:
        """None when the key is the response's from now on, else the response that has it already."""
        ...

    def release(self, token: int, claim: Claim, response_id: str) -> None: ...

    def items(self, owner: str, ids: Sequence[str]) -> Mapping[str, Mapping[str, Any]]: ...


class Exchange(Protocol):
    """An answer whose body is still to be read; see `app.channels.upstream`."""

    status: int
    headers: Mapping[str, str]

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
    def post(self, path: str, body: bytes, *, accept: str, client: int | None) -> Exchange: ...
    def succeeded(self) -> None: ...
    def failed(self, error: UpstreamError) -> None: ...


#: How much of a turn a channel would leave out.
Loss = Callable[[ChannelRow, Format], int]


class CompactionRow(Protocol):
    """The table's defaults for compaction."""

    @property
    def model(self) -> str | None: ...
    @property
    def strategy(self) -> str: ...


class Channels(Protocol):
    @property
    def compaction(self) -> CompactionRow: ...

    def choices(self, model: str, prefer: str | None = None, loss: Loss | None = None) -> Iterator[Choice]: ...

    def chat_choices(self, model: str) -> Iterator[Choice]: ...
