"""What of an earlier answer may go to a model again: nothing that was cut off, and no reasoning that led to nothing.

Upstreams refuse half a call, and reasoning without the item that it led to. Both would end a conversation for good.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson

from app.contract.items import (
    CALL_TYPES,
    TYPES,
    Item,
    answered_call_id,
    call_ids,
    is_call,
    is_client_side,
    is_output,
    unanswered,
)

#: Statuses of a call, also of one that the upstream runs, that has ended. Most items have none.
_ENDED = frozenset({None, "completed", "failed"})
_OPEN = frozenset({"in_progress", "incomplete"})
#: Whitespace of JSON.
_BLANKS = " \t\r\n"


# --- one item ---------------------------------------------------------------------------------------------------


def has_half_arguments(item: Mapping[str, Any]) -> bool:
    """Whether this is a call whose arguments have to be a JSON object and are none."""
    known = TYPES.get(str(item.get("type")))
    return known is not None and known.json_arguments and not _is_object(item.get(known.arguments or ""))


def has_arguments(item: Mapping[str, Any]) -> bool:
    """Whether a call, or an event of one, has arguments."""
    arguments = item.get("arguments")
    return bool(arguments.strip(_BLANKS) if isinstance(arguments, str) else arguments)


def with_arguments(item: Item) -> Item:
    """A call without arguments has an empty object: clients and upstreams parse it. One that was cut off has none."""
    known = TYPES.get(str(item.get("type")))
    if known is None or not known.json_arguments or item.get("status") == "incomplete" or has_arguments(item):
        return item
    return {**item, "arguments": "{}"}


def may_be_cut(item: Mapping[str, Any]) -> bool:
    """Whether the end of an incomplete response may lie within this call. Only whole JSON shows that it does not: the
    item's own status says `completed` or `in_progress` either way."""
    known = TYPES.get(str(item.get("type")))
    if known is not None and known.json_arguments:
        return has_half_arguments(item)
    return item.get("type") in CALL_TYPES


def cut_off(item: Item) -> Item:
    """The item as one that was cut off. Custom calls have no status: such a call shows it by its response alone."""
    known = TYPES.get(str(item.get("type")))
    if known is not None and known.client_runs and known.arguments_events and not known.has_status:
        return item
    return {**item, "status": "incomplete"}


def ended(item: Item, status: str) -> Item:
    """The item of a response that has ended with this status. That and whole JSON decide, not the item's own status."""
    if str(item.get("status")) not in _OPEN:
        return item
    known = TYPES.get(str(item.get("type")))
    is_whole_call = known is not None and known.json_arguments and not has_half_arguments(item)
    settled = "incomplete" if status == "incomplete" and not is_whole_call else "completed"
    return item if settled == item["status"] else {**item, "status": settled}


def says_cut(call: Mapping[str, Any]) -> bool:
    """Whether the call's own status tells the client not to run it."""
    # A client may have given its item a status that is no word.
    return is_call(call) and str(call.get("status")) in _OPEN


def _is_object(text: object) -> bool:
    try:
        return isinstance(orjson.loads(text), dict) if isinstance(text, str) else False
    except ValueError:
        return False


def _is_unfinished(item: Item) -> bool:
    """Whether the item of an incomplete response is less than the model meant to write."""
    kind = item.get("type")
    if kind == "message":
        return not item.get("content")
    if kind == "reasoning" or is_client_side(item):
        return False
    return has_half_arguments(item) or item.get("status") not in _ENDED


# --- sequences --------------------------------------------------------------------------------------------------


def replayed(output: Sequence[Item], status: str) -> Sequence[Item]:
    """The items of a stored output that may go to a model again. `status` is that of the response."""
    if status == "incomplete":
        return without_orphans([item for item in output if not _is_unfinished(item)])
    if any(says_cut(item) and has_half_arguments(item) for item in output):
        return without_orphans([item for item in output if not (says_cut(item) and has_half_arguments(item))])
    return output


def without_orphans(items: Sequence[Item]) -> Sequence[Item]:
    """The items without reasoning that no item of the model follows."""
    remaining: list[Item] = []
    leads_on = False
    for item in reversed(items):
        if item.get("type") != "reasoning":
            leads_on = not is_client_side(item)
        elif not leads_on:
            continue
        remaining.append(item)
    return items if len(remaining) == len(items) else remaining[::-1]


def without_waiting(items: Sequence[Item]) -> Sequence[Item]:
    """The items without calls that wait for their outputs, and without the reasoning that led only to them."""
    waiting = {id(call) for call in unanswered(items)}
    return without_orphans([item for item in items if id(item) not in waiting]) if waiting else items


def abandoned(items: Sequence[Item]) -> list[Item]:
    """The calls of a client's own history that were cut off. Those that the client answered all the same are none."""
    answered = {answered_call_id(item) for item in items if is_output(item)}
    calls = [item for item in items if is_call(item) and answered.isdisjoint(call_ids(item))]
    # Only the arguments of these few have to be parsed.
    return [call for call in calls if says_cut(call) or has_half_arguments(call)]


def without_abandoned(items: Sequence[Item]) -> Sequence[Item]:
    """A client's history without the calls that were cut off, and without the reasoning that led only to them."""
    kinds = {item.get("type") for item in items}
    if not kinds.isdisjoint(CALL_TYPES):
        calls: Collection[int] = {id(call) for call in abandoned(items)}
        items = [item for item in items if id(item) not in calls] if calls else items
    return without_orphans(items) if "reasoning" in kinds else items
