"""Unguessable identifiers. Those of items have a prefix by their type: see `app.contract.items`."""

from __future__ import annotations

import os
import re
import time

MAX_CALL_ID = 64

#: Random bytes that one system call fetches. Each call releases the interpreter's lock, which under load costs more
#: than the rest of an id.
_FETCHED = 4096
_random: list[bytes] = []
os.register_at_fork(after_in_child=_random.clear)


def new(prefix: str) -> str:
    """`prefix_` and 48 hex digits: the time in seconds, as in OpenAI's ids, then 160 random bits.

    The time is no secret: clients see `created_at`. Fully random ids would dirty one index page each; ids in the order
    of time share the last pages.
    """
    return f"{prefix}_{int(time.time()):08x}{_secret().hex()}"


def new_request_id() -> str:
    return f"req_{_secret().hex()[:32]}"


# Without spaces: MySQL does not compare those at the end.
_RESPONSE_ID = re.compile(r"[0-9A-Za-z_-]{1,64}\Z")


def known_id(value: str) -> bool:
    """Whether the text can be the id of a response. If not, no query is needed."""
    return _RESPONSE_ID.match(value) is not None


def is_response(value: str) -> bool:
    """Whether it is the id of a response, not that of a request relayed without translation."""
    return value.startswith("resp_")


def _secret() -> bytes:
    """20 random bytes, used once: `pop` of a list is atomic."""
    while True:
        try:
            return _random.pop()
        except IndexError:
            fetched = os.urandom(_FETCHED)
            _random.extend(fetched[at : at + 20] for at in range(0, _FETCHED - 19, 20))
