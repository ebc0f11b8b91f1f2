"""What a request says about the upstream's cache of prompts: the key of its conversation, options, and marks.

A mark is a member of a part, an item or a tool. It says that a prompt which begins with all up to here will come again:
`prompt_cache_breakpoint` is OpenAI's, `cache_control` Anthropic's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.contract.channel import Channel
from app.contract.turn import Turn

KEY = "prompt_cache_key"
OPTIONS = "prompt_cache_options"
COMPARISON = "comparison_response_id"
CONTROL, BREAKPOINT = "cache_control", "prompt_cache_breakpoint"
MARKS = (CONTROL, BREAKPOINT)

Marks = Mapping[str, Any]


def own_key(turn: Turn, row: Channel, *sending: str) -> dict[str, str]:
    """The member with the gateway's own key, for a row whose `cache_key` is one of `sending`. A row that has learnt to
    leave the member out gets none, so that no client reads of a change to what it never sent."""
    if turn.cache_key is None or row.cache_key not in sending or KEY in row.params.drop:
        return {}
    return {KEY: turn.cache_key}


def key_of(turn: Turn, row: Channel, *sending: str) -> str | None:
    """The key that the upstream gets: the client's, else the gateway's own; None if it gets none."""
    given = turn.request.get(KEY)
    if isinstance(given, str):
        return None if KEY in row.params.drop else given
    return own_key(turn, row, *sending).get(KEY)


def options(request: Mapping[str, Any]) -> Mapping[str, Any]:
    given = request.get(OPTIONS)
    return given if isinstance(given, Mapping) else {}


def marks_of(holder: Mapping[str, Any]) -> dict[str, Any]:
    """The marks of a part, an item or a tool."""
    return {name: holder[name] for name in MARKS if isinstance(holder.get(name), Mapping)}


def accepted(marks: Marks, row: Channel) -> Marks:
    """The marks without those that this row has learnt to leave out."""
    return {name: mark for name, mark in marks.items() if f"**.{name}" not in row.params.drop} if marks else marks


def marked_parts(parts: Sequence[Mapping[str, Any]], marks: Marks) -> Sequence[Mapping[str, Any]]:
    """The parts of an item with these marks: they stand at its last part."""
    return [*parts[:-1], {**parts[-1], **marks}] if parts and marks else parts


def divided(parts: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Sequence[Mapping[str, Any]], Marks]]:
    """The parts in groups, each of which ends with a mark or with the last part."""
    begun = 0
    for position, part in enumerate(parts):
        if (marks := marks_of(part)) or position == len(parts) - 1:
            yield parts[begun : position + 1], marks
            begun = position + 1
