"""Identifiers: unguessable where they name something of ours, derived where they name a stored input item."""

from __future__ import annotations

import os
import re
import time

MAX_CALL_ID = 64

# Upstreams look at the prefix of an item's id when it is sent back to them.
ITEM_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
    "compaction": "cmp",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "web_search_call": "ws",
    "file_search_call": "fs",
    "code_interpreter_call": "ci",
    "image_generation_call": "ig",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
}

_RESPONSE_ID = re.compile(r"resp_[0-9a-f]{48}\Z")
_DERIVED_ITEM_ID = re.compile(r"[a-z]+_([0-9a-f]{48})([0-9a-f]{4,6})\Z")


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


def new_item(item_type: str) -> str:
    return new(ITEM_PREFIXES.get(item_type, "item"))


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


def is_response_id(value: str) -> bool:
    return _RESPONSE_ID.match(value) is not None


def derive_item(item_type: str, response_id: str, position: int) -> str:
    """The id of an input item that came without one. It names its place, so no table has to remember it."""
    prefix = ITEM_PREFIXES.get(item_type, "item")
    return f"{prefix}_{response_id.removeprefix('resp_')}{position:04x}"


def parse_derived_item(item_id: str) -> tuple[str, int] | None:
    """The response and the position within its input that `derive_item` put into an id."""
    match = _DERIVED_ITEM_ID.match(item_id)
    return (f"resp_{match[1]}", int(match[2], 16)) if match else None
