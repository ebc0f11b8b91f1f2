"""What operators have ordered of channels: to take one out of service, for a while or until it is resumed, or to end
its cooldown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

PAUSED, DRAINING = "paused", "draining"

#: Seconds that a pause lasts when its operator says nothing else, and at most.
USUAL, LONGEST = 600, 7 * 86_400
#: Seconds after which a client may ask again for a model whose channels are all out of service without an end.
RETRY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Pause:
    """Times are unix seconds on the database's clock."""

    channel: str
    since: int
    until: int | None = None
    """None for a channel that is drained: it stays out of service until it is resumed."""
    by: str = ""
    """The operator, as a name."""
    reason: str = ""
    left: float | None = None
    """Seconds until its end, when it was read; None without an end."""

    @property
    def state(self) -> str:
        return DRAINING if self.until is None else PAUSED

    def __str__(self) -> str:
        """What a client may read: neither the operator nor the reason."""
        return self.state if self.until is None else f"{self.state} until {_clock(self.until)} UTC"

    def described(self) -> str:
        """For operators: `paused until 14:08 UTC by alpha: the machine gets a new disk`."""
        since = "" if self.until is not None else f" since {_clock(self.since)} UTC"
        return f"{self}{since}" + (f" by {self.by}" if self.by else "") + (f": {self.reason}" if self.reason else "")

    def wire(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "since": self.since,
            "until": self.until,
            "by": self.by or None,
            "reason": self.reason or None,
        }


class Orders(NamedTuple):
    pauses: Sequence[Pause] = ()
    """Those that have not ended."""
    cooldowns_ended: Mapping[str, int] = MappingProxyType({})
    """When an operator ended the cooldown of a channel, in unix seconds on the database's clock, if that was a moment
    ago."""


def _clock(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
