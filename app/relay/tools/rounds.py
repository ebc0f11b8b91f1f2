"""What the exchanges of one turn hand on to the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from app.contract.items import Item
from app.contract.tool_history import CallResult


@dataclass(frozen=True, slots=True)
class Round:
    """One exchange, or the calls that approvals released before the first one, as the next exchange's model reads it.

    The items are those of the response, so that the next turn finds the same history. An `mcp_call` and a mapped call
    become a function's call and its output once the channel is known: see `app.contract.tool_history`.
    """

    items: Sequence[Item]
    """The items of the answer in the model's order, each call of the gateway with its result. `refused` makes those of
    calls that get no item in the response."""
    family: str | None = None
    """The channel family that can read the opaque items; None if there are none."""
    results: Mapping[str, CallResult] = field(default_factory=dict)
    """What the items themselves do not say, by their ids: images, and what a mapped tool has found."""
    channel: str | None = None
    """The channel that answered."""


def refused(call: Item, words: str) -> list[Item]:
    """A call of a function that nothing ran, such as one above the limit, and the words that the model reads instead of
    a result."""
    named = {name: call[name] for name in ("type", "call_id", "name", "arguments")}
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": words, "status": "incomplete"}
    return [named, output]
