"""The response object around an answer: what the client asked for, with the contract's defaults, as OpenAI echoes it.

What a client gave is echoed as the client gave it, never as an upstream repeats it; what it left open is the
upstream's default, then the contract's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson

from app.contract.redaction import brings_tools, redacted_item, redacted_tool
from app.records import Usage

_TEXT = {"format": {"type": "text"}, "verbosity": "medium"}
_REASONING = {"effort": None, "summary": None}

#: Every echoed field and its value when nobody says anything.
DEFAULTS: dict[str, Any] = {
    "background": False,
    "frequency_penalty": 0.0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "reasoning": _REASONING,
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": _TEXT,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}

#: Echoed only when the client sent it.
_OPTIONAL = ("conversation", "prompt", "prompt_cache_options")

#: Defaults of the upstream's own that a client wants to see: its model may run at another temperature.
_LEFT_OPEN = (
    "frequency_penalty",
    "parallel_tool_calls",
    "presence_penalty",
    "reasoning",
    "service_tier",
    "temperature",
    "text",
    "top_logprobs",
    "top_p",
    "truncation",
)


def _kinds(default: object) -> frozenset[type]:
    """The types, as JSON is read, of values that could stand in a default's place."""
    return frozenset({int, float} if type(default) in (int, float) else {type(default)})


_KINDS = {name: _kinds(DEFAULTS[name]) for name in _LEFT_OPEN}

#: Repeats from turn to turn and is large, so it is stored once by its content.
_SETTINGS = ("instructions", "tools", "text")

#: Kept with the echo, never shown: which optional parts of the items the client asked to see.
_INCLUDE = "include"

#: What a client includes to be given reasoning that it can send back.
ENCRYPTED = "reasoning.encrypted_content"


@dataclass(frozen=True, slots=True)
class Echo:
    """The echoed fields of one response that differ from the defaults, and what the client asked to see."""

    fields: Mapping[str, Any]
    include: tuple[str, ...] = ()

    @classmethod
    def of(cls, request: Mapping[str, Any], *, store: bool) -> Echo:
        """What a validated request asks to be echoed. `store` is what holds, which a token may have changed."""
        fields = {name: request[name] for name in (*DEFAULTS, *_OPTIONAL) if name in request}
        if "tools" in fields:
            fields["tools"] = [_shown_tool(tool) for tool in fields["tools"]]
        if isinstance(fields.get("tool_choice"), Mapping):
            fields["tool_choice"] = redacted_tool(fields["tool_choice"])
        if "text" in fields:
            fields["text"] = {**_TEXT, **{k: v for k, v in fields["text"].items() if v is not None}}
        if "reasoning" in fields:
            fields["reasoning"] = {**_REASONING, **fields["reasoning"]}
        if isinstance(fields.get("truncation"), Mapping):
            fields["truncation"] = fields["truncation"].get("type", "disabled")
        if "conversation" in fields:
            given = fields["conversation"]
            fields["conversation"] = {"id": given["id"] if isinstance(given, Mapping) else given}
        fields["store"] = store
        return cls(fields, tuple(request.get("include", ())))

    @classmethod
    def stored(cls, settings: bytes, echo: bytes) -> Echo:
        fields = {**orjson.loads(settings), **orjson.loads(echo)}
        if isinstance(fields.get("tool_choice"), Mapping):
            # Rows of earlier versions hold it as it came.
            fields["tool_choice"] = redacted_tool(fields["tool_choice"])
        return cls(fields, tuple(fields.pop(_INCLUDE, ())))

    def filled(self, upstream: Mapping[str, Any]) -> Echo:
        """With the upstream's defaults where the client said nothing. Another kind of value than ours is not taken."""
        fields = dict(self.fields)
        for name, kinds in _KINDS.items():
            value: Any = upstream.get(name)
            if type(value) not in kinds:
                continue
            if name == "text":
                fields["text"] = {**_TEXT, **_open_text(value), **self.fields.get("text", {})}
            elif name == "reasoning":
                fields["reasoning"] = {**_REASONING, **value, **_given(self.fields.get("reasoning", {}))}
            elif name not in fields:
                fields[name] = value
        return Echo(fields, self.include)

    def shows(self, item: Mapping[str, Any]) -> bool:
        """Whether nothing of this output item has to be hidden from the client."""
        if item.get("type") == "reasoning":
            return "encrypted_content" not in item or ENCRYPTED in self.include
        return not brings_tools(item)

    def shown(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        """The item without the optional parts that the client did not ask to see, which stay in the store, and without
        credentials, which do not."""
        if self.shows(item):
            return item
        if brings_tools(item):
            return redacted_item(cast(dict[str, Any], item))
        return {name: value for name, value in item.items() if name != "encrypted_content"}

    def including(self, include: Iterable[str]) -> Echo:
        return Echo(self.fields, tuple(dict.fromkeys((*self.include, *include))))

    def settings(self) -> bytes:
        """The part that is stored by content."""
        return orjson.dumps({name: self.fields[name] for name in _SETTINGS if self._differs(name)})

    def rest(self) -> bytes:
        """The part that is stored with the row."""
        fields = {name: value for name, value in self.fields.items() if name not in _SETTINGS and self._differs(name)}
        if self.include:
            fields[_INCLUDE] = self.include
        return orjson.dumps(fields)

    def response(
        self,
        *,
        id: str,
        created_at: int,
        model: str,
        status: str,
        previous_response_id: str | None,
        output: Sequence[Any] = (),
        usage: Usage | None = None,
        completed_at: int | None = None,
        error: Mapping[str, Any] | None = None,
        incomplete_details: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The whole response object, every field of the contract present."""
        return {
            "id": id,
            "object": "response",
            "created_at": created_at,
            "status": status,
            "completed_at": completed_at if status == "completed" else None,
            "error": error,
            "incomplete_details": incomplete_details,
            "model": model,
            "previous_response_id": previous_response_id,
            **DEFAULTS,
            **self.fields,
            "output": [self.shown(item) for item in output],
            "usage": usage.wire() if usage else None,
        }

    def _differs(self, name: str) -> bool:
        return name in self.fields and (name not in DEFAULTS or self.fields[name] != DEFAULTS[name])


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _open_text(text: Mapping[str, Any]) -> dict[str, Any]:
    """Of an upstream's text settings only the verbosity is a default; the format was the client's to choose."""
    return {"verbosity": text["verbosity"]} if isinstance(text.get("verbosity"), str) else {}


def _shown_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as it is echoed: what the contract requires is present, what is secret is not."""
    return _completed(redacted_tool(tool))


def _completed(shown: dict[str, Any]) -> dict[str, Any]:
    if shown.get("type") == "function":
        shown = {**shown, **{name: shown.get(name) for name in ("description", "parameters", "strict")}}
    if isinstance(shown.get("tools"), list):
        shown["tools"] = [_completed(inner) for inner in shown["tools"]]
    return shown
