"""Reads the objects of a chat upstream, for translation and for passthrough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app.contract.usage import Usage
from app.errors import UpstreamBroken
from app.formats import _openai
from app.formats._endings import reason_of
from app.formats._failures import error_in_answer, stream_error
from app.formats._reader import error_in, says_failure, whole

#: Members of a choice that hold its message, or a piece of it. Some servers have none of them: they put the members of
#: the message beside the index.
HOLDERS = ("delta", "message", "text")
#: The choices of Gemini's own API.
_OF_GEMINI = "candidates"
#: The second one is Gemini's own, and in the last one Groq keeps the usage of a stream.
_USAGE = ("usage", "usageMetadata", "x_groq")
#: How long llama.cpp took for what: its older versions count the cached tokens only there.
_TIMINGS, _FROM_CACHE = "timings", ("cache_n",)
_REASONS = ("finish_reason", "finishReason", "stop_reason", "done_reason")


def completion_of(body: bytes) -> dict[str, Any]:
    """The object of an unstreamed answer. Raises UpstreamError, also if the object is an error."""
    completion = whole(body)
    if isinstance(completion, dict):
        refuse_error(None, completion)
    if not isinstance(completion, dict) or not (completion.get("choices") or choice_of(completion)):
        raise error_in_answer(completion) or UpstreamBroken(
            "The model's server answered with something that is not a chat completion."
        )
    return completion


def refuse_error(name: str | None, event: Mapping[str, Any]) -> None:
    """Raises the failure that a chunk or a body holds."""
    error = error_in(name, event)
    if error is not None:
        raise stream_error(error)
    if not event.get("choices") and says_failure(event):
        raise stream_error(event)


def choice_of(event: Mapping[str, Any], index: object = None) -> dict[str, Any] | None:
    """The choice of this index, or without one the first choice: the gateway never requests more than one. Some servers
    send the message without a choice around it."""
    choices = event.get("choices") or event.get(_OF_GEMINI)
    if isinstance(choices, list):
        if len(choices) == 1 and isinstance(choices[0], dict) and choices[0].get("index") == (index or 0):
            return choices[0]
        found = [choice for choice in choices if isinstance(choice, dict)]
        wanted = (index, None) if isinstance(index, int) else (0, None)
        ours = next((choice for choice in found if choice.get("index") in wanted), None)
        return ours if ours is not None or isinstance(index, int) else next(iter(found), None)
    bare = choices if isinstance(choices, dict) else event
    return dict(bare) if any(isinstance(bare.get(holder), dict) for holder in ("delta", "message")) else None


def reason_in(choice: Mapping[str, Any]) -> str | None:
    """The reason for the end of a choice."""
    for name in _REASONS:
        if choice.get(name) is not None and (reason := reason_of(choice[name])):
            return reason
    return None


def usage_of(holder: Mapping[str, Any]) -> Usage | None:
    """Usage in a completion, a chunk or a choice; None if the upstream counted nothing there."""
    if holder.keys().isdisjoint(_USAGE):
        # So are most chunks.
        return None
    for name in _USAGE:
        if (counts := holder.get(name)) is not None and (usage := _usage_in(counts)) is not None:
            return _with_timings(usage, holder.get(_TIMINGS))
    return None


def _usage_in(counts: object) -> Usage | None:
    inner = counts.get("usage") if isinstance(counts, Mapping) else None
    return _openai.usage(counts if inner is None else inner)


def _with_timings(usage: Usage, timings: object) -> Usage:
    if usage.reports_cache or not isinstance(timings, Mapping):
        return usage
    read = _openai.largest(timings, _FROM_CACHE)
    return usage if read is None else replace(usage, cached_tokens=min(read, usage.input_tokens), reports_cache=True)
