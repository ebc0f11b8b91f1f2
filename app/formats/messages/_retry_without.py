"""Changes a turn for a retry, by the sentence of the refusal, where its own content is refused.

What a model refuses of every request is a remedy; see `app.formats._remedies`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from app.contract.channel import Channel
from app.contract.records import Chain
from app.contract.turn import Turn
from app.errors import ContextTooLong, UpstreamError, UpstreamRefused
from app.formats._context import items, shortened, wants_truncation

_NO_THINKING = {"type": "disabled"}

Change = Callable[[Turn], Turn]


def amended(turn: Turn, row: Channel, error: UpstreamError) -> Turn | None:
    """The turn without the refused setting; None if it has no such setting."""
    if not isinstance(error, UpstreamRefused):
        return None
    if isinstance(error, ContextTooLong):
        return shortened(_turn_without_reasoning(turn)) if wants_truncation(turn.request) else None
    change = next((change for sentence, change in _CHANGES if sentence.search(error.message)), None)
    better = change(turn) if change else turn
    return None if (better.request, better.input, better.chain) == (turn.request, turn.input, turn.chain) else better


def _with_request(turn: Turn, **changes: Any) -> Turn:
    """The turn with changed settings; None removes one."""
    changed = {**turn.request, **changes}
    return replace(turn, request={name: value for name, value in changed.items() if value is not None})


def _reasoning(turn: Turn, effort: str | None) -> dict[str, Any] | None:
    reasoning = {**(turn.request.get("reasoning") or {}), "effort": effort}
    return {name: value for name, value in reasoning.items() if value is not None} or None


# --- thinking ---------------------------------------------------------------------------------------------------


def _without_thinking(turn: Turn) -> Turn:
    return _with_request(turn, thinking=_NO_THINKING, reasoning=_reasoning(turn, None))


def _without_thinking_blocks(turn: Turn) -> Turn:
    return _turn_without_reasoning(turn)


def _turn_without_reasoning(turn: Turn) -> Turn:
    """The turn without thinking blocks: their signatures fail on another model or after a changed history."""
    context = items(turn)
    remaining = [item for item in context if item.get("type") != "reasoning"]
    return turn if len(remaining) == len(context) else replace(turn, chain=Chain(), input=remaining)


# --- other settings ---------------------------------------------------------------------------------------------


def _unenforced(turn: Turn) -> Turn:
    """The turn with schemas that are not enforced: they use features that this model cannot enforce."""
    text = turn.request.get("text") or {}
    changes: dict[str, Any] = {}
    if (text.get("format") or {}).get("strict"):
        changes["text"] = {**text, "format": {**text["format"], "strict": False}}
    if "tools" in turn.request:
        changes["tools"] = [_lenient(tool) for tool in turn.request["tools"]]
    return _with_request(turn, **changes)


def _lenient(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(tool.get("tools"), list):
        return {**tool, "tools": [_lenient(inner) for inner in tool["tools"]]}
    return {**tool, "strict": False} if tool.get("strict") else tool


#: In order: the first pattern that matches decides.
_CHANGES: tuple[tuple[re.Pattern[str], Change], ...] = tuple(
    (re.compile(sentence, re.IGNORECASE), change_request)
    for sentence, change_request in (
        (r"forces tool use|expected `(?:redacted_)?thinking`", _without_thinking),
        (
            r"(?:redacted_)?thinking`? blocks?\b|thinking\.signature|`signature`|"
            # What follows the place or the type of a block.
            r"\b(?:contents?|blocks?|messages)\b.{0,60}\bthinking\b",
            _without_thinking_blocks,
        ),
        (r"output_config\.format|output_format|strict|additionalProperties|\bschema\b|grammar", _unenforced),
    )
)
