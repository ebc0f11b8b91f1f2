"""Builds a turn from a validated request: the history, the new input, and a check that they fit together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from app import ids
from app.contract.items import (
    Item,
    answered_call_id,
    answers,
    call_ids,
    call_of,
    derive_item_id,
    is_call,
    is_output,
    is_waiting,
)
from app.contract.items import unanswered as unanswered_calls
from app.contract.records import Chain, Link, Token, UpstreamResponse
from app.contract.replay import abandoned
from app.contract.response import ENCRYPTED, Echo
from app.contract.turn import Turn
from app.errors import InvalidRequest, item_not_found, missing_parameter, unknown_model
from app.formats import names_its_reader
from app.relay.compaction.context import Contexts, given_items, items_of
from app.sealing import is_sealed
from app.store.store import Store


def build_turn(store: Store, contexts: Contexts, token: Token, request: Mapping[str, Any], now: int) -> Turn:
    """The turn of a request. Raises InvalidRequest and NotFound in the contract's words."""
    turn = build_history(store, contexts, token, request, now)
    try:
        _check_turn(contexts, turn)
    except InvalidRequest:
        # A client that sends everything itself cannot say of every call that it was cut off. The store knows it.
        turn = _with_cut_calls(store, turn)
        _check_turn(contexts, turn)
    check_model(token, turn.model)
    return turn


def _check_turn(contexts: Contexts, turn: Turn) -> None:
    shown = contexts.shown(turn)
    _check_calls(shown.chain, shown.input)


def _with_cut_calls(store: Store, turn: Turn) -> Turn:
    """The turn, with unanswered calls of its input marked that the store knows from a response that was cut off."""
    waiting = {call["id"]: call for call in unanswered_calls(turn.input) if isinstance(call.get("id"), str)}
    cut = {
        id(waiting[item_id])
        for item_id, stored in store.items.in_responses(turn.owner, list(waiting)).items()
        if stored.item.get("status") == "incomplete" or _was_cut(store, turn.owner, stored.response_id)
    }
    return replace(turn, input=[{**item, "status": "incomplete"} if id(item) in cut else item for item in turn.input])


def _was_cut(store: Store, owner: str, response_id: str) -> bool:
    stored = store.responses.read(owner, response_id)
    return stored is not None and stored.status == "incomplete"


def build_history(store: Store, contexts: Contexts, token: Token, request: Mapping[str, Any], now: int) -> Turn:
    """The turn of a request whose calls may still wait for their outputs, as before a compaction or a count."""
    stores = bool(request.get("store", True)) and token.stores
    if request.get("background") and not stores:
        raise InvalidRequest("background can only be used when `store` is true", param="background")
    chain = _context(contexts, token.owner, request)
    items = contexts.expand(token.owner, _new_items(store, token.owner, chain, request.get("input", ())))
    if chain.conversation and not chain.links and not items and "prompt" not in request:
        raise missing_parameter("input")
    response_id = ids.new("resp")
    return Turn(
        id=response_id,
        owner=token.owner,
        created_at=now,
        model=request["model"],
        request=request,
        input=_named(items, response_id) if chain.conversation else items,
        echo=Echo.of(request, store=stores),
        chain=chain,
        comparison=_comparison(store, token.owner, request),
        store=stores,
        stream=bool(request.get("stream")),
        seal=contexts.sealer(token.owner) if ENCRYPTED in request.get("include", ()) else None,
    )


def _comparison(store: Store, owner: str, request: Mapping[str, Any]) -> UpstreamResponse | None:
    """The response that `prompt_cache_options` names. It is a wish: an unknown one is left out, not refused."""
    options = request.get("prompt_cache_options")
    named = options.get("comparison_response_id") if isinstance(options, Mapping) else None
    return store.responses.upstream(owner, named) if isinstance(named, str) else None


def _context(contexts: Contexts, owner: str, request: Mapping[str, Any]) -> Chain:
    previous, conversation = request.get("previous_response_id"), request.get("conversation")
    if previous:
        return contexts.load(owner, previous)
    if conversation:
        return contexts.load_conversation(
            owner, conversation["id"] if isinstance(conversation, Mapping) else conversation
        )
    return Chain()


