"""Requests and answers of an upstream of the Responses API that takes functions only.

Custom tools and tools of namespaces become functions, as for a chat upstream, and so do their calls in the history.
Calls in the answer become what the client knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.contract.channel import Channel
from app.contract.events import ARGUMENT_EVENTS, ITEM_ADDED, ITEM_DONE
from app.contract.items import Item, prefix_of
from app.contract.replay import has_half_arguments
from app.contract.turn import Turn
from app.formats._conversation import as_functions
from app.formats._tool_call_stream import InputReader
from app.formats._toolbox import Offer, Toolbox, offer

Event = dict[str, Any]

_FUNCTION, _CUSTOM = "function_call", "custom_tool_call"
_ARGUMENTS, _INPUT = ARGUMENT_EVENTS[_FUNCTION][0], ARGUMENT_EVENTS[_CUSTOM][0]
#: What `include` may ask of an upstream without hosted tools.
_INCLUDED = ("reasoning.encrypted_content", "message.output_text.logprobs", "message.input_image.image_url")
#: Members that require tools.
_WITH_TOOLS = ("tools", "tool_choice", "parallel_tool_calls", "max_tool_calls")


# --- the request ------------------------------------------------------------------------------------------------


def write_functions(body: dict[str, Any], turn: Turn, row: Channel) -> None:
    """Replaces the tools of a request by functions. Raises InvalidRequest if `tool_choice` or the row forbids it."""
    toolbox = Toolbox.of(turn)
    offered = offer(turn, row, toolbox)
    if offered.functions:
        body["tools"] = [
            _tool({**function, **toolbox.marks.get(function["name"], {})}) for function in offered.functions
        ]
        body.pop("tool_choice", None)
        if choice := _choice(offered):
            body["tool_choice"] = choice
    else:
        for name in _WITH_TOOLS:
            body.pop(name, None)
    if "include" in body and not (included := [value for value in body["include"] if value in _INCLUDED]):
        del body["include"]
    elif "include" in body:
        body["include"] = included


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    # A function without `strict` is strict here, unlike in a chat.
    return {"type": "function", "strict": False, **function}


def _choice(offered: Offer) -> Any:
    return {"type": "function", "name": offered.forced} if offered.forced else offered.mode


def history(items: Iterable[Item], turn: Turn) -> Iterator[Item]:
    """The items with all calls as calls of functions. Items that only bring tools are left out."""
    return as_functions(items, Toolbox.of(turn))


# --- the answer -------------------------------------------------------------------------------------------------


def restored(item: Item, toolbox: Toolbox) -> Item:
    """An item of the answer as the client knows it."""
    if item.get("type") != _FUNCTION or not isinstance(item.get("name"), str):
        return item
    tool = toolbox.called(item["name"])
    named = {"name": tool.name, **({"namespace": tool.namespace} if tool.namespace else {})}
    if tool.call != _CUSTOM:
        return {**item, **named}
    others = {name: value for name, value in item.items() if name not in ("arguments", "status")}
    cut = {"status": "incomplete"} if _is_cut(item) else {}
    return {**others, **named, **_id(item), **cut, "type": _CUSTOM, "input": _input_in(item.get("arguments"))}


def _is_cut(item: Item) -> bool:
    """Whether the call broke off. The input alone would not show it."""
    arguments = item.get("arguments")
    begun = isinstance(arguments, str) and arguments.lstrip().startswith("{")
    return item.get("status") == "incomplete" or (begun and has_half_arguments(item))


def _id(item: Item) -> dict[str, str]:
    item_id = item.get("id")
    return {"id": custom_id(item_id)} if isinstance(item_id, str) and item_id else {}


def custom_id(item_id: str) -> str:
    """The id of a function call as that of a custom call, the same in every event."""
    return f"{prefix_of(_CUSTOM)}_{item_id.removeprefix(prefix_of(_FUNCTION)).lstrip('_')}"


def _input_in(arguments: object) -> str:
    reader = InputReader()
    return reader.feed(arguments) + reader.rest() if isinstance(arguments, str) else ""


class Restorer:
    """Restores the events of one stream. It changes items and the arguments of custom tools."""

    def __init__(self, turn: Turn) -> None:
        self._toolbox = Toolbox.of(turn)
        self._readers: dict[object, InputReader] = {}
        """By the upstream's id of a custom tool's call, or its place."""

    def event(self, event: Event) -> Event | None:
        """The event for the client; None for one that says nothing."""
        kind = event["type"]
        if kind in (ITEM_ADDED, ITEM_DONE) and isinstance(event.get("item"), dict):
            return {**event, "item": self._item(event)}
        family, _, step = kind.rpartition(".")
        if family != _ARGUMENTS or (reader := self._reader(event)) is None:
            return self._ending(event)
        event = {**event, "type": f"{_INPUT}.{step}"}
        if isinstance(event.get("item_id"), str):
            event["item_id"] = custom_id(event["item_id"])
        if step == "delta":
            text = reader.feed(str(event.get("delta") or ""))
            return {**event, "delta": text} if text else None
        arguments = event.pop("arguments", None)
        return {**event, "input": _input_in(arguments)}

    def output(self, items: Iterable[Item]) -> list[Item]:
        return [restored(item, self._toolbox) for item in items]

    def _item(self, event: Event) -> Item:
        item: Item = restored(event["item"], self._toolbox)
        if item is not event["item"] and item["type"] == _CUSTOM and event["type"] == ITEM_ADDED:
            for key in (event["item"].get("id"), event.get("output_index")):
                if key is not None:
                    self._readers[key] = InputReader()
        return item

    def _reader(self, event: Event) -> InputReader | None:
        key = event.get("item_id")
        return self._readers.get(key if key in self._readers else event.get("output_index"))

    def _ending(self, event: Event) -> Event:
        response = event.get("response")
        if not isinstance(response, dict) or not isinstance(response.get("output"), list):
            return event
        output = self.output(item for item in response["output"] if isinstance(item, dict))
        return {**event, "response": {**response, "output": output}}
