"""How channels compact a history themselves, and which of the ways an upstream turned out to lack."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from time import monotonic

from app.contract.channel import Channel

#: The upstream's own endpoint, and an item at the end of the input that asks for a compaction.
NATIVE, TRIGGER = "native", "trigger"

#: What to try, by the row's `compact`.
_WAYS = {NATIVE: (NATIVE, TRIGGER), TRIGGER: (TRIGGER,)}
#: Seconds for which a missing way is remembered.
_REMEMBERED = 86_400.0


class NativeWays:
    """One a process."""

    def __init__(self) -> None:
        self._missing: dict[tuple[str, str | None, str], float] = {}
        self._lock = threading.Lock()

    def of(self, channel: Channel) -> Sequence[str]:
        """The ways to try on a channel, the row's own first; none for a channel that does not compact."""
        return [way for way in _WAYS.get(channel.compact or "", ()) if not self._is_missing(channel, way)]

    def _is_missing(self, channel: Channel, way: str) -> bool:
        noted = self._missing.get((channel.name, channel.base_url, way))
        return noted is not None and monotonic() - noted < _REMEMBERED

    def lacks(self, channel: Channel, way: str) -> None:
        with self._lock:
            self._missing[channel.name, channel.base_url, way] = monotonic()
