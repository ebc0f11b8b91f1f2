"""Calls of tools that the gateway ran, as upstreams get them again: as calls of functions with their outputs.

No upstream but the one that made it takes an `mcp_call`, and none knows a call that the gateway made. So the history
shows the same calls in the same words in every turn, and to every upstream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Part = Mapping[str, Any]

#: What the model reads in place of a result that is not in the store.
UNKNOWN_RESULT = "(result not available)"
DENIED = "Call denied by the user"


class CallResult(NamedTuple):
    """What the model reads of a call that the item itself does not say."""

    text: str | None = None
    """The result; None where the item holds it."""
    images: Sequence[Part] = ()
    """`input_image` parts."""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class ToolHistory:
    """How a turn shows calls of tools that the gateway ran."""

    names: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """The label of a server and the name of its tool → the name that the model knows."""
    hosted: Mapping[str, str] = field(default_factory=dict)
    """The type of a hosted tool's item → the same."""
    results: Mapping[str, CallResult] = field(default_factory=dict)
    """By the id of the call's item."""
