"""The body of a chat completion, made of a turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from app.errors import InvalidRequest
from app.formats.chat_completions import _context, _messages, _tools
from app.formats.responses import instructions_text
from app.turn import Item, Row, Turn

#: What both APIs call by the same name, and sampling keys that servers of open models know besides.
_PASSED = (
    *("temperature", "top_p", "frequency_penalty", "presence_penalty", "user"),
    *("top_k", "min_p", "repetition_penalty", "seed", "stop", "logit_bias"),
)
LOGPROBS = "message.output_text.logprobs"


def encode(turn: Turn, row: Row, model: str) -> bytes:
    request = turn.request
    if "prompt" in request:
        raise InvalidRequest(
            "Stored prompts are not available with this model.", code="unsupported_parameter", param="prompt"
        )
    _messages.check(turn.input)
    toolbox, items = _tools.Toolbox.of(turn), _context.items(turn)
    body: dict[str, Any] = {
        "model": model,
        "messages": _messages.messages(items, _instructions(request), row, toolbox),
        **{name: request[name] for name in _PASSED if name in request},
        **_tools.parameters(turn, row, toolbox),
        **_output(_in_force(request, items)),
    }
    if turn.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return orjson.dumps(body)


def _instructions(request: Mapping[str, Any]) -> str | None:
    instructions = request.get("instructions")
    return instructions_text(instructions) if isinstance(instructions, Mapping) else instructions


def _in_force(request: Mapping[str, Any], items: Iterable[Item]) -> Mapping[str, Any]:
    """The request with what the context has set for all later turns, where it says nothing itself."""
    merged = dict(request)
    for item in items:
        if item.get("type") == "configuration_update":
            for name in ("reasoning", "text"):
                merged[name] = {**merged.get(name, {}), **(item.get(name) or {}), **request.get(name, {})}
    return merged


def _output(request: Mapping[str, Any]) -> dict[str, Any]:
    """How long the answer may be, in what form, how hard to think about it, and what to tell of it."""
    body: dict[str, Any] = {}
    if "max_output_tokens" in request:
        body["max_tokens"] = request["max_output_tokens"]
    text = request.get("text") or {}
    if form := _response_format(text.get("format") or {}):
        body["response_format"] = form
    if text.get("verbosity") is not None:
        body["verbosity"] = text["verbosity"]
    if effort := (request.get("reasoning") or {}).get("effort"):
        body["reasoning_effort"] = effort
    if LOGPROBS in request.get("include", ()):
        body["logprobs"] = True
        if request.get("top_logprobs"):
            body["top_logprobs"] = request["top_logprobs"]
    return body


def _response_format(form: Mapping[str, Any]) -> dict[str, Any] | None:
    if form.get("type") == "json_object":
        return {"type": "json_object"}
    if form.get("type") == "json_schema":
        named = ("name", "description", "schema", "strict")
        schema = {name: form[name] for name in named if form.get(name) is not None}
        return {"type": "json_schema", "json_schema": schema}
    return None
