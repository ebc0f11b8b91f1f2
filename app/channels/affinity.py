"""Which conversation a request belongs to. Its turns stay on one channel, where the provider has its prefix in a cache
and can read its encrypted reasoning.

Rendezvous hashing decides among equal channels: every worker and host takes the same one without asking another, new
conversations spread by weight, and a channel that goes moves its own conversations only.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import orjson

from app.contract.channel import Channel

#: Conversations that a worker remembers, each in some 200 bytes.
_REMEMBERED = 10_000
_DIGEST = 8


@dataclass(frozen=True, slots=True)
class Affinity:
    """The conversation of one request of one owner."""

    owner: str = ""
    channel: str | None = None
    """The channel of the parent response. It comes first among equals."""
    session: str | None = None
    """The conversation's name: a key of the client's or the id of its root."""
    beginning: Sequence[Any] = field(default=(), repr=False)
    """The first instructions and input, for a request without a name."""

    def digest(self) -> bytes:
        """The same for all turns of the conversation."""
        name = self.session.encode() if self.session else orjson.dumps(self.beginning, default=str)
        return blake2b(self.owner.encode() + b"\0" + name, digest_size=_DIGEST).digest()


def first_user_item(items: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return next((item for item in items if item.get("role") == "user"), None)


def rank(conversation: bytes, channel: Channel) -> float:
    """Sorts channels for a conversation, the highest first; each is first in a share proportional to its weight."""
    number = blake2b(channel.name.encode(), digest_size=8, key=conversation).digest()
    share = (int.from_bytes(number) + 1) / (2**64 + 1)
    return channel.weight / -math.log(share)


class RecentChannels:
    """The channels that conversations of this worker have moved to, for example after a failover."""

    def __init__(self) -> None:
        self._channels: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, conversation: bytes) -> str | None:
        return self._channels.get(conversation)

    def drop(self, conversation: bytes) -> None:
        if conversation in self._channels:
            with self._lock:
                self._channels.pop(conversation, None)

    def put(self, conversation: bytes, channel: str) -> None:
        with self._lock:
            self._channels[conversation] = channel
            self._channels.move_to_end(conversation)
            if len(self._channels) > _REMEMBERED:
                self._channels.popitem(last=False)
