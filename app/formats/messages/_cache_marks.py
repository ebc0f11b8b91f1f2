"""Marks the prompt for the upstream's cache: as the client marked it, else by itself. Anthropic caches nothing without.

The API takes four marks, and none of a longer lifetime behind one of a shorter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.formats._caching import BREAKPOINT, CONTROL, MARKS, options

Block = dict[str, Any]

_MOST = 4
#: As many marks of the tools and the system prompt stay where the messages have marks as well.
_MOST_BEFORE = 2
#: Newest user messages that get a mark: the last one, and the last one of the previous request.
_PROMPTS = 2
#: The lifetime for a client that names one: OpenAI's shortest is half an hour, and the other one here five minutes.
_LONG = "1h"


def write_marks(body: Block, request: Mapping[str, Any]) -> None:
    """Writes the client's marks in the API's terms, or the gateway's own where the client leaves the cache to it."""
    given, whole = options(request), request.get(CONTROL)
    before = [*filter(_is_marked, body.get("tools", ())), *filter(_is_marked, body.get("system", ()))]
    within = [block for message in body["messages"] for block in message["content"] if _is_marked(block)]
    for block in (*before, *within):
        breakpoint_ = block.pop(BREAKPOINT, {})
        block.setdefault(CONTROL, _control(breakpoint_.get("ttl") or given.get("ttl")))
    if isinstance(whole, Mapping):
        # The API itself marks the newest block then.
        body[CONTROL] = whole
        _limit(before, within, body)
    elif before or within:
        _limit(before, within)
    elif given.get("mode") != "explicit" and (len(body["messages"]) > 1 or "tools" in body):
        # A single question is likely to have no successor.
        for block in _by_itself(body):
            block[CONTROL] = _control(given.get("ttl"))


def _is_marked(block: Mapping[str, Any]) -> bool:
    return any(name in block for name in MARKS)


def _control(lifetime: object) -> Block:
    return {"type": "ephemeral", **({"ttl": _LONG} if lifetime else {})}


def _by_itself(body: Block) -> Iterator[Block]:
    """The last of the tools, and the last block of the system prompt and of the newest user messages. The mark at the
    tools finds them for other instructions, and where there are none."""
    yield from (body[member][-1] for member in ("tools", "system") if member in body)
    users = [message for message in body["messages"] if message["role"] == "user"]
    for message in users[-_PROMPTS:]:
        yield message["content"][-1]


def _limit(before: Sequence[Block], within: Sequence[Block], *last: Block) -> None:
    """Removes marks that the API would refuse: the oldest of too many, and shorter ones before a longer one. `last`
    holds the mark behind all others."""
    most = _MOST - len(last)
    newest = within[-(most - min(_MOST_BEFORE, len(before))) :]
    remaining = [*before[max(0, len(before) + len(newest) - most) :], *newest, *last]
    longest = max((at for at, block in enumerate(remaining) if _is_long(block)), default=0)
    left = {id(block) for at, block in enumerate(remaining) if at >= longest or _is_long(block)}
    for block in (*before, *within):
        if id(block) not in left:
            del block[CONTROL]


def _is_long(block: Block) -> bool:
    return bool(block[CONTROL].get("ttl") == _LONG)
