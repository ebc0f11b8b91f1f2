"""Encodes a turn as the body of a chat completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from app.contract.channel import Channel
from app.contract.turn import Turn
from app.formats import _context, _conversation
from app.formats._caching import COMPARISON, CONTROL, KEY, OPTIONS, Marks, accepted, key_of, options, own_key
from app.formats._request import effort_of, in_force, instruction_marks, instructions, refuse_prompt, text_format
from app.formats._text_format import fitted
from app.formats._toolbox import Offer, Toolbox, offer
from app.formats.chat_completions import _messages

#: Members with the same name in both APIs, and sampling keys of servers for open models.
_PASSED = (
    *("temperature", "top_p", "frequency_penalty", "presence_penalty", "user"),
    *(KEY, "prompt_cache_retention", CONTROL, "service_tier"),
    *("top_k", "min_p", "repetition_penalty", "seed", "stop", "logit_bias"),
)
#: Values of `cache_key` in a row whose upstream gets the gateway's own key.
_OWN_KEY = ("on",)
LOGPROBS = "message.output_text.logprobs"


def cache_key(turn: Turn, row: Channel) -> str | None:
    return key_of(turn, row, *_OWN_KEY)


def encode(turn: Turn, row: Channel, model: str) -> bytes:
    request = turn.request
    refuse_prompt(request)
    _conversation.check(turn.input, _messages.carries)
    toolbox, items = Toolbox.of(turn), _context.items(turn, row.family)
    offered, effective = offer(turn, row, toolbox), in_force(request, items)
    form, said = fitted({} if offered.must_call else text_format(effective), row.text_format)
    told = "\n\n".join(filter(None, (instructions(request), said))) or None
    body: dict[str, Any] = {
        "model": model,
        "messages": _messages.messages(items, (told, instruction_marks(request)), row, toolbox),
        **{name: request[name] for name in _PASSED if name in request},
        **own_key(turn, row, *_OWN_KEY),
        **_cache_options(request),
        **_tools(offered, request, {name: accepted(marks, row) for name, marks in toolbox.marks.items()}),
        **_output(effective, row, form),
    }
    if turn.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return orjson.dumps(body)


def _cache_options(request: Mapping[str, Any]) -> dict[str, Any]:
    """`prompt_cache_options` without the response to compare with: it is none that this upstream knows."""
    sent = {name: value for name, value in options(request).items() if name != COMPARISON}
    return {OPTIONS: sent} if sent else {}


def _tools(offered: Offer, request: Mapping[str, Any], marks: Mapping[str, Marks]) -> dict[str, Any]:
    """`tools` and the members that require them. `marks`: for the cache, by the names of functions."""
    if not offered.functions:
        return {}
    tools = [
        {"type": "function", "function": function, **marks.get(function["name"], {})} for function in offered.functions
    ]
    body: dict[str, Any] = {"tools": tools}
    if offered.forced:
        body["tool_choice"] = {"type": "function", "function": {"name": offered.forced}}
    elif offered.mode:
        body["tool_choice"] = offered.mode
    if "parallel_tool_calls" in request:
        body["parallel_tool_calls"] = request["parallel_tool_calls"]
    return body


def _output(request: Mapping[str, Any], row: Channel, form: Mapping[str, Any]) -> dict[str, Any]:
    """Length, format, reasoning effort and logprobs of the answer."""
    body: dict[str, Any] = {}
    if limit := request.get("max_output_tokens") or row.max_output_tokens:
        body["max_tokens"] = limit
    text = request.get("text") or {}
    if response_format := _response_format(form):
        body["response_format"] = response_format
    if text.get("verbosity") is not None:
        body["verbosity"] = text["verbosity"]
    if effort := effort_of(request):
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
