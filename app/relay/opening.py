"""From a validated request to a turn: what was said before, what is said now, and whether the two fit together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import orjson

from app import ids
from app.echo import ENCRYPTED, Echo
from app.errors import InvalidRequest, item_not_found, missing_parameter, unknown_model
from app.records import Chain, Link, Token
from app.relay.calls import ANSWERS, CALLS
from app.relay.context import Contexts, items_of
from app.relay.ports import Store
from app.turn import Item, Turn


def open_turn(store: Store, contexts: Contexts, token: Token, request: Mapping[str, Any], now: int) -> Turn:
    """The turn that a request asks for. Raises InvalidRequest and NotFound, as the contract says them."""
    turn = open_history(store, contexts, token, request, now)
    shown = contexts.shown(turn)
    _check_calls(shown.chain, shown.input)
    check_model(token, turn.model)
    return turn


def open_history(store: Store, contexts: Contexts, token: Token, request: Mapping[str, Any], now: int) -> Turn:
    """The same for a context that is only to be compacted: calls may still wait for their outputs there."""
    keeps = bool(request.get("store", True)) and token.keeps
    if request.get("background") and not keeps:
        raise InvalidRequest("background can only be used when `store` is true", param="background")
    chain = _context(contexts, token.owner, request)
    items = contexts.expand(token.owner, _new_items(store, token.owner, chain, request.get("input", ())))
    if chain.conversation and not chain.links and not items and "prompt" not in request:
        raise missing_parameter("input")
    return Turn(
        id=ids.new("resp"),
        owner=token.owner,
        created_at=now,
        model=request["model"],
        request=request,
        input=items,
        echo=Echo.of(request, store=keeps),
        chain=chain,
        store=keeps,
        stream=bool(request.get("stream")),
        seal=contexts.sealer(token.owner) if ENCRYPTED in request.get("include", ()) else None,
    )


def _context(contexts: Contexts, owner: str, request: Mapping[str, Any]) -> Chain:
    previous, conversation = request.get("previous_response_id"), request.get("conversation")
    if previous:
        return contexts.load(owner, previous)
    if conversation:
        return contexts.converse(owner, conversation["id"] if isinstance(conversation, Mapping) else conversation)
    return Chain()


def check_model(token: Token, model: str) -> None:
    """A model that the token may not use gets the same answer as an unknown one."""
    if not may_use(token, model):
        raise unknown_model(model)


def may_use(token: Token, model: str) -> bool:
    return not token.models or any(fnmatchcase(model, allowed) for allowed in token.models)


# --- items ------------------------------------------------------------------------------------------------------


def _new_items(store: Store, owner: str, chain: Chain, items: Sequence[Item]) -> list[Item]:
    """The items with references resolved, without those that the context holds already."""
    resolved = resolve(store, owner, items)
    if not chain.links:
        return resolved
    # Upstreams that count their calls give the same id in every turn: what answers a waiting call is new.
    waiting = _waiting(chain)
    return [
        item
        for item in resolved
        if (item.get("type") in CALLS and item.get("call_id") in waiting) or not _is_known(chain, item)
    ]


def resolve(store: Store, owner: str, items: Sequence[Item]) -> list[Item]:
    """The items that references stand for. Raises NotFound."""
    wanted = [item["id"] for item in items if item.get("type") == "item_reference"]
    if not wanted:
        return list(items)
    found = store.items(owner, wanted)
    for item_id in wanted:
        if item_id not in found:
            raise item_not_found(item_id)
    return [dict(found[item["id"]]) if item.get("type") == "item_reference" else item for item in items]


def _is_known(chain: Chain, item: Item) -> bool:
    """Whether the context holds this item: the same id, or the same kind with the same call id."""
    item_id, call_id, kind = item.get("id"), item.get("call_id"), item.get("type")
    return (isinstance(item_id, str) and any(known.get("id") == item_id for known in _mentioning(chain, item_id))) or (
        isinstance(call_id, str)
        and any(known.get("type") == kind and known.get("call_id") == call_id for known in _mentioning(chain, call_id))
    )


def _mentioning(chain: Chain, text: str) -> Iterable[Item]:
    """Items of the arrays in which a text occurs: most arrays need not be parsed to be ruled out."""
    needle = orjson.dumps(text)[1:-1]
    for link in chain.links:
        for array in (link.input, link.output):
            if needle in array:
                yield from orjson.loads(array)


# --- calls and their outputs ------------------------------------------------------------------------------------


def _check_calls(chain: Chain, items: Sequence[Item]) -> None:
    """Every call needs its output and every output its call, before an upstream is asked.

    Earlier turns were checked when they were made, so only the newest output can hold calls that still wait. Not so in
    a conversation: its turns may have been made at once, its items added or removed one by one.
    """
    if chain.conversation:
        chain, items = Chain(), [*_halves(chain), *items]
    waiting = {call["call_id"]: call["type"] for call in _calls(unanswered(chain.tip))}
    answered = set()
    for item in items:
        call_id = item.get("call_id")
        if not isinstance(call_id, str):
            continue
        if item.get("type") in ANSWERS:
            waiting[call_id] = item["type"]
            answered.discard(call_id)
        call_type = CALLS.get(item.get("type", ""))
        if call_type is None:
            continue
        if waiting.get(call_id) != call_type and not _called(chain, call_type, call_id):
            raise InvalidRequest(
                f"No tool call found for {call_type.replace('_', ' ')} output with call_id {call_id}.", param="input"
            )
        answered.add(call_id)
    for call_id, call_type in waiting.items():
        if call_id not in answered:
            raise InvalidRequest(f"No tool output found for {call_type.replace('_', ' ')} {call_id}.", param="input")


def unanswered(link: Link | None) -> list[Item]:
    """Calls in a response's output that it does not answer itself; an unfinished one is no call."""
    if link is None or b'"call_id"' not in link.output:
        return []
    items = orjson.loads(link.output)
    answered = {item.get("call_id") for item in items if item.get("type") in CALLS}
    return [
        call
        for call in _calls(items)
        if call["call_id"] not in answered and not (link.status == "incomplete" and call.get("status") == "incomplete")
    ]


def _waiting(chain: Chain) -> set[str]:
    """Ids of the calls that still wait for their outputs."""
    if not chain.conversation:
        return {call["call_id"] for call in unanswered(chain.tip)}
    waiting: set[str] = set()
    for item in _halves(chain):
        if item.get("type") in ANSWERS:
            waiting.add(str(item["call_id"]))
        else:
            waiting.discard(str(item["call_id"]))
    return waiting


def _halves(chain: Chain) -> Iterable[Item]:
    """All calls and outputs of a conversation."""
    for link in chain.links:
        if b'"call_id"' in link.input or b'"call_id"' in link.output:
            yield from (item for item in items_of(link) if "call_id" in item)


def _calls(items: Iterable[Item]) -> list[Item]:
    return [item for item in items if item.get("type") in ANSWERS and isinstance(item.get("call_id"), str)]


def _called(chain: Chain, call_type: str, call_id: str) -> bool:
    return any(
        known.get("type") == call_type and known.get("call_id") == call_id for known in _mentioning(chain, call_id)
    )
