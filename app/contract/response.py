"""The response object around an answer: its one builder, `Echo.response`, and the objects that follow from one.

The client's request is echoed with the contract's defaults.

Settings of the client are echoed as the client sent them, never as an upstream repeats them. Others have the
upstream's default, then the contract's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson

from app.contract.items import OPTIONAL_PARTS, WITHOUT_TOOLS, is_hidden
from app.contract.redaction import redacted_item, redacted_tool
from app.contract.tools import placeholder
from app.contract.usage import Usage
from app.errors import GatewayError

_TEXT = {"format": {"type": "text"}, "verbosity": "medium"}
_REASONING = {"effort": None, "summary": None}

#: All echoed fields and their defaults.
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

#: Fields for which the upstream's default is echoed: its model may run at another temperature.
_UPSTREAM_DEFAULTS = (
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
    """The types of parsed JSON that may replace this default."""
    return frozenset({int, float} if type(default) in (int, float) else {type(default)})


_KINDS = {name: _kinds(DEFAULTS[name]) for name in _UPSTREAM_DEFAULTS}

#: Large fields that repeat from turn to turn: stored once, by content.
_SETTINGS = ("instructions", "tools", "text")

#: Stored with the echo, never echoed: the optional parts of items that the client includes.
_INCLUDE = "include"

#: The `include` value for reasoning that a client can send back.
ENCRYPTED = OPTIONAL_PARTS["reasoning"].include


@dataclass(frozen=True, slots=True)
class Echo:
    """The echoed fields of one response that differ from the defaults, and its `include`."""

    fields: Mapping[str, Any]
    include: tuple[str, ...] = ()

    @classmethod
    def of(cls, request: Mapping[str, Any], *, store: bool) -> Echo:
        """The echo of a validated request. `store` is the effective value: a token may forbid storing."""
        fields = {name: request[name] for name in (*DEFAULTS, *_OPTIONAL) if name in request}
        if "tools" in fields:
            fields["tools"] = [_echoed_tool(tool) for tool in fields["tools"]]
        if isinstance(fields.get("tool_choice"), Mapping):
            fields["tool_choice"] = redacted_tool(fields["tool_choice"])
        if "text" in fields:
            fields["text"] = {**_TEXT, **{k: v for k, v in fields["text"].items() if v is not None}}
        if "reasoning" in fields:
            fields["reasoning"] = {**_REASONING, **fields["reasoning"]}
        if isinstance(fields.get("truncation"), Mapping):
            fields["truncation"] = fields["truncation"].get("type", "disabled")
        if "conversation" in fields:
            conversation = fields["conversation"]
            fields["conversation"] = {"id": conversation["id"] if isinstance(conversation, Mapping) else conversation}
        fields["store"] = store
        return cls(fields, tuple(request.get("include", ())))

    @classmethod
    def stored(cls, settings: bytes, echo: bytes) -> Echo:
        fields = {**orjson.loads(settings), **orjson.loads(echo)}
        if isinstance(fields.get("tool_choice"), Mapping):
            # Rows of earlier versions hold it with credentials.
            fields["tool_choice"] = redacted_tool(fields["tool_choice"])
        return cls(fields, tuple(fields.pop(_INCLUDE, ())))

    def with_upstream_defaults(self, upstream: Mapping[str, Any]) -> Echo:
        """The echo with the upstream's defaults for open fields. Values of a wrong type are ignored."""
        fields = dict(self.fields)
        for name, kinds in _KINDS.items():
            value: Any = upstream.get(name)
            if type(value) not in kinds:
                continue
            if name == "text":
                fields["text"] = {**_TEXT, **_text_defaults(value), **self.fields.get("text", {})}
            elif name == "reasoning":
                fields["reasoning"] = {**_REASONING, **value, **_without_nulls(self.fields.get("reasoning", {}))}
            elif name not in fields:
                fields[name] = value
        return Echo(fields, self.include)

    def shows(self, item: Mapping[str, Any]) -> bool:
        """Whether the client may see all of this output item."""
        kind = item.get("type")
        part = OPTIONAL_PARTS.get(kind)
        if part is not None:
            return part.include in self.include or not part.is_in(item)
        return kind in WITHOUT_TOOLS

    def shown(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        """The item without credentials, and without optional parts that the client does not include. The store holds
        those parts."""
        if self.shows(item):
            return item
        part = OPTIONAL_PARTS.get(item.get("type"))
        return redacted_item(cast(dict[str, Any], item)) if part is None else part.without(item)

    def including(self, include: Iterable[str]) -> Echo:
        return Echo(self.fields, tuple(dict.fromkeys((*self.include, *include))))

    def shared_settings(self) -> bytes:
        """The part that is stored by content."""
        return orjson.dumps({name: self.fields[name] for name in _SETTINGS if self._differs(name)})

    def row_fields(self) -> bytes:
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
        """The whole response object, every field of the contract present. A response without an outcome has no output,
        no usage and no error."""
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
            "output": [self.shown(item) for item in output if not is_hidden(item)],
            "usage": usage.wire() if usage else None,
        }

    def _differs(self, name: str) -> bool:
        return name in self.fields and (name not in DEFAULTS or self.fields[name] != DEFAULTS[name])


def in_progress(response: Mapping[str, Any]) -> dict[str, Any]:
    """The object as it was before the response had an outcome."""
    return {
        **response,
        "status": "in_progress",
        "output": [],
        "usage": None,
        "error": None,
        "incomplete_details": None,
        "completed_at": None,
    }


def failed(response: Mapping[str, Any], error: GatewayError) -> dict[str, Any]:
    """The object of a response that has failed after all."""
    return {**response, "status": "failed", "error": error_member(error)}


def error_member(error: GatewayError) -> dict[str, Any]:
    """The member `error` of a failed response."""
    return {"code": error.name, "message": error.message}


def _without_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _text_defaults(text: Mapping[str, Any]) -> dict[str, Any]:
    """The verbosity of an upstream's text settings: the format is always the client's."""
    return {"verbosity": text["verbosity"]} if isinstance(text.get("verbosity"), str) else {}


def _echoed_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool for the echo: with all members that the contract requires, without secrets."""
    return _completed(redacted_tool(tool))


#: Members of a tool that are null rather than absent.
_PRESENT = {"function": ("description", "parameters", "strict"), "mcp": ("allowed_tools", "headers")}


def _completed(shown: dict[str, Any]) -> dict[str, Any]:
    if members := _PRESENT.get(shown.get("type", "")):
        shown = {**shown, **{name: shown.get(name) for name in members}}
    if shown.get("type") == "mcp" and shown.get("server_url") == placeholder(str(shown.get("server_label"))):
        # It stands for an address that is none of the client's.
        del shown["server_url"]
    if isinstance(shown.get("tools"), list):
        shown["tools"] = [_completed(inner) for inner in shown["tools"]]
    return shown
