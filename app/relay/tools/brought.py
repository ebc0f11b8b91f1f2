"""Tools that items of a turn's context bring, beside the request's `tools`. Codex sends all of its tools in this way.

An item stays in the context of later turns, and its tools with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import is_
from typing import Any

import orjson

from app.contract.items import TOOLS, Item, is_output, offers_tools
from app.contract.records import Link
from app.contract.turn import Turn

Tool = Mapping[str, Any]

#: Items by which a client brings tools.
_ADDED, _FOUND = "additional_tools", "tool_search_output"
_KINDS = (_ADDED, _FOUND)
_MARKS = tuple(f'"{kind}"'.encode() for kind in _KINDS)


@dataclass(frozen=True, slots=True)
class BroughtTool:
    tool: Tool
    place: str | None
    """The parameter that an error names, such as `input[0].tools[1]`; None for a tool that the history brings."""


def brought_tools(turn: Turn) -> list[BroughtTool]:
    """The tools in the order of the context. Most links are ruled out unread."""
    arrays = (array for link in turn.chain.links if _is_marked(link) for array in (link.input, link.output))
    earlier = (item for array in arrays if _may_bring(array) for item in orjson.loads(array))
    given = turn.input if not {item.get("type") for item in turn.input}.isdisjoint(_KINDS) else ()
    return [
        *(BroughtTool(tool, None) for item in earlier for tool in _tools_of(item)),
        *_brought_now(given, turn.request.get("input")),
    ]


def _brought_now(items: Iterable[Item], written: object) -> Iterator[BroughtTool]:
    """`written`: the input as the client wrote it."""
    places = written if isinstance(written, list) else []
    for item in items:
        tools = _tools_of(item)
        place = f"input[{places.index(item)}]" if tools and item in places else None
        for number, tool in enumerate(tools):
            yield BroughtTool(tool, f"{place}.tools[{number}]" if place else "input")


def _tools_of(item: Item) -> Sequence[Tool]:
    """Those of a search that an upstream has run are the upstream's."""
    tools = item.get("tools")
    is_clients = item.get("type") == _ADDED or (item.get("type") == _FOUND and is_output(item))
    return tools if is_clients and isinstance(tools, list) else ()


def _is_marked(link: Link) -> bool:
    return bool(link.opaque & TOOLS)


def _may_bring(array: bytes) -> bool:
    return any(mark in array for mark in _MARKS)


# --- without some of them -----------------------------------------------------------------------------------------

#: The tools of an item → those that stay in it.
Leaves = Callable[[Sequence[Tool]], Sequence[Tool]]


def without_brought(turn: Turn, leaves: Leaves) -> Turn:
    """The turn with fewer tools in the items of its context; the same turn if all stay."""
    if any(map(_is_marked, turn.chain.links)):
        links = [_link(link, leaves) for link in turn.chain.links]
        if not same(links, turn.chain.links):
            turn = replace(turn, chain=replace(turn.chain, links=tuple(links)))
    given = [*_items(turn.input, leaves)] if any(map(offers_tools, turn.input)) else turn.input
    return turn if same(given, turn.input) else replace(turn, input=given)


def _link(link: Link, leaves: Leaves) -> Link:
    if not _is_marked(link):
        return link
    given, answered = _array(link.input, leaves), _array(link.output, leaves)
    return link if given is link.input and answered is link.output else link._replace(input=given, output=answered)


def _array(array: bytes, leaves: Leaves) -> bytes:
    if not _may_bring(array):
        return array
    items = orjson.loads(array)
    left = [*_items(items, leaves)]
    return array if same(left, items) else orjson.dumps(left)


def _items(items: Iterable[Item], leaves: Leaves) -> Iterator[Item]:
    """An item that brings no other tools is left out, unless it is the output of a call."""
    for item in items:
        tools = item.get("tools")
        if not offers_tools(item) or not isinstance(tools, list):
            yield item
            continue
        left = leaves(tools)
        if same(left, tools):
            yield item
        elif left or is_output(item):
            yield {**item, "tools": left}


def same(left: Sequence[object], whole: Sequence[object]) -> bool:
    return len(left) == len(whole) and all(map(is_, left, whole))
