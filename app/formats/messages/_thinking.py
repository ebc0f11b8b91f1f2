"""The form in which a request asks for thinking. It differs by generation of model; the row's `thinking` names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.contract.channel import Channel
from app.formats._request import effort_of
from app.formats._toolbox import Offer

_EFFORTS = {"minimal": "low"}
#: The part of `max_tokens` for thinking, for models that need a number of tokens.
_SHARES = {"minimal": 0.1, "low": 0.25, "medium": 0.5}
_LARGEST_SHARE = 0.75
_LEAST_BUDGET = 1024
_DISABLED = {"type": "disabled"}
#: By the type that a client gave: the rows whose models do not take it.
_REPLACED = {"adaptive": ("budget",), "disabled": ("always", "between_tools")}


def thinking(request: Mapping[str, Any], row: Channel, offered: Offer, limit: int) -> dict[str, Any]:
    """The member `thinking` as the client gave it for this API, else derived from `reasoning`. `limit` is that of the
    answer, in tokens."""
    given = request.get("thinking")
    if isinstance(given, Mapping) and row.thinking not in _REPLACED.get(str(given.get("type")), ()):
        return {"thinking": given}
    reasoning, wanted = request.get("reasoning") or {}, _wanted(request)
    summary = reasoning.get("summary") or reasoning.get("generate_summary")
    if wanted == "none" and row.thinking != "always":
        return {"thinking": {"type": "between_tools"} if row.thinking == "between_tools" else _DISABLED}
    if not (wanted or summary):
        return {}
    if row.thinking == "budget":
        return {"thinking": _budget(wanted, offered, limit)}
    # The API refuses thinking with a forced call.
    if offered.must_call:
        return {}
    return {"thinking": {"type": "adaptive", **({"display": "summarized"} if summary else {})}}


def _wanted(request: Mapping[str, Any]) -> str | None:
    """The effort; for a client that says it in this API's terms, what comes nearest."""
    kind = (request.get("thinking") or {}).get("type")
    return effort_of(request) or {"disabled": "none", "adaptive": "high"}.get(str(kind))


def _budget(wanted: str | None, offered: Offer, limit: int) -> dict[str, Any]:
    budget = max(_LEAST_BUDGET, int(limit * _SHARES.get(wanted or "medium", _LARGEST_SHARE)))
    thinks = budget < limit and not offered.must_call
    return {"type": "enabled", "budget_tokens": budget} if thinks else _DISABLED


def effort(request: Mapping[str, Any], row: Channel) -> str | None:
    """The member `output_config.effort`; None for none."""
    wanted = effort_of(request)
    if row.thinking == "always":
        wanted = _wanted(request)
    if wanted is None or row.thinking == "budget":
        return None
    if wanted == "none":
        return "low" if row.thinking == "always" else None
    return _EFFORTS.get(wanted, wanted)
