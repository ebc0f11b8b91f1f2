"""The channels and the queue, by what the relay needs of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Protocol

from app.contract.channel import Channel, Compaction
from app.errors import UpstreamError
from app.formats import Format
from app.relay.request_watch import Watch


class Queue(Protocol):
    """Carries ids of responses that wait to whoever makes them; one that is lost rings again."""

    def add_in_transaction(self, response_id: str) -> None:
        """Called in the transaction that makes it wait, for a queue that lies in the same database."""
        ...

    def add_after_commit(self, response_id: str) -> None:
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


#: The error that a status, headers and body stand for.
DecodeError = Callable[[int, Mapping[str, str], bytes], UpstreamError]


class SelectedChannel(Protocol):
    """A channel chosen for one try; entered while it is at work."""

    model: str
    format: Format

    @property
    def channel(self) -> Channel: ...

    def __enter__(self) -> SelectedChannel: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def post(
        self, path: str, body: bytes, *, accept: str, watch: Watch | None, decode_error: DecodeError | None = None
    ) -> Exchange:
        """An answer with status 200. Raises UpstreamError for any other, by `decode_error` or the format's own."""
        ...

    def accepted(self) -> None: ...
    def succeeded(self) -> None: ...
    def note_path(self, path: str) -> None: ...
    def failed(self, error: UpstreamError) -> None: ...


#: How much of a turn a channel would leave out.
CountLosses = Callable[[Channel, Format], int]


#: Waits for so many seconds, or raises why there is nothing to wait for any more.
Wait = Callable[[float], None]


class Channels(Protocol):
    @property
    def compaction(self) -> Compaction: ...

    def select(
        self,
        model: str,
        preferred_channel: str | None = None,
        count_losses: CountLosses | None = None,
        *,
        owner: str = "",
        wait: Wait | None = None,
    ) -> Iterator[SelectedChannel]: ...

    def select_for_passthrough(
        self, path: str, model: str, *, owner: str = "", wait: Wait | None = None
    ) -> Iterator[SelectedChannel]: ...
