"""What a turn asked and what its model did, in numbers and names of tools: enough to draw a row of a tree without any
content.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.contract.items import Item, called_tool, is_client_side, is_output

MOST = 8
"""Names of tools in one outline. The calls of further tools are counted under the last name."""
LONGEST = 64
"""Characters of a name."""
#: The name for calls of tools that are too many to name.
OTHERS = "…"


@dataclass(frozen=True, slots=True)
class Outline:
    """`asked`: the new input has a message of the user. `results`: outputs of tools in the new input."""

    asked: bool = False
    results: int = 0
    calls: Mapping[str, int] = field(default_factory=dict)
    """How often the model called each tool, by name."""
    message: bool = False
    """The model wrote a message."""

    def wire(self) -> dict[str, Any]:
        return {"asked": self.asked, "results": self.results, "calls": dict(self.calls), "message": self.message}

    def packed(self) -> str:
        """As it is stored: what is not there is left out."""
        return orjson.dumps({name: value for name, value in self.wire().items() if value}).decode()


def unpacked(data: str | bytes | None) -> Outline | None:
    return Outline(**orjson.loads(data)) if data else None


def outline(input: Sequence[Item], output: Iterable[Item]) -> Outline:
    """`input` may begin with the history that the client has sent again."""
    asked, results = False, 0
    for item in reversed(input):
        if not is_client_side(item):
            break
        results += is_output(item)
        asked = asked or item.get("role") == "user"
    calls: Counter[str] = Counter()
    message = False
    for item in output:
        name = called_tool(item)
        message = message or item.get("type") == "message"
        if name is not None:
            name = name[:LONGEST]
            calls[name if name in calls or len(calls) < MOST else OTHERS] += 1
    return Outline(asked, results, calls, message)
