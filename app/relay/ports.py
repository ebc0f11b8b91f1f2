"""The interfaces of the channels and the job queue that the relay uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Protocol

from app.contract.channel import Channel, Compaction
from app.errors import UpstreamError
from app.formats import Format
from app.relay.request_watch import Watch


class Queue(Protocol):
    """Carries ids of queued responses to the background workers. A lost id is queued again later."""

    def add_in_transaction(self, response_id: str) -> None:
        """Called inside the transaction that queues the response, for a queue in the same database."""
        ...

    def add_after_commit(self, response_id: str) -> None:
        """Called after that commit, for any other queue."""
        ...


class Exchange(Protocol):
    """An answer whose body has not been read yet; see `app.channels.upstream`."""

    status: int
    headers: Mapping[str, str]

    @property
    def descriptor(self) -> int | None: ...
    def read(self) -> bytes: ...
    def fileno(self) -> int | None: ...
    def receive(self) -> bytes | None: ...
    def close(self) -> None: ...


#: Makes the error for an answer's status, headers and body.
DecodeError = Callable[[int, Mapping[str, str], bytes], UpstreamError]


class SelectedChannel(Protocol):
    """A channel selected for one attempt. It is entered while the attempt runs."""

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
        """The answer with status 200. Raises UpstreamError for any other, decoded by `decode_error` or the format."""
        ...

    def accepted(self) -> None: ...
    def succeeded(self) -> None: ...
    def note_path(self, path: str) -> None: ...
    def failed(self, error: UpstreamError) -> None: ...


#: Counts the parts of a turn that a channel would drop.
CountLosses = Callable[[Channel, Format], int]


#: Waits for this many seconds, or raises the reason to stop waiting.
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
