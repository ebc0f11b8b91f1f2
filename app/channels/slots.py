"""The slots of channels with a `max_concurrency`, shared by all processes of one machine.

A slot is a name in the kernel: an abstract Unix socket that one process can bind. The kernel frees the name when the
socket is closed and when its process dies, however it dies. Nothing is left on a disk, and no directory is shared. The
names are derived from the gateway's secret key: another user of the machine cannot guess and occupy a free one, and two
gateways on one machine do not share their slots.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import logging
import socket
import sys
from random import randrange
from typing import Protocol

from app.contract.channel import Channel

log = logging.getLogger(__name__)

#: Bytes of the name that tell channels and gateways apart.
_DIGEST_BYTES = 16
#: Abstract names exist on Linux only. Elsewhere the limit holds within each process.
_HAS_NAMES = sys.platform == "linux"


class Slot(Protocol):
    """A place in a channel. It is free again after `close`."""

    def close(self) -> object: ...


class _Unlimited:
    """The slot of a channel without a limit."""

    def close(self) -> None:
        pass


UNLIMITED: Slot = _Unlimited()


class Slots:
    """The slots that this process takes."""

    def __init__(self, key: bytes) -> None:
        """`key`: the same in all processes of a gateway, and secret."""
        self._key = key
        self._warned = False

    def take(self, channel: Channel) -> Slot | None:
        """A free slot of the channel; None when all are taken."""
        limit = channel.max_concurrency
        if limit is None or not _HAS_NAMES:
            return UNLIMITED
        prefix = self._prefix(channel.name)
        # Processes that begin at different slots seldom meet.
        first = randrange(limit)  # noqa: S311 - no secret
        for place in range(first, first + limit):
            if (slot := self._bound(f"\0{prefix}/{place % limit}")) is not None:
                return slot
        return None

    def _prefix(self, channel: str) -> str:
        digest = hmac.new(self._key, channel.encode(), hashlib.sha256).digest()
        return f"antiphon/{digest[:_DIGEST_BYTES].hex()}"

    def _bound(self, name: str) -> Slot | None:
        """The socket of this name; None when another one has it."""
        try:
            slot = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError as error:
            return self._without(error)
        try:
            slot.bind(name)
        except OSError as error:
            slot.close()
            return None if error.errno == errno.EADDRINUSE else self._without(error)
        return slot

    def _without(self, error: OSError) -> Slot:
        """For a sandbox that forbids such sockets: requests must not fail for it, and one line says so."""
        if not self._warned:
            self._warned = True
            log.warning("cannot take a slot (%s): max_concurrency holds within this process only", error.strerror)
        return UNLIMITED
