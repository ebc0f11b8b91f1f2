"""Digests of what a turn gives its model: tools, instructions, items. They show later where a prompt differs from the
one of the turn before, so that the provider's cache could not serve it.

They are those of the turn as its client gave it, not of the body for one channel: a body is not the same on the next
channel, and digests of it would have to cover the whole history each turn. What a channel did not get as the client
sent it has a digest of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from app.contract.channel import Channel
from app.contract.items import Item
from app.contract.records import Attempt, Prompt
from app.contract.redaction import redacted_item
from app.contract.turn import Turn
from app.contract.usage import Usage
from app.formats import cache_key
from app.sealing import OwnerDigests

Digest = Callable[[bytes], bytes]

#: Members of items that no model reads.
_UNREAD = frozenset(
    {
        *("annotations", "created_by", "id", "internal_chat_message_metadata_passthrough", "logprobs", "status"),
        *("cache_control", "prompt_cache_breakpoint"),
    }
)
_PLAIN = {"type": "text"}
_UNITS = {"s": 1, "m": 60, "h": 3600}


class Prompts:
    def __init__(self, digests: OwnerDigests) -> None:
        self._digests = digests

    def of(self, turn: Turn, row: Channel | None, attempts: Sequence[Attempt], usage: Usage) -> Prompt:
        """The digests of a turn that was answered, without those of its items."""
        digest = self._digests.of(turn.owner)
        answered = attempts[-1] if attempts else None
        changes = (answered.adapted, answered.dropped) if answered else ((), ())
        key = cache_key(turn, row) if row else None
        return Prompt(
            key=self._digests.name,
            tools=b"".join([digest(orjson.dumps(tool)) for tool in turn.echo.fields.get("tools") or ()]),
            instructions=_instructions(turn, digest),
            has_items=False,
            adapted=digest(orjson.dumps(changes)) if any(changes) else b"",
            cache_key=digest(key.encode(errors="surrogatepass")) if key else b"",
            shortened=answered is not None and answered.shortened,
            reports_cache=usage.reports_cache and not usage.estimated,
            reasoning=row is not None and (row.encrypted_reasoning or row.reasoning_text),
            kept=_kept(turn.request),
        )

    def with_items(self, owner: str, prompt: Prompt, input: Iterable[Item], output: Iterable[Item]) -> Prompt:
        """The digests, with those of these items."""
        digest = self._digests.of(owner)
        given, answered = (
            b"".join([digest(_read(item)) for item in items if prompt.reasoning or item.get("type") != "reasoning"])
            for items in (input, output)
        )
        return replace(prompt, input=given, output=answered, has_items=True)


def _instructions(turn: Turn, digest: Digest) -> bytes:
    given = turn.request.get("instructions")
    text = turn.request.get("text") or {}
    form = text.get("format") if isinstance(text, Mapping) else None
    if form in (None, _PLAIN):
        return digest(orjson.dumps(given)) if given else b""
    return digest(orjson.dumps(given)) + digest(orjson.dumps(form))


def _kept(request: Mapping[str, Any]) -> int:
    """The seconds for which the client asks the provider to keep the prompt."""
    options = request.get("prompt_cache_options")
    wanted = options.get("ttl") if isinstance(options, Mapping) else None
    return max(_seconds(request.get("prompt_cache_retention")), _seconds(wanted))


def _seconds(time: object) -> int:
    """`24h`, `30m`; 0 for what is no time."""
    if not isinstance(time, str) or time[-1:] not in _UNITS or not time[:-1].isdecimal() or len(time) > 8:
        return 0
    return int(time[:-1]) * _UNITS[time[-1]]


def _read(item: Item) -> bytes:
    """What a model reads of an item. A string is the same as one part with this text."""
    content = item.get("content")
    if item.get("role") and isinstance(content, str):
        return orjson.dumps([item["role"], [content]])
    if item.get("role") and isinstance(content, list):
        return orjson.dumps([item["role"], [_part(part) for part in content]], option=orjson.OPT_SORT_KEYS)
    return orjson.dumps(_stable(redacted_item(item)), option=orjson.OPT_SORT_KEYS)


def _part(part: Any) -> Any:
    return part["text"] if isinstance(part, Mapping) and isinstance(part.get("text"), str) else _stable(part)


def _stable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _stable(inner)
            for name, inner in value.items()
            if name not in _UNREAD and inner is not None and inner != []
        }
    return [_stable(inner) for inner in value] if isinstance(value, list) else value
