"""A turn's context with calls of tools as one channel takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from app.contract.channel import Channel
from app.contract.items import TOOLS, Item
from app.contract.replay import replayed
from app.contract.tool_history import (
    CallResult,
    ToolItems,
    has_tool_items,
    is_gateways,
    is_hosted_call,
    may_have_tool_items,
)
from app.contract.tools import has_address
from app.contract.turn import Turn
from app.relay.tools.brought import same, without_brought

#: The hidden results of hosted calls, by the ids of their items.
ReadResults = Callable[[Sequence[str]], Mapping[str, bytes]]

_NATIVE = "native"
#: What the row says when an item's servers are left out.
_DROPPED = "drop mcp"


def for_channel(turn: Turn, channel: Channel, results: ReadResults) -> Turn:
    """The turn as this channel takes its calls of tools; the same turn if there are none."""
    turn = _without_servers(turn, channel)
    places = [*_places(turn)]
    if not places:
        return turn
    turn = _with_results(turn, places, results)
    served = {label for label, _ in turn.tool_history.names}

    own = [_may_be_own(place, turn, channel) for place in places]

    def keeps(number: int, item: Item) -> bool:
        return own[number] and not is_gateways(item) and item.get("server_label") not in served

    items = ToolItems([place.items for place in places], turn.tool_history, keeps)
    return _with(turn, places, items.as_functions())


def _may_be_own(place: _Place, turn: Turn, channel: Channel) -> bool:
    """Whether items of this array may go back to the channel's upstream as it made them. It refuses a call without the
    reasoning that led to it. Nothing shows who made what a client brings."""
    if channel.mcp != _NATIVE or (place.position >= 0 and turn.chain.links[place.position].family != channel.family):
        return False
    return channel.encrypted_reasoning or "reasoning" not in [item.get("type") for item in place.items]


# --- where the items are ------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """An array of the context that may hold items of tools."""

    position: int
    """Of its link; -1 for the turn's own input."""
    member: str
    """`input` or `output`."""
    items: Sequence[Item]


def _places(turn: Turn) -> Iterator[_Place]:
    """The arrays, oldest first. Only links that say so hold what not every upstream takes."""
    for position, link in enumerate(turn.chain.links):
        if not link.opaque & TOOLS:
            continue
        if may_have_tool_items(link.input):
            yield _Place(position, "input", orjson.loads(link.input))
        # In a round of this turn there may also be calls that nothing ran.
        if link.id == turn.id or may_have_tool_items(link.output):
            yield _Place(position, "output", replayed(orjson.loads(link.output), link.status))
    if has_tool_items(turn.input):
        yield _Place(-1, "input", turn.input)


def _with(turn: Turn, places: Sequence[_Place], written: Sequence[Sequence[Item]]) -> Turn:
    """The turn with these items at these places."""
    links = list(turn.chain.links)
    given = turn.input
    for place, items in zip(places, written, strict=True):
        if place.position < 0:
            given = items
        else:
            link, array = links[place.position], orjson.dumps(list(items))
            is_input = place.member == "input"
            links[place.position] = link._replace(input=array) if is_input else link._replace(output=array)
    return replace(turn, chain=replace(turn.chain, links=tuple(links)), input=given)


def _with_results(turn: Turn, places: Sequence[_Place], results: ReadResults) -> Turn:
    """The turn with the hidden results of its hosted calls."""
    known = turn.tool_history.results
    calls = (item["id"] for place in places for item in place.items if is_hosted_call(item))
    hidden = [item_id for item_id in calls if item_id not in known]
    if not hidden:
        return turn
    found = {item_id: CallResult.of(stored) for item_id, stored in results(hidden).items()}
    return replace(turn, tool_history=replace(turn.tool_history, results={**found, **known}))


def _without_servers(turn: Turn, channel: Channel) -> Turn:
    """The turn without servers that the channel's upstream cannot call, also those that namespaces and items of its
    context bring. What is stored of such items has no credentials."""
    tools = turn.request.get("tools", ())
    left = [*_callable_tools(tools, channel)]
    if not same(left, tools):
        turn = replace(turn, request={**turn.request, "tools": left})
    taken = without_brought(turn, lambda tools: [*_callable_tools(tools, channel)])
    return turn if taken is turn else replace(taken, changes=(*turn.changes, _DROPPED))


def _callable_tools(tools: Iterable[Mapping[str, Any]], channel: Channel) -> Iterator[Mapping[str, Any]]:
    for tool in tools:
        if tool.get("type") == "mcp":
            if channel.mcp == _NATIVE and has_address(tool):
                yield tool
        elif isinstance(inner := tool.get("tools"), list):
            left = [*_callable_tools(inner, channel)]
            yield tool if same(left, inner) else {**tool, "tools": left}
        else:
            yield tool
