"""A turn without the tool of a server that an upstream refuses: one bad schema must not cost every turn of a server."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from app.contract.turn import Turn
from app.errors import Refusal

#: Members that require tools.
_WITH_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
#: How refusals name the place of a tool: `tools[3].parameters`, `tools.3.custom`, `function_declarations[3]`.
_PLACE = re.compile(r"\b(?:tools|function_declarations|functionDeclarations)[\[.](\d{1,4})\b")
#: Words of a sentence about a tool. Only then a name that it quotes is that of the tool.
_ABOUT_TOOLS = re.compile(r"\b(?:tools?|functions?|schemas?|parameters)\b", re.IGNORECASE)


def without_refused(turn: Turn, refusal: Refusal, body: Mapping[str, Any]) -> tuple[Turn, frozenset[str]] | None:
    """The turn without the gateway's tools that a refusal names, and their names; None if it names none. `body`: the
    refused request, with its tools in the order in which they were sent. The client's own tools are never left out."""
    own = {*turn.tool_history.names.values(), *turn.tool_history.hosted.values()}
    named = frozenset(own & {*_named(refusal, body)} if own else ())
    tools = turn.request.get("tools", ())
    left = [tool for tool in tools if tool.get("type") != "function" or tool["name"] not in named]
    if len(left) == len(tools):
        return None
    request = {**turn.request, "tools": left}
    if not left:
        request = {name: value for name, value in turn.request.items() if name not in _WITH_TOOLS}
    choice = request.get("tool_choice")
    if isinstance(choice, Mapping) and choice.get("name") in named:
        request["tool_choice"] = "auto"
    elif isinstance(choice, Mapping) and isinstance(choice.get("tools"), list):
        request["tool_choice"] = {**choice, "tools": [one for one in choice["tools"] if one.get("name") not in named]}
    return replace(turn, request=request), named


def _named(refusal: Refusal, body: Mapping[str, Any]) -> Iterator[str]:
    sent = [_name(tool) for tool in body.get("tools") or () if isinstance(tool, Mapping)]
    words = " ".join((refusal.words, *refusal.params))
    places = [int(place) for place in _PLACE.findall(words)]
    if places:
        yield from (sent[place] for place in places if place < len(sent))
    elif _ABOUT_TOOLS.search(words):
        yield from (name for name in sent if re.search(rf"(['\"`]){re.escape(name)}\1", words))


def _name(tool: Mapping[str, Any]) -> str:
    function = tool.get("function")
    return str((function if isinstance(function, Mapping) else tool).get("name"))