def _named(items: Sequence[Item], response_id: str) -> list[Item]:
    """The items with the ids that their conversation will store. The upstream then gets them in this turn as in all
    later ones, and finds them in its cache."""
    return [
        item if item.get("id") else {**item, "id": derive_item_id(str(item.get("type")), response_id, position)}
        for position, item in enumerate(items)
    ]


def check_model(token: Token, model: str) -> None:
    """A model that the token may not use gets the same answer as an unknown one."""
    if not token.may_use(model):
        raise unknown_model(model)


# --- items ------------------------------------------------------------------------------------------------------


def _new_items(store: Store, owner: str, chain: Chain, items: Sequence[Item]) -> list[Item]:
    """The new items: references resolved, and items that the context already holds left out."""
    once = list(_without_repeated_references(items))
    resolved = _with_outputs(store, owner, resolve(store, owner, once))
    if not chain.links:
        return _with_secrets(store, owner, resolved)
    # Some upstreams number their calls from the start in every turn, so an output for a waiting call is always new.
    open_calls = _unanswered_ids(chain)
    return [
        item
        for item in resolved
        if (is_output(item) and answered_call_id(item) in open_calls) or not _is_known(chain, item)
    ]


def resolve(store: Store, owner: str, items: Sequence[Item]) -> list[Item]:
    """The items with references replaced by what they refer to. Raises NotFound."""
    referenced = [item["id"] for item in items if item.get("type") == "item_reference"]
    if not referenced:
        return list(items)
    found = store.items.find(owner, referenced)
    for item_id in referenced:
        if item_id not in found:
            raise item_not_found(item_id)
    return [dict(found[item["id"]]) if item.get("type") == "item_reference" else item for item in items]


def _without_repeated_references(items: Sequence[Item]) -> Iterator[Item]:
    """The items without references to what is among them already."""
    given = {item.get("id") for item in items if item.get("type") != "item_reference"}
    for item in items:
        if item.get("type") != "item_reference":
            yield item
        elif item["id"] not in given:
            given.add(item["id"])
            yield item


def _with_outputs(store: Store, owner: str, items: list[Item]) -> list[Item]:
    """The items with what the store holds of calls whose outputs the client left out, because they can be large."""
    if "mcp_call" not in [item.get("type") for item in items]:
        return items
    lacking = [item["id"] for item in items if _lacks_output(item)]
    found = store.items.find(owner, lacking) if lacking else {}
    stored = [found.get(item["id"]) if _lacks_output(item) else None for item in items]
    return [item if known is None else {**known, **_given(item)} for item, known in zip(items, stored, strict=True)]


def _lacks_output(item: Item) -> bool:
    without = item.get("output") is None and not item.get("error")
    return item.get("type") == "mcp_call" and without and isinstance(item.get("id"), str)


def _given(call: Item) -> Item:
    """What the client says of its call: nulls stand for what it left out."""
    return {name: value for name, value in call.items() if value is not None and name != "status"}


def _with_secrets(store: Store, owner: str, items: list[Item]) -> list[Item]:
    """The items with what the store holds of their reasoning: a client that does not include encrypted content sends
    its reasoning back without. The steps since the last user message need it, and those before them stay as the
    upstream has them in its cache."""
    bare = [item["id"] for item in items if _lacks_secret(item)]
    if not bare:
        return items
    found = store.items.in_responses(owner, bare)
    secrets = {item_id: stored.item.get("encrypted_content") for item_id, stored in found.items()}
    return [
        {**item, "encrypted_content": secrets[item["id"]]}
        if _lacks_secret(item) and _may_return(secrets.get(item["id"]))
        else item
        for item in items
    ]


def _may_return(secret: object) -> bool:
    """Whether every upstream may get an item with this secret: those that cannot read it are sent none."""
    return is_sealed(secret) or names_its_reader(secret)


def _lacks_secret(item: Item) -> bool:
    return item.get("type") == "reasoning" and isinstance(item.get("id"), str) and not item.get("encrypted_content")


