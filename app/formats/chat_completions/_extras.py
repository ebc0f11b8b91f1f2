"""Members of an answer that the upstream wants back with the history: Gemini's signatures of calls, OpenRouter's
`reasoning_details`, the thinking blocks of LiteLLM, Copilot's opaque reasoning.

They travel in the `encrypted_content` of a reasoning item, sealed, and go only to the family that sent them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from app.formats._conversation import Call, Reasoning
from app.formats._ids import CHAT_SECRET as PREFIX
from app.formats._ids import usable_call_id
from app.formats._tool_call_stream import Call as StreamedCall

#: Of a message, and of a call or its function.
_OF_MESSAGE = ("extra_content", "provider_specific_fields", "reasoning_details", "reasoning_opaque", "thinking_blocks")
_OF_CALL = ("extra_content", "provider_specific_fields", "thought_signature")
#: Members of a list's entries that grow from chunk to chunk.
_GROWING = ("text", "summary", "data", "thinking")
_SIGNED = "signature"
#: LiteLLM puts Gemini's signature into the id of the call, behind this mark.
_SIGNED_ID = "__thought__"

#: Google takes this in place of a signature, for calls of other models.
_PLACEHOLDER = "skip_thought_signature_validator"

JSON = dict[str, Any]


class Extras:
    """Collects the members of one answer, chunk by chunk."""

    def __init__(self) -> None:
        self._message: JSON = {}
        self._known: set[str] = set()
        self._calls: dict[int, tuple[StreamedCall, JSON]] = {}

    def read(self, delta: Mapping[str, Any]) -> None:
        self._known |= _collect(self._message, delta, _OF_MESSAGE)

    def read_whole(self, message: Mapping[str, Any]) -> None:
        """Reads a whole message. What deltas brought before is repeated in it."""
        _collect(self._message, message, [name for name in _OF_MESSAGE if name not in self._known])

    def read_call(self, position: int, call: StreamedCall, delta: Mapping[str, Any]) -> None:
        """Reads a call's delta. `position` counts the calls of the answer."""
        found = _of_call(delta)
        call_id = delta.get("id")
        if isinstance(call_id, str) and _SIGNED_ID in call_id and usable_call_id(call_id) != call_id:
            # The client gets a shorter id.
            found["id"] = call_id
        if found:
            _merge(self._calls.setdefault(position, (call, {}))[1], found)

    def take(self) -> str:
        """What has come since the last time, encoded; empty if there is nothing."""
        message, calls = self._message, self._calls
        if not message and not calls:
            return ""
        self._message, self._calls = {}, {}
        named = [(position, call.name, members) for position, (call, members) in calls.items()]
        return PREFIX + orjson.dumps({"message": message, "calls": named}).decode()


def _of_call(call: Mapping[str, Any]) -> JSON:
    found: JSON = {}
    _collect(found, call, _OF_CALL)
    function: JSON = {}
    if isinstance(call.get("function"), Mapping):
        _collect(function, call["function"], _OF_CALL)
    return {**found, "function": function} if function else found


def _collect(into: JSON, holder: Mapping[str, Any], names: Sequence[str]) -> set[str]:
    """Adds the members with these names; returns those that the holder has."""
    found = {name: holder[name] for name in names if holder.get(name)}
    _merge(into, found)
    return set(found)


def _merge(into: JSON, more: Mapping[str, Any]) -> None:
    """Adds the members of a later chunk: objects and lists grow, other values are replaced."""
    for name, value in more.items():
        known = into.get(name)
        if isinstance(known, dict) and isinstance(value, dict):
            _merge(known, value)
        elif isinstance(known, list) and isinstance(value, list):
            into[name] = _extended(known, value)
        else:
            into[name] = value


def _extended(known: Sequence[Any], more: Sequence[Any]) -> list[Any]:
    """The entries of both chunks. An entry that an earlier chunk began goes on."""
    entries = list(known)
    for entry in more:
        at = next((at for at in range(len(known) - 1, -1, -1) if _goes_on(entries[at], entry)), None)
        if at is None:
            entries.append(entry)
        else:
            entries[at] = _grown(entries[at], entry)
    return entries


def _goes_on(begun: object, entry: object) -> bool:
    if not isinstance(begun, dict) or not isinstance(entry, dict) or begun.get(_SIGNED):
        return False
    return all(begun.get(name) == entry.get(name) for name in ("type", "index"))


def _grown(begun: JSON, entry: JSON) -> JSON:
    grown = {**begun, **{name: value for name, value in entry.items() if value is not None}}
    for name in _GROWING:
        if isinstance(begun.get(name), str) and isinstance(entry.get(name), str):
            grown[name] = begun[name] + entry[name]
    return grown


# --- on the way back --------------------------------------------------------------------------------------------


def restore(message: JSON, calls: Sequence[Call], reasoning: Sequence[Reasoning], signatures: str) -> None:
    """Puts the members back into an assistant's message. `signatures` is the row's `call_signatures`."""
    for part in reasoning:
        secret = part.item.get("encrypted_content")
        if isinstance(secret, str) and secret.startswith(PREFIX):
            try:
                _restore(message, calls, orjson.loads(secret.removeprefix(PREFIX)))
            except (ValueError, TypeError, KeyError):
                # A client wrote it.
                continue
    if calls and (fill := _FILLED.get(signatures)):
        fill(message)


def _restore(message: JSON, calls: Sequence[Call], extras: Any) -> None:
    _collect(message, extras["message"], _OF_MESSAGE)
    for position, name, members in extras["calls"]:
        if 0 <= position < len(calls) and calls[position].name == name:
            own_id = {"id": members["id"]} if isinstance(members.get("id"), str) else {}
            _merge(message["tool_calls"][position], {**_of_call(members), **own_id})


def _google(message: JSON) -> None:
    """The first call of each step needs a signature."""
    call = message["tool_calls"][0]
    if not _signature_of(call):
        _merge(call, {"extra_content": {"google": {"thought_signature": _PLACEHOLDER}}})


def _signature_of(call: Mapping[str, Any]) -> object:
    google = (call.get("extra_content") or {}).get("google")
    return google.get("thought_signature") if isinstance(google, Mapping) else None


def _openrouter(message: JSON) -> None:
    if not message.get("reasoning_details"):
        entry = {"type": "reasoning.encrypted", "data": _PLACEHOLDER, "format": "google-gemini-v1", "index": 0}
        message["reasoning_details"] = [{**entry, "id": message["tool_calls"][0]["id"]}]


#: What calls without a signature get, by the row's `call_signatures`.
_FILLED: Mapping[str, Callable[[JSON], None]] = {"google": _google, "openrouter": _openrouter}
