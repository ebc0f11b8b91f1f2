"""Encodes a turn as the body of a Messages request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import orjson

from app.contract.channel import Channel
from app.contract.turn import Turn
from app.formats import _context, _conversation
from app.formats._caching import Marks
from app.formats._request import in_force, instruction_marks, instructions, refuse_prompt, text_format
from app.formats._text_format import instruction
from app.formats._toolbox import Offer, Toolbox, offer
from app.formats.messages import _messages
from app.formats.messages._cache_marks import write_marks
from app.formats.messages._thinking import effort, thinking

#: `max_tokens` if neither the client nor the row sets a limit: this API requires one.
MAX_TOKENS = 8192

#: The smallest `top_p` that the API allows with thinking.
_LEAST_TOP_P = 0.95
#: The only members that the counting endpoint accepts.
_COUNTED_KEYS = frozenset({"messages", "model", "output_config", "system", "thinking", "tool_choice", "tools"})


def encode(turn: Turn, row: Channel, model: str) -> bytes:
    request = turn.request
    refuse_prompt(request)
    _conversation.check(turn.input, _messages.carries)
    toolbox, items = Toolbox.of(turn), _context.items(turn, row.family)
    effective, offered = in_force(request, items), _offer(turn, row, toolbox)
    system, messages = _messages.conversation(items, _instructions(effective, row, offered), row, turn.model, toolbox)
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": max_tokens(request, row),
        **({"system": system} if system else {}),
        "messages": messages,
        **(_tools(offered, request, toolbox.marks) if offered.functions else _tools_of_the_past(messages)),
        **_output(effective, row, offered),
        **_metadata(request),
    }
    body |= _sampling(request, thinks=body.get("thinking", {}).get("type") in ("adaptive", "enabled"))
    if turn.stream:
        body["stream"] = True
    write_marks(body, request)
    return orjson.dumps(body)


def _offer(turn: Turn, row: Channel, toolbox: Toolbox) -> Offer:
    """The functions to send. A choice that lets the model write text stays where calls are forbidden: the cache of the
    messages depends on it."""
    offered = offer(replace(turn, forbids_calls=False), row, toolbox)
    return offer(turn, row, toolbox) if turn.forbids_calls and offered.must_call else offered


def encode_count(turn: Turn, row: Channel, model: str) -> bytes:
    body = orjson.loads(encode(turn, row, model))
    return orjson.dumps({name: value for name, value in body.items() if name in _COUNTED_KEYS})


def max_tokens(request: Mapping[str, Any], row: Channel) -> int:
    return int(request.get("max_output_tokens") or row.max_output_tokens or MAX_TOKENS)


def _instructions(request: Mapping[str, Any], row: Channel, offered: Offer) -> Iterator[tuple[str, Marks]]:
    if text := instructions(request):
        yield text, instruction_marks(request)
    form = _form(request, offered)
    if not _is_enforced(form, row) and (said := instruction(form)):
        yield said, {}


def _form(request: Mapping[str, Any], offered: Offer) -> Mapping[str, Any]:
    """`text.format`; empty if the model has to call a tool."""
    return {} if offered.must_call else text_format(request)


def _is_enforced(form: Mapping[str, Any], row: Channel) -> bool:
    """Whether the upstream enforces the schema. It refuses a schema that does not follow the strict rules."""
    return form.get("type") == "json_schema" and form.get("strict") is True and row.text_format == "schema"


# --- tools ------------------------------------------------------------------------------------------------------


def _tools(offered: Offer, request: Mapping[str, Any], marks: Mapping[str, Marks]) -> dict[str, Any]:
    """`tools` and the members that require them. `marks`: for the cache, by the names of functions."""
    tools = [{**_tool(function), **marks.get(function["name"], {})} for function in offered.functions]
    body: dict[str, Any] = {"tools": tools}
    choice = _choice(offered)
    if request.get("parallel_tool_calls") is False and choice != {"type": "none"}:
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    return {**body, "tool_choice": choice} if choice else body


def _tools_of_the_past(messages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Tools for the calls in the history: the API refuses calls without tools. `tool_choice` forbids new calls."""
    blocks = [block for message in messages for block in message["content"] if block["type"] == "tool_use"]
    tools = [{"name": name, "input_schema": {"type": "object"}} for name in dict.fromkeys(b["name"] for b in blocks)]
    return {"tools": tools, "tool_choice": {"type": "none"}} if tools else {}


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    tool: dict[str, Any] = {"name": function["name"]}
    if "description" in function:
        tool["description"] = function["description"]
    tool["input_schema"] = {"type": "object", **function["parameters"]}
    return {**tool, "strict": True} if function.get("strict") is True else tool


def _choice(offered: Offer) -> dict[str, Any] | None:
    if offered.forced:
        return {"type": "tool", "name": offered.forced}
    return {"type": "any" if offered.mode == "required" else offered.mode} if offered.mode else None


# --- the answer -------------------------------------------------------------------------------------------------


def _output(request: Mapping[str, Any], row: Channel, offered: Offer) -> dict[str, Any]:
    """Reasoning effort and format of the answer."""
    body = thinking(request, row, offered, max_tokens(request, row))
    config: dict[str, Any] = {}
    if wanted := effort(request, row):
        config["effort"] = wanted
    form = _form(request, offered)
    if _is_enforced(form, row):
        config["format"] = {"type": "json_schema", "schema": form.get("schema")}
    return {**body, "output_config": config} if config else body


def _sampling(request: Mapping[str, Any], *, thinks: bool) -> dict[str, Any]:
    """Sampling settings that differ from the defaults: newer models refuse others. A temperature is at most 1 here."""
    body: dict[str, Any] = {}
    temperature, top_p = request.get("temperature", 1), request.get("top_p", 1)
    if temperature < 1 and not thinks:
        body["temperature"] = temperature
    elif top_p < 1 and (top_p >= _LEAST_TOP_P or not thinks):
        # Many models accept only one of the two.
        body["top_p"] = top_p
    if request.get("top_k") is not None and not thinks:
        body["top_k"] = request["top_k"]
    stop = request.get("stop")
    stops = stop if isinstance(stop, list) else [stop]
    if notes := [text for text in stops if isinstance(text, str) and text.strip()]:
        body["stop_sequences"] = notes
    return body


def _metadata(request: Mapping[str, Any]) -> dict[str, Any]:
    user = request.get("safety_identifier") or request.get("user")
    return {"metadata": {"user_id": user}} if user else {}
