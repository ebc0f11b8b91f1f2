"""The state of a process at one moment, which becomes the values of its gauges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.contract.records import ChannelStatus


@dataclass(frozen=True, slots=True)
class Sample:
    """Sizes in bytes, durations in seconds."""

    kind: str
    """`web` or `background`."""
    in_flight: int
    websockets: int
    waiting: int
    """Requests that wait for a slot of a channel."""
    channels: Sequence[ChannelStatus]
    table_rejected: bool
    writer_waiting: int
    rows_dropped: int
    """Since the process began."""
    pump_lag: float
    disk_free: int | None
    """None where the database is a server's."""


class Sampled(Protocol):
    """A process whose state can be read."""

    def sample(self) -> Sample: ...

    def serves(self, model: str) -> bool:
        """Whether the channel table knows this name of a model."""
        ...

    def has_tool_server(self, label: str) -> bool:
        """Whether the channel table has a tool server with this label."""
        ...

    def token_names(self) -> Mapping[int, str]:
        """The names of all tokens by their keys. Raises StoreUnavailable."""
        ...

    def queued(self) -> int:
        """Background responses that wait. Raises StoreUnavailable."""
        ...
