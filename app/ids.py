"""Unguessable identifiers. Those of items have a prefix by their type: see `app.contract.items`."""

from __future__ import annotations

import os
import time

MAX_CALL_ID = 64

#: Bytes of the system's randomness that are fetched at a time: each fetch lets go of the interpreter's lock, and under
#: load that costs more than all the rest of an id.
_FETCHED = 4096
_random: list[bytes] = []
os.register_at_fork(after_in_child=_random.clear)


def new(prefix: str) -> str:
    """`prefix_` and 48 hex digits: the second, as in OpenAI's own, then 160 random bits.

    Whoever is told of a response is told its time as well. Ids that lie anywhere dirty a page of their own in each
    index; in the order of time all that is written together shares the last ones.
    """
    return f"{prefix}_{int(time.time()):08x}{_secret().hex()}"


def new_request_id() -> str:
    return f"req_{_secret().hex()[:32]}"


def _secret() -> bytes:
    """20 bytes that nobody else is given: taking one off a list is atomic."""
    while True:
        try:
            return _random.pop()
        except IndexError:
            fetched = os.urandom(_FETCHED)
            _random.extend(fetched[at : at + 20] for at in range(0, _FETCHED - 19, 20))
