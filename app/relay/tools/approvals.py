"""The client's answers to approval requests: found with their requests, and claimed, since each is answered once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import time

from app.contract.items import Item, gateway_item_id, is_client_side
from app.contract.records import ToolCall as Mark
from app.contract.tool_history import is_gateways
from app.contract.turn import Turn
from app.errors import InvalidRequest
from app.relay.tools.context_items import context_items
from app.relay.tools.model_calls import APPROVAL_REQUEST, Fate, ToolCall
from app.relay.tools.toolset import MCP_CALL, Toolset
from app.store.errors import AlreadyAnswered
from app.store.store import Store

APPROVAL_RESPONSE = "mcp_approval_response"


@dataclass(frozen=True, slots=True)
class Answered:
    """An approval request and the client's answer to it."""

    request: Item
    approve: bool


@dataclass(frozen=True, slots=True)
class Approvals:
    """The answers that are new in a turn."""

    calls: Sequence[ToolCall] = ()
    """The approved calls, in the order of the answers."""
    denied: Sequence[Item] = ()
    """The requests that the client has denied."""

    @staticmethod
    def of(answers: Sequence[Answered], toolset: Toolset, turn_id: str) -> Approvals:
        """Raises InvalidRequest, param `tools`, for an approved call of a tool that the request does not have."""
        approved = [answered.request for answered in answers if answered.approve]
        calls = [_call(request, toolset, turn_id, number) for number, request in enumerate(approved)]
        return Approvals(calls, [answered.request for answered in answers if not answered.approve])

    def claim(self, store: Store, turn: Turn) -> None:
        """Commits that the requests are answered now, before any call leaves. Raises InvalidRequest if one was answered
        before, unless nothing has come of that answer."""
        approved = [_mark(call, 0) for call in self.calls]
        denied = [Mark(one["id"], one["server_label"], one["name"], 0, one["id"]) for one in self.denied]
        if not (approved or denied):
            return
        with _answered_once():
            store.tool_calls.begin(turn.owner, turn.id, [*approved, *denied])
            if denied:
                ends = [replace(mark, milliseconds=0, size=0, error="denied") for mark in denied]
                store.tool_calls.end(turn.owner, turn.id, ends)


def start(store: Store, turn: Turn, calls: Sequence[ToolCall]) -> None:
    """Commits that approved calls leave now. Raises InvalidRequest if a later turn has answered one of the requests
    again, since none of these calls had left yet."""
    now = round(time() * 1000)
    with _answered_once():
        store.tool_calls.start(turn.owner, turn.id, [_mark(call, now) for call in calls])


@contextmanager
def _answered_once() -> Iterator[None]:
    try:
        yield
    except AlreadyAnswered as error:
        raise _refused(error.request_id, "was answered before") from None


def _mark(call: ToolCall, started_at: int) -> Mark:
    server, tool = call.offered.server.label, call.offered.tool
    repeatable = tool.read_only or tool.idempotent
    return Mark(call.item_id, server, tool.name, started_at, call.approval_request_id, repeatable=repeatable)


def answers(store: Store, turn: Turn) -> list[Answered]:
    """The client's new answers to approval requests, with the requests as the gateway made them. Raises InvalidRequest
    for an unknown request, and for one that has two answers here.

    An answer whose call stands in the context as well is history, and so is a denial that the model has gone on from.
    """
    given = _given(turn.input)
    if not given:
        return []
    ended = {call.get("approval_request_id") for call in context_items(turn, MCP_CALL)}
    new = {item["approval_request_id"]: item for item in given if item["approval_request_id"] not in ended}
    if len(new) < sum(item["approval_request_id"] not in ended for item in given):
        raise InvalidRequest("An approval request has two answers.", code="invalid_value", param="input")
    requests = _requests(store, turn, list(new))
    answered: list[Answered] = []
    for request_id, item in new.items():
        if request_id not in requests:
            raise _refused(request_id, "was not found")
        answered.append(Answered(requests[request_id], item["approve"] is True))
    return answered


def served(answered: Sequence[Answered], labels: Collection[str]) -> list[Answered]:
    """The answers for servers with these labels. The others are for the upstream that asked. Raises InvalidRequest,
    param `tools`, for an approved call of the gateway whose server is none of them."""
    for one in answered:
        if one.approve and is_gateways(one.request) and one.request["server_label"] not in labels:
            raise _not_offered(one.request)
    return [one for one in answered if one.request["server_label"] in labels]


def _given(items: Sequence[Item]) -> list[Item]:
    """The answers among the items of an input, without denials that are history."""
    if APPROVAL_RESPONSE not in [item.get("type") for item in items]:
        return []
    by_model = (at for at, item in enumerate(items) if not is_client_side(item) and item["type"] != APPROVAL_REQUEST)
    last = max(by_model, default=-1)
    answers = ((at, item) for at, item in enumerate(items) if item["type"] == APPROVAL_RESPONSE)
    return [item for at, item in answers if item["approve"] or at > last]


def _requests(store: Store, turn: Turn, wanted: Sequence[str]) -> dict[str, Item]:
    """The requests by their ids. The store's copy counts, since a client can change its own; those of unstored
    responses are in the context alone."""
    own = {item["id"]: item for item in context_items(turn, APPROVAL_REQUEST) if isinstance(item.get("id"), str)}
    stored = {item_id: dict(item) for item_id, item in store.items.find(turn.owner, wanted).items()}
    return own | {item_id: item for item_id, item in stored.items() if item.get("type") == APPROVAL_REQUEST}


def _call(request: Item, toolset: Toolset, turn_id: str, number: int) -> ToolCall:
    label, name = request["server_label"], request["name"]
    tool = toolset.find(label, name)
    if tool is None:
        raise _not_offered(request)
    return ToolCall(
        gateway_item_id(MCP_CALL, turn_id, number, 0),
        Fate.RUN,
        tool,
        arguments=request["arguments"],
        approval_request_id=request["id"],
    )


def _not_offered(request: Item) -> InvalidRequest:
    tool = f"'{request['name']}' of MCP server '{request['server_label']}'"
    sentence = f"The approved tool {tool} is not among the tools of this request."
    return InvalidRequest(sentence, code="invalid_value", param="tools")


def _refused(request_id: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Approval request with id '{request_id}' {why}.", code="invalid_value", param="input")
