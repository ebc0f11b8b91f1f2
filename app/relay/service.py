"""What the gateway does with a request: it builds and runs a turn, or counts its tokens.

The relay gets its store and its channels from outside and imports no Flask, requests or peewee.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import time
from typing import Any

from app.contract.records import Token
from app.relay.request_context import RequestContext
from app.relay.token_counting import count, estimate
from app.relay.turn_builder import build_history, build_turn, check_model
from app.relay.turn_run import CompactedRun, TurnParts, WindowRun, last_channel, run_of_request, turn_to_compact
from app.request_watch import Watch
from app.schemas.create import CompactRequest


class Relay:
    """The turns of HTTP requests."""

    def __init__(self, parts: TurnParts) -> None:
        self._parts = parts

    def create(self, token: Token, request: Mapping[str, Any], context: RequestContext) -> dict[str, Any]:
        """The response object, stored. Raises GatewayError, or ClientGone when the client has left."""
        return run_of_request(self._parts, token, request, context).create()

    def stream(self, token: Token, request: Mapping[str, Any], context: RequestContext) -> Iterable[bytes]:
        """The events of a response, once an upstream has accepted. Raises as `create` does."""
        return run_of_request(self._parts, token, request, context).stream()

    # --- compaction

    def wants_answer(self, compact: CompactRequest) -> bool:
        """Whether an answer follows the compaction: by default to new input, else as the request's `answer` says."""
        answer = self._parts.compaction.settings(compact.request).answer
        return compact.has_new_input if answer is None else answer and bool(compact.request.get("input"))

    def compact(self, token: Token, request: Mapping[str, Any], context: RequestContext) -> dict[str, Any]:
        """Compacts the history, then answers the input: an ordinary response."""
        return self._compacted(token, request, context).create()

    def compact_stream(self, token: Token, request: Mapping[str, Any], context: RequestContext) -> Iterable[bytes]:
        return self._compacted(token, request, context).stream()

    def _compacted(self, token: Token, request: Mapping[str, Any], context: RequestContext) -> CompactedRun:
        parts = self._parts
        return CompactedRun(parts, token, build_turn(parts.store, parts.contexts, token, request, int(time())), context)

    def compact_window(self, token: Token, request: Mapping[str, Any], context: RequestContext) -> dict[str, Any]:
        """OpenAI's compaction object: the user messages verbatim and one compaction item."""
        turn = turn_to_compact(self._parts, token, request)
        response = WindowRun(self._parts, token, turn, context).create()
        return {
            "id": response["id"],
            "object": "response.compaction",
            "created_at": response["created_at"],
            "output": response["output"],
            "usage": response["usage"],
        }

    # --- counting

    def count(self, token: Token, request: Mapping[str, Any], context: RequestContext) -> dict[str, Any]:
        """The number of tokens that the request would take. Nothing is stored."""
        parts = self._parts
        model = request.get("model") or self._model_before(token, request)
        turn = build_history(parts.store, parts.contexts, token, {**request, "model": model}, int(time()))
        context.hold(turn)
        tokens = None
        if model:
            check_model(token, model)
            watch = Watch(context.client_fd, parts.transport.timing.drain)
            preferred_channel = last_channel(turn, parts.contexts)
            tokens = count(
                turn, parts.channels, parts.contexts.for_family, preferred_channel=preferred_channel, watch=watch
            )
        if tokens is None:
            context.note_estimated("input_tokens")
            tokens = estimate(turn)
        return {"object": "response.input_tokens", "input_tokens": tokens}

    def _model_before(self, token: Token, request: Mapping[str, Any]) -> str:
        """The model of the previous response; empty without one."""
        previous = request.get("previous_response_id")
        stored = self._parts.store.responses.read(token.owner, previous) if previous else None
        return stored.model if stored else ""
