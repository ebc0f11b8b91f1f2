"""The run that fits a request: whether its history is compacted, whether a channel answers, and who runs its tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import time
from typing import Any

from app.contract.items import TRIGGER, Item
from app.contract.records import Token
from app.contract.turn import Turn
from app.errors import InvalidRequest
from app.relay.recorder import Recorder
from app.relay.request_context import RequestContext
from app.relay.tools.approvals import answers, served
from app.relay.tools.brought import brought_tools
from app.relay.tools.run import CompactedToolRun, CompactionToolRun, ToolRun, WindowToolRun
from app.relay.tools.toolset import NamedServer, servers_named
from app.relay.turn_builder import build_history, build_turn, check_model
from app.relay.turn_run import CompactedRun, CompactionRun, TurnParts, TurnRun, WindowRun


def turn_of(parts: TurnParts, token: Token, request: Mapping[str, Any]) -> Turn:
    """The turn of a request. Raises InvalidRequest and NotFound."""
    if not _ends_with_trigger(request):
        return build_turn(parts.store, parts.contexts, token, request, int(time()))
    turn = turn_to_compact(parts, token, {**request, "input": request["input"][:-1]})
    return replace(turn, request=request)


def turn_to_compact(parts: TurnParts, token: Token, request: Mapping[str, Any]) -> Turn:
    """A turn whose context is compacted and not answered. Raises as `turn_of` does."""
    turn = build_history(parts.store, parts.contexts, token, request, int(time()))
    check_model(token, turn.model)
    if not turn.input and not turn.chain.links:
        raise InvalidRequest("There is nothing to compact.", code="empty_array", param="input")
    return turn


def run_of(
    parts: TurnParts, token: Token, turn: Turn, context: RequestContext, recorder: Recorder | None = None
) -> TurnRun:
    """The run that fits the turn's request. Raises InvalidRequest for tools that nothing can run."""
    servers = _servers_of(parts, token, turn)
    if _ends_with_trigger(turn.request):
        if servers:
            return CompactionToolRun(parts, token, turn, context, servers, recorder)
        return CompactionRun(parts, token, turn, context, recorder)
    if servers:
        return ToolRun(parts, token, turn, context, servers, recorder)
    served(answers(parts.store, turn), ())
    return TurnRun(parts, token, turn, context, recorder)


def run_of_request(parts: TurnParts, token: Token, request: Mapping[str, Any], context: RequestContext) -> TurnRun:
    """The run of a client's request. Raises as `turn_of` does."""
    return run_of(parts, token, turn_of(parts, token, request), context)


def compacted_run(parts: TurnParts, token: Token, request: Mapping[str, Any], context: RequestContext) -> TurnRun:
    """The run of a request whose history is compacted first. Raises as `turn_of` does."""
    turn = build_turn(parts.store, parts.contexts, token, request, int(time()))
    if servers := _servers_of(parts, token, turn):
        return CompactedToolRun(parts, token, turn, context, servers)
    served(answers(parts.store, turn), ())
    return CompactedRun(parts, token, turn, context)


def compaction_window(
    parts: TurnParts, token: Token, request: Mapping[str, Any], context: RequestContext
) -> dict[str, Any]:
    """OpenAI's compaction object: the user messages verbatim and one compaction item. Raises as `TurnRun.create`."""
    turn = turn_to_compact(parts, token, request)
    if servers := _servers_of(parts, token, turn):
        run: TurnRun = WindowToolRun(parts, token, turn, context, servers)
    else:
        run = WindowRun(parts, token, turn, context)
    response = run.create()
    return {
        "id": response["id"],
        "object": "response.compaction",
        "created_at": response["created_at"],
        "output": response["output"],
        "usage": response["usage"],
    }


def _servers_of(parts: TurnParts, token: Token, turn: Turn) -> Sequence[NamedServer]:
    """The tool servers that the gateway calls for the turn. Most turns name none."""
    table = parts.channels.table.tools
    brought = brought_tools(turn) if table else ()
    return servers_named(turn.request, table, token, brought) if brought or turn.request.get("tools") else ()


def _ends_with_trigger(request: Mapping[str, Any]) -> bool:
    items: Sequence[Item] = request.get("input") or []
    return bool(items) and items[-1].get("type") == TRIGGER