def _is_known(chain: Chain, item: Item) -> bool:
    """Whether the context holds this item: the same id, or the same type and call id."""
    item_id, call_id, kind = item.get("id"), item.get("call_id"), item.get("type")
    return (
        isinstance(item_id, str) and any(known.get("id") == item_id for known in _items_containing(chain, item_id))
    ) or (
        isinstance(call_id, str)
        and any(
            known.get("type") == kind and known.get("call_id") == call_id for known in _items_containing(chain, call_id)
        )
    )


def _items_containing(chain: Chain, text: str) -> Iterable[Item]:
    """Items from the arrays that contain this text. Most arrays are ruled out without parsing."""
    needle = orjson.dumps(text)[1:-1]
    for link in chain.links:
        for array in (link.input, link.output):
            if needle in array:
                yield from orjson.loads(array)


# --- calls and their outputs ------------------------------------------------------------------------------------


def _check_calls(chain: Chain, items: Sequence[Item]) -> None:
    """Checks before an exchange that every call has its output and every output its call.

    Earlier turns of a chain were checked already, so only the newest output can hold open calls. A conversation is
    checked whole: its turns may run at once, and its items can be added and removed one by one. Calls of a response
    that was cut off, and cut calls in a client's history, may stay unanswered: the client cannot know that they count.
    """
    calls: dict[str, Item] = {}
    open_calls: dict[str, Item] = {}
    earlier = _calls_and_outputs(chain) if chain.conversation else _unanswered_at_tip(chain)
    context = [*earlier, *((item, True) for item in items)]
    cut = {id(call) for call in abandoned([item for item, _ in context])}
    if chain.conversation:
        chain = Chain()
    for item, needs_output in context:
        if is_waiting(item):
            calls |= dict.fromkeys(call_ids(item), item)
            if needs_output and id(item) not in cut:
                open_calls[item["call_id"]] = item
        elif is_output(item):
            call = calls.get(answered_call_id(item) or "", item)
            if not answers(item, call):
                _check_is_answer(chain, item)
            open_calls.pop(call.get("call_id", ""), None)
    for call_id, call in open_calls.items():
        raise InvalidRequest(f"No tool output found for {_in_words(call['type'])} {call_id}.", param="input")


def _check_is_answer(chain: Chain, output: Item) -> None:
    """Raises InvalidRequest if the context holds no call with this output's `call_id`."""
    call_id = output.get("call_id")
    if isinstance(call_id, str) and not any(answers(output, known) for known in _items_containing(chain, call_id)):
        sentence = f"No tool call found for {_in_words(call_of(output['type']))} output with call_id {call_id}."
        raise InvalidRequest(sentence, param="input")


def _in_words(item_type: str) -> str:
    return item_type.replace("_", " ")


def unanswered(link: Link | None) -> list[Item]:
    """Calls in a response's output without an output in it. An unfinished call does not count."""
    if link is None or b'"call_id"' not in link.output:
        return []
    return unanswered_calls([*given_items(link.output, link.status)])


def _unanswered_ids(chain: Chain) -> set[str]:
    """Ids of the calls that wait for their outputs."""
    if not chain.conversation:
        return {call_id for call in unanswered(chain.tip) for call_id in call_ids(call)}
    open_calls: set[str] = set()
    for item, _ in _calls_and_outputs(chain):
        if is_call(item):
            open_calls.update(call_ids(item))
        elif call_id := answered_call_id(item):
            open_calls.discard(call_id)
    return open_calls


def _unanswered_at_tip(chain: Chain) -> Iterable[tuple[Item, bool]]:
    return ((call, _needs_outputs(chain.tip)) for call in unanswered(chain.tip))


def _calls_and_outputs(chain: Chain) -> Iterable[tuple[Item, bool]]:
    """Every call and output of a conversation, each with whether a call of its response needs an output."""
    for link in chain.links:
        if b'"call_id"' in link.input or b'"call_id"' in link.output:
            needed = _needs_outputs(link)
            yield from ((item, needed) for item in items_of(link) if is_waiting(item) or is_output(item))


def _needs_outputs(link: Link | None) -> bool:
    """Whether the client has to answer the calls of a response: it need not if the response was cut off."""
    return link is not None and link.status != "incomplete"
