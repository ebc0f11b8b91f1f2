"""Items of one type in the context of a turn."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from app.contract.items import Item
from app.contract.turn import Turn


def context_items(turn: Turn, kind: str) -> Iterator[Item]:
    """The items of this type in the turn's history and its own input. Most stored arrays are ruled out unparsed."""
    needle = orjson.dumps(kind)
    for link in turn.chain.links:
        for array in (link.input, link.output):
            if needle in array:
                yield from (item for item in orjson.loads(array) if item.get("type") == kind)
    yield from (item for item in turn.input if item.get("type") == kind)
