"""What the exchanges of one turn hand on to the next one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import is_

from app.contract.items import Item
from app.contract.tool_history import CallResult

#: Characters that remain of a result that was cut because the context was too long.
SHORT = 1000
#: The part that remains of the newest results, if nothing else can be cut.
_QUARTER = 4


@dataclass(frozen=True, slots=True)
class Round:
    """One exchange, or the calls that approvals released before the first one, as the next exchange's model reads it.

    The items are those of the response, so that the next turn finds the same history. An `mcp_call` and a mapped call
    become a function's call and its output once the channel is known: see `app.contract.tool_history`.
    """

    items: Sequence[Item]
    """The items of the answer in the model's order, each call of the gateway with its result. `refused` makes those of
    calls that get no item in the response."""
    family: str | None = None
    """The channel family that can read the opaque items; None if there are none."""
    results: Mapping[str, CallResult] = field(default_factory=dict)
    """What the items themselves do not say, by their ids: images, and what a mapped tool has found."""
    channel: str | None = None
    """The channel that answered."""


def refused(call: Item, words: str) -> list[Item]:
    """A call of a function that nothing ran, such as one above the limit, and the words that the model reads instead of
    a result."""
    named = {name: call[name] for name in ("type", "call_id", "name", "arguments")}
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": words, "status": "incomplete"}
    return [named, output]


# --- a context that is too long -----------------------------------------------------------------------------------


def with_cut_results(rounds: Sequence[Round]) -> list[Round] | None:
    """The rounds with shorter results: those of all rounds but the last, or else the last ones, of which a quarter
    remains. None if there is nothing to cut. The response keeps its items whole."""
    older = [_cut(one, lambda text: SHORT) for one in rounds[:-1]]
    if any(cut is not one for cut, one in zip(older, rounds, strict=False)):
        return [*older, *rounds[-1:]]
    newest = [_cut(one, lambda text: max(SHORT, len(text) // _QUARTER)) for one in rounds[-1:]]
    return [*older, *newest] if any(cut is not one for cut, one in zip(newest, rounds[-1:], strict=True)) else None


def _cut(one: Round, limit: Callable[[str], int]) -> Round:
    """The round with each result cut to its limit, without the images of those; the same round if all are short."""
    items = [_cut_item(item, limit) for item in one.items]
    results = {item_id: _cut_result(result, limit) for item_id, result in one.results.items()}
    same = all(map(is_, items, one.items)) and all(results[item_id] is one.results[item_id] for item_id in results)
    return one if same else replace(one, items=items, results=results)


def _cut_item(item: Item, limit: Callable[[str], int]) -> Item:
    output = item.get("output")
    if item.get("type") != "mcp_call" or not isinstance(output, str):
        return item
    text = _cut_text(output, limit)
    return item if text is output else {**item, "output": text}


def _cut_result(result: CallResult, limit: Callable[[str], int]) -> CallResult:
    text = None if result.text is None else _cut_text(result.text, limit)
    return result if text is result.text and not result.images else result._replace(text=text, images=())


def _cut_text(text: str, limit: Callable[[str], int]) -> str:
    kept = limit(text)
    # The note takes room as well.
    if len(text) <= 2 * SHORT:
        return text
    return f"{text[:kept]}\n[cut: the context was too long; {len(text) - kept} of {len(text)} characters left out]"
