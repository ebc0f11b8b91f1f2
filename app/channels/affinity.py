"""Which conversation a request belongs to. Its turns stay on one channel, where the provider has its prefix in a cache
and can read its encrypted reasoning.

Rendezvous hashing decides among equal channels: every worker and host takes the same one without asking another, new
conversations spread by weight, and a channel that goes moves its own conversations only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from mmap import mmap
from typing import Any

import orjson

from app.contract.channel import Channel

_DIGEST = 8
#: A conversation and a channel. Half of one that another process is writing names a channel that is none, or sends one
#: turn to another channel that is as good.
_ENTRY = 2 * _DIGEST
#: Places for conversations that have moved.
_REMEMBERED = 8192
SIZE = _REMEMBERED * _ENTRY
#: The memory of all processes that are forked from the one which has imported this module: of all workers of a gateway.
SHARED = mmap(-1, SIZE)


@dataclass(frozen=True, slots=True)
class Affinity:
    """The conversation of one request of one owner, and the channels that it may go to."""

    owner: str = ""
    channel: str | None = None
    """The channel of the parent response. It comes first among equals."""
    session: str | None = None
    """The conversation's name: a key of the client's or the id of its root."""
    beginning: Callable[[], Sequence[Any]] = field(default=tuple, repr=False)
    """Reads the first instructions and input, for a request without a name. Only several channels need it."""
    tags: Sequence[str] | None = ()
    """Only channels with one of these tags; empty means every channel, None what the table says for all tokens."""

    def digest(self) -> bytes:
        """The same for all turns of the conversation."""
        name = self.session.encode() if self.session else orjson.dumps(self.beginning(), default=str)
        return blake2b(self.owner.encode() + b"\0" + name, digest_size=_DIGEST).digest()


def first_user_item(items: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return next((item for item in items if item.get("role") == "user"), None)


def rank(conversation: bytes, channel: Channel) -> float:
    """Sorts channels for a conversation, the highest first; each is first in a share proportional to its weight."""
    number = blake2b(channel.name.encode(), digest_size=8, key=conversation).digest()
    share = (int.from_bytes(number) + 1) / (2**64 + 1)
    return channel.weight / -math.log(share)


class RecentChannels:
    """The channels that conversations have moved to, for example after a failover. A place in the memory belongs to the
    newest of the conversations that share it."""

    def __init__(self, memory: mmap | None = None) -> None:
        """`memory`: the one that processes share, of `SIZE` bytes; None for a memory of this object's own."""
        self._memory = mmap(-1, SIZE) if memory is None else memory

    def get(self, conversation: bytes, channels: Iterable[str]) -> str | None:
        """The one of these channels that the conversation has moved to; None if it has not moved."""
        place = _place(conversation)
        entry = self._memory[place]
        if not entry.startswith(conversation):
            return None
        return next((name for name in channels if entry == _entry(conversation, name)), None)

    def put(self, conversation: bytes, channel: str) -> None:
        self._memory[_place(conversation)] = _entry(conversation, channel)

    def drop(self, conversation: bytes) -> None:
        place = _place(conversation)
        if self._memory[place].startswith(conversation):
            self._memory[place] = bytes(_ENTRY)


def _place(conversation: bytes) -> slice:
    start = int.from_bytes(conversation) % _REMEMBERED * _ENTRY
    return slice(start, start + _ENTRY)


def _entry(conversation: bytes, channel: str) -> bytes:
    return conversation + blake2b(channel.encode(), digest_size=_DIGEST).digest()
