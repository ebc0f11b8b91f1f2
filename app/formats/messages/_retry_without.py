"""Changes a turn for a retry, by the sentence of the refusal.

Models accept different settings, and each generation changes them; the refusal itself names the setting.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from app.contract.channel import Channel
from app.contract.records import Chain
from app.contract.turn import Turn
from app.errors import UpstreamError, UpstreamRefused
from app.formats._context import items, shortened
from app.formats._request import effort_of, wants_truncation
from app.formats._toolbox import Toolbox, offer
from app.formats.messages._request import max_tokens

_SAMPLING = ("temperature", "top_p", "top_k")
#: The part of `max_tokens` for thinking, for models that need a number of tokens.
_SHARES = {"minimal": 0.1, "low": 0.25, "medium": 0.5}
_LARGEST_SHARE = 0.75
_LEAST_BUDGET = 1024
_BETWEEN_TOOLS = "between_tools"
_NO_THINKING = {"type": "disabled"}

Change = Callable[[Turn, Channel, str], Turn]


def amended(turn: Turn, row: Channel, error: UpstreamError) -> Turn | None:
    """The turn without the refused setting; None if it has no such setting."""
    if not isinstance(error, UpstreamRefused):
        return None
    if error.code == "context_length_exceeded":
        return shortened(_turn_without_reasoning(turn)) if wants_truncation(turn.request) else None
    change = next((change for sentence, change in _CHANGES if sentence.search(error.message)), None)
    better = change(turn, row, error.message) if change else turn
    return None if (better.request, better.input, better.chain) == (turn.request, turn.input, turn.chain) else better


def _with_request(turn: Turn, **changes: Any) -> Turn:
    """The turn with changed settings; None removes one."""
    changed = {**turn.request, **changes}
    return replace(turn, request={name: value for name, value in changed.items() if value is not None})


def _reasoning(turn: Turn, effort: str | None) -> dict[str, Any] | None:
    reasoning = {**(turn.request.get("reasoning") or {}), "effort": effort}
    return {name: value for name, value in reasoning.items() if value is not None} or None


# --- thinking ---------------------------------------------------------------------------------------------------


def _minimal_thinking(turn: Turn, row: Channel, sentence: str) -> Turn:
    """For a model that cannot stop thinking."""
    if _BETWEEN_TOOLS in sentence:
        return _with_request(turn, thinking={"type": _BETWEEN_TOOLS}, reasoning=_reasoning(turn, None))
    return _with_request(turn, thinking=None, reasoning=_reasoning(turn, "low"))


def _thinking_by_budget(turn: Turn, row: Channel, sentence: str) -> Turn:
    """For a model that needs a budget in tokens, or cannot think."""
    effort = effort_of(turn.request)
    limit = max_tokens(turn.request, row)
    budget = max(_LEAST_BUDGET, int(limit * _SHARES.get(effort or "medium", _LARGEST_SHARE)))
    thinks = budget < limit and not offer(turn, row, Toolbox.of(turn)).must_call
    thinking = {"type": "enabled", "budget_tokens": budget} if thinks else _NO_THINKING
    return _with_request(turn, thinking=thinking, reasoning=_reasoning(turn, None))


def _less_effort(turn: Turn, row: Channel, sentence: str) -> Turn:
    """For a model without this effort."""
    effort = effort_of(turn.request)
    return _with_request(turn, reasoning=_reasoning(turn, "high" if effort in ("xhigh", "max") else None))


def _without_thinking(turn: Turn, row: Channel, sentence: str) -> Turn:
    return _with_request(turn, thinking=_NO_THINKING, reasoning=_reasoning(turn, None))


def _without_thinking_blocks(turn: Turn, row: Channel, sentence: str) -> Turn:
    return _turn_without_reasoning(turn)


def _turn_without_reasoning(turn: Turn) -> Turn:
    """The turn without thinking blocks: their signatures fail on another model or after a changed history."""
    context = items(turn)
    remaining = [item for item in context if item.get("type") != "reasoning"]
    return turn if len(remaining) == len(context) else replace(turn, chain=Chain(), input=remaining)


# --- other settings ---------------------------------------------------------------------------------------------


def _as_by_default(turn: Turn, row: Channel, sentence: str) -> Turn:
    return _with_request(turn, **dict.fromkeys(_SAMPLING))


def _unenforced(turn: Turn, row: Channel, sentence: str) -> Turn:
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
        (r"thinking\.type\.disabled", _minimal_thinking),
        (
            r"adaptive thinking is not supported|thinking\.type\.adaptive\W+is not|support the effort",
            _thinking_by_budget,
        ),
        (r"forces tool use|expected `(?:redacted_)?thinking`", _without_thinking),
        (r"output_config\.effort|effort level", _less_effort),
        (r"`?(?:temperature|top_p|top_k)\b", _as_by_default),
        (r"(?:redacted_)?thinking`? blocks?\b|thinking\.signature|`signature`", _without_thinking_blocks),
        (r"output_config\.format|output_format|strict|additionalProperties|\bschema\b|grammar", _unenforced),
    )
)
