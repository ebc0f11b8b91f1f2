"""The items of a turn's context, and a shorter context where they are too many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from app.contract.items import INSTRUCTION_ROLES, Item, is_client_side
from app.contract.records import Chain, Link
from app.contract.replay import replayed
from app.contract.turn import Turn

#: Arrays that are searched together, and the bytes of one from which on it is searched alone.
_AT_ONCE, _SMALL = 64, 16 * 1024


def items(turn: Turn, family: str | None = None) -> list[Item]:
    """The items of the chain, oldest first, then the turn's input; without the secrets of other channel families."""
    whole: list[Item] = []
    for link, array in _stored(turn):
        stored = orjson.loads(array)
        shown = replayed(stored, link.status) if array is link.output else stored
        whole += map(without_secret, shown) if link.opaque and link.family != family else shown
    return [*whole, *turn.input]


def arrays(turn: Turn) -> Iterator[bytes]:
    """The stored part of the context, as JSON arrays."""
    return (array for _, array in _stored(turn))


def _stored(turn: Turn) -> Iterator[tuple[Link, bytes]]:
    for position, link in enumerate(turn.chain.links):
        if not (turn.chain.compacted and position == 0):
            yield link, link.input
        yield link, link.output


def any_marked(is_marked: Callable[[bytes], bool], arrays: Sequence[bytes]) -> bool:
    """Whether one of the arrays is marked."""
    return any(map(is_marked, batches(arrays)))


def batches(arrays: Sequence[bytes]) -> Iterator[bytes]:
    """The arrays for a search. Most histories have many small arrays: a search of several together costs less than one
    of each."""
    small = [array for array in arrays if len(array) <= _SMALL]
    if len(small) < len(arrays):
        yield from (array for array in arrays if len(array) > _SMALL)
    yield from (b"".join(small[at : at + _AT_ONCE]) for at in range(0, len(small), _AT_ONCE))


def without_secret(item: Item) -> Item:
    """The item without `encrypted_content`, which only the family that made it can read."""
    if item.get("type") != "reasoning" or "encrypted_content" not in item:
        return item
    return {name: value for name, value in item.items() if name != "encrypted_content"}


def wants_truncation(request: Mapping[str, Any]) -> bool:
    """Whether a context that is too long may be shortened."""
    truncation = request.get("truncation")
    return (truncation.get("type") if isinstance(truncation, Mapping) else truncation) == "auto"


def shortened(turn: Turn) -> Turn | None:
    """The turn with about half of its context; None if nothing can be left out.

    The oldest items go first. A user message and its answer stay or go together; instructions and the newest part stay.
    """
    blocks = _blocks(items(turn))
    sizes = [len(orjson.dumps(block)) for block in blocks]
    first, left = 0, sum(sizes)
    while first < len(blocks) - 1 and left * 2 > sum(sizes):
        left -= sizes[first]
        first += 1
    if first == 0:
        return None
    instructions = [item for block in blocks[:first] for item in block if item.get("role") in INSTRUCTION_ROLES]
    remaining = [item for block in blocks[first:] for item in block]
    return replace(turn, chain=Chain(), input=[*instructions, *_in_pairs(remaining)])


def _blocks(whole: Sequence[Item]) -> list[list[Item]]:
    """The items in blocks. A block begins with a user message that follows an item of another kind."""
    blocks: list[list[Item]] = []
    from_user = False
    for item in whole:
        by_user = item.get("role") == "user"
        if not blocks or (by_user and not from_user):
            blocks.append([])
        blocks[-1].append(item)
        from_user = by_user
    return blocks


def _in_pairs(remaining: Sequence[Item]) -> Iterable[Item]:
    """The items without outputs whose calls were left out: a message between the two may have separated them."""
    called = set()
    for item in remaining:
        call_id = item.get("call_id")
        if is_client_side(item) and call_id is not None and call_id not in called:
            continue
        called.add(call_id)
        yield item
