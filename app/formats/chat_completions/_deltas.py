"""Adds the deltas of a chat upstream to an output, as text and calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from app.contract.turn import Turn
from app.formats._output import Output
from app.formats._tool_call_stream import Call
from app.formats.chat_completions._request import LOGPROBS


class Deltas:
    """Adds deltas to an output. Deltas of a call have the call's index, or none."""

    def __init__(self, turn: Turn, output: Output) -> None:
        self._output = output
        self._logs = LOGPROBS in turn.echo.include
        self._last: Call | None = None
        self._by_index: dict[int, Call] = {}

    def take(self, delta: Mapping[str, Any], logprobs: object = None) -> None:
        """Raises UpstreamBroken for a delta of an unknown call."""
        self._output.write("reasoning_text", _text(delta.get("reasoning_content")) or _text(delta.get("reasoning")))
        logged = logprobs.get("content") if self._logs and isinstance(logprobs, dict) else None
        self._output.write("output_text", _text(delta.get("content")), _logprobs(logged))
        self._output.write("refusal", _text(delta.get("refusal")))
        for call in _calls(delta):
            self._output.extend(self._find(call), *_call_fields(call))

    def _find(self, delta: Mapping[str, Any]) -> Call:
        """The call that a delta continues, or a new one."""
        index = delta.get("index")
        at = index if isinstance(index, int) else None
        known = self._by_index.get(at) if at is not None else self._last
        if known is not None and not _differs(known, delta):
            return known
        self._last = call = self._output.begin()
        if at is not None:
            self._by_index[at] = call
        return call


def _differs(call: Call, delta: Mapping[str, Any]) -> bool:
    """Whether a delta with the same index, or without one, begins another call."""
    call_id, name, arguments = _call_fields(delta)
    if not name:
        return False
    if call_id and call.id:
        return call_id != call.id
    # Servers that give no index send each call whole.
    return call.begun and ("index" not in delta or (bool(arguments) and call.whole))


def _text(value: object) -> str:
    """A string, or the text of a list of parts."""
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, dict))
    return value if isinstance(value, str) else ""


def _calls(delta: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        return (call for call in calls if isinstance(call, dict))
    # The older form, which allows one call.
    legacy = delta.get("function_call")
    return [{"index": 0, "function": legacy}] if isinstance(legacy, dict) else ()


def _call_fields(delta: Mapping[str, Any]) -> tuple[str, str, str]:
    """Id, name and arguments of a call's delta; each may be empty."""
    function = delta.get("function")
    if not isinstance(function, dict):
        function = {}
    arguments = function.get("arguments")
    if isinstance(arguments, dict):
        arguments = orjson.dumps(arguments).decode()
    return _text(delta.get("id")), _text(function.get("name")), _text(arguments)


def _logprobs(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        return []
    return [
        {**_logprob(token), "top_logprobs": [_logprob(top) for top in _logged(token.get("top_logprobs"))]}
        for token in _logged(value)
    ]


def _logged(value: object) -> list[dict[str, Any]]:
    return [token for token in value if isinstance(token, dict)] if isinstance(value, list) else []


def _logprob(token: Mapping[str, Any]) -> dict[str, Any]:
    text, logprob, raw = _text(token.get("token")), token.get("logprob"), token.get("bytes")
    return {
        "token": text,
        "logprob": float(logprob) if isinstance(logprob, int | float) else 0.0,
        "bytes": raw if _are_bytes(raw) else list(text.encode("utf-8", "replace")),
    }


def _are_bytes(value: object) -> bool:
    return isinstance(value, list) and all(type(byte) is int and 0 <= byte <= 255 for byte in value)
