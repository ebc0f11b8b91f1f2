"""The run of one turn, an object with a method for each step.

The steps are: claim the idempotency key, compact the history, have a channel answer, store the response. The subclasses
differ in whether they compact the history, and whether they answer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from app.channels.affinity import Affinity
from app.channels.selection import Channels
from app.contract.items import Item, hidden, new_item_id
from app.contract.records import Chain, StoredResponse, Token
from app.contract.token_estimate import estimate_context
from app.contract.turn import Answer, Turn
from app.contract.usage import Usage
from app.errors import (
    ClientGone,
    CompactionFailed,
    ContextTooLong,
    GatewayError,
    InternalError,
    Unavailable,
    UpstreamError,
)
from app.limits.limiter import RUN, WHOLE, Estimate, Limiter, Part
from app.relay.attempts import TurnAttempts, Unstreamed
from app.relay.client_thread import ThreadNames
from app.relay.compaction.context import Contexts
from app.relay.compaction.plan import CompactionSettings, is_worth_a_pass
from app.relay.compaction.sealed_item import is_summary
from app.relay.compaction.service import Compacted, CompactionService, pseudo_chain, split_for_answer
from app.relay.conversation_names import CacheKeys, beginning, conversation_name
from app.relay.idempotency import IdempotentTurn
from app.relay.inferred_parents import InferredParents, OnOutcome
from app.relay.item_lists import as_listed
from app.relay.lease_keeper import RunningStreams
from app.relay.prompts import Prompts
from app.relay.recorder import Recorder
from app.relay.request_context import RequestContext
from app.relay.responses import shown
from app.relay.storable import check_request
from app.relay.streaming.event_stream import EventStream, StreamStart
from app.relay.streaming.lifecycle_events import replayed_events
from app.relay.streaming.transport import ThreadTransport
from app.request_watch import INTERRUPTIONS, Watch
from app.sealing import Seals
from app.store.store import Store
from app.tools.servers import ToolServers
from app.trace_context import ReadTrace, passed_on

log = logging.getLogger(__name__)

#: The claim of a request without an idempotency key.
_NO_CLAIM: AbstractContextManager[None] = nullcontext()

#: Newest turns that a compaction keeps word for word, where the request does not say.
_KEEP_BEFORE_ANSWER = 1
_KEEP_NOTHING = 0

#: Follows the upstream's words about a context that is too long.
_ADVICE = (
    "The gateway shortens the conversation instead if the request has `context_management` with an entry of type "
    "`compaction`, or `truncation: auto`, or if the channel table has `compact_at` for the model."
)


@dataclass(frozen=True, slots=True)
class TurnParts:
    """The parts of the gateway that a turn needs. A connection with its own store has its own instance."""

    store: Store
    seals: Seals
    contexts: Contexts
    channels: Channels
    compaction: CompactionService
    inferred_parents: InferredParents
    prompts: Prompts
    running: RunningStreams
    transport: ThreadTransport
    cache_keys: CacheKeys
    tool_servers: ToolServers
    limiter: Limiter
    read_trace: ReadTrace = passed_on
    """Reads the trace of a request, and begins one where spans are made."""

    def with_store(self, store: Store) -> TurnParts:
        """The same parts with another store, which remembers unstored responses too."""
        cache_keys = replace(self.cache_keys, remembers_unstored=True)
        return replace(self, store=store, contexts=Contexts(store, self.seals), cache_keys=cache_keys)


def affinity_of(turn: Turn, token: Token, contexts: Contexts, context: RequestContext) -> Affinity:
    """The conversation of the turn, its last channel, and the channels that the token may use. Other channels than the
    last one may not be able to read some of its items."""
    request, links = turn.request, turn.chain.links
    if links:
        channel = next((link.channel for link in reversed(links) if link.channel is not None), None)
    else:
        channel = contexts.native_channel(turn)
    return Affinity(
        turn.owner,
        channel,
        session=conversation_name(turn, context.thread_headers),
        beginning=partial(beginning, request),
        tags=token.limits.tags,
    )


class TurnRun:
    """A turn that a channel answers. The history is compacted first if it exceeds the request's threshold."""

    def __init__(
        self, parts: TurnParts, token: Token, turn: Turn, context: RequestContext, recorder: Recorder | None = None
    ) -> None:
        """`recorder`: for a response whose row exists already."""
        self.turn = parts.cache_keys.keyed(turn, parts.contexts, context.thread_headers)
        self._parts = parts
        self._token = token
        self._context = context
        self._watch = Watch(context.client_fd, parts.transport.timing.drain)
        if recorder is not None:
            self.recorder = recorder

    # --- entry points

    def create(self) -> dict[str, Any]:
        """The response object, stored. Raises GatewayError, or ClientGone when the client has left."""
        with self.claim() as earlier:
            if earlier is not None:
                return self.replayed(earlier)
            recorder = self.recorder
            try:
                self.admit()
                return self._respond()
            except (GatewayError, ClientGone) as error:
                recorder.give_up(error)
                raise
            finally:
                # A turn that a bug has ended leaves its place as well.
                recorder.admission.settle(None)

    def stream(self) -> Iterable[bytes]:
        """The events. An upstream has accepted, or the head has been sent. Raises as `create` does until then."""
        with self.claim() as earlier:
            return self._stream() if earlier is None else replayed_events(self.replayed(earlier))

    def events(self) -> Iterable[bytes]:
        """The events of a background run. Raises as `create` does, also after the head has been sent."""
        try:
            self.admit(RUN)
            return self._events(self._stream_start())
        except (GatewayError, ClientGone) as error:
            self.recorder.give_up(error)
            raise

    def admit(self, part: Part = WHOLE) -> None:
        """Counts the turn against the limits of its token. This follows all that refuses the request itself, and comes
        before anything that costs. Raises as `Limiter.admit` does, and InvalidRequest for an unknown model."""
        limiter, context = self._parts.limiter, self._context
        limits = limiter.limits_of(self._token)
        if not limits.any:
            return
        with suppress(Unavailable):
            self.check_served()
        estimate = self._estimate() if limits.counts_tokens else Estimate()
        try:
            admission = limiter.admit(self._token, limits, self.turn.model, estimate, part)
        except GatewayError as error:
            context.response_headers.update(error.headers)
            raise
        context.response_headers.update(admission.headers)
        self.recorder.admission = admission

    def _estimate(self) -> Estimate:
        return Estimate(self._context_tokens(), self.turn.request.get("max_output_tokens") or 0)

    def check_served(self) -> None:
        """Raises GatewayError when no channel serves the model, or calls the MCP servers that the client names."""
        self._parts.channels.check_served(self.turn.model, self._upstream_servers, self._token.limits.tags)

    @cached_property
    def _upstream_servers(self) -> Sequence[str]:
        """Labels of the MCP servers that the upstream itself has to call. Raises InvalidRequest for a server that is
        unknown here, and for one of the table that is named with more than its label."""
        tools = self.turn.request.get("tools", ())
        return self._parts.channels.table.tools.upstream_servers(tools, self._token.tools)

    def claim(self) -> AbstractContextManager[StoredResponse | None]:
        """A claim on the request's idempotency key, if it has one. Entered, it gives the response of an earlier, equal
        request. Raises PayloadTooLarge and Overloaded."""
        self._check_size()
        key = self._context.idempotency_key
        return IdempotentTurn(self._parts.store, self._token, self.turn, key) if key else _NO_CLAIM

    def _check_size(self) -> None:
        """Raises PayloadTooLarge and Overloaded."""
        self._context.hold(self.turn)
        if self._parts.store.database.packet is not None:
            check_request(self._parts.store, self.recorder.draft, self.turn.input)

    def replayed(self, earlier: StoredResponse) -> dict[str, Any]:
        """The response of the earlier request with this idempotency key."""
        self._context.note_replayed()
        return shown(earlier)

    # --- steps

    @cached_property
    def recorder(self) -> Recorder:
        context = self._context
        parts = self._parts
        return Recorder(
            *(parts.store, self.turn, self._token, context.request_id, context.facts),
            self._on_outcome(),
            parts.prompts,
            context.client,
        )

    def _on_outcome(self) -> OnOutcome | None:
        """Remembers the turn, if its client names a session or thread, so that later turns are found to follow it."""
        names = ThreadNames.of(self.turn.request, self._context.thread_headers)
        return self._parts.inferred_parents.track(self.turn, self._token, names) if names else None

    def _respond(self) -> dict[str, Any]:
        self._check_servers()
        self._shorten()
        step = Unstreamed(self._watch)
        try:
            answer, attempt = self._attempts().first(step)
        except ContextTooLong as refusal:
            answer, attempt = self._after_refusal(refusal)[1].first(step)
        self._context.note_dropped_tools(attempt.dropped)
        self._context.note_adapted(attempt.adapted)
        return self.recorder.finish(answer, attempt.selected)

    def _events(self, stream_start: StreamStart) -> Iterable[bytes]:
        self._check_servers()
        self._shorten()
        events = EventStream(
            self.turn,
            self._attempts(),
            stream_start,
            self._watch,
            self._context.connection,
            self._parts.transport,
            self._after_refusal,
        ).open()
        self._context.note_dropped_tools(events.dropped)
        self._context.note_adapted(events.adapted)
        return events

    def _check_servers(self) -> None:
        """Raises InvalidRequest for an MCP server that nothing can call, before a compaction asks a model."""
        if self._upstream_servers:
            self.check_served()

    def _shorten(self) -> None:
        """Compacts a history that exceeds the threshold. If that fails, the turn continues with the full history."""
        compaction = self._parts.compaction
        threshold = compaction.threshold(self.turn)
        if threshold is None or self._context_tokens() <= threshold or not self._is_worth_a_pass(threshold):
            return
        settings = compaction.settings(self.turn.request)
        try:
            self._compact_history()
        except INTERRUPTIONS:
            raise
        except (CompactionFailed, Unavailable) as error:
            note = {"strategy": settings.strategy, "failed": error.name, "message": error.message}
            self._replace_turn(replace(self.turn, compaction=note))

    def _context_tokens(self) -> int:
        turn = self.turn
        images = self._parts.channels.image_rule(turn.model, self._token.limits.tags)
        return estimate_context(turn.chain, turn.input, turn.echo.shared_settings(), images)

    def _is_worth_a_pass(self, threshold: int) -> bool:
        """Whether a pass may bring the context below the threshold, or an earlier one has shown that it cannot."""
        turn = self.turn
        history = self._parts.contexts.items(turn) if turn.chain.links else turn.input
        return is_worth_a_pass(history, threshold)

    def _after_refusal(self, refusal: ContextTooLong) -> tuple[Turn, TurnAttempts]:
        """The turn with its history compacted, because its context was too long although it is below the threshold, and
        new attempts to answer it. Raises the refusal if neither the request nor the table allows a compaction, or if it
        does not help."""
        turn = self.turn
        if not self._parts.compaction.may_shorten(turn):
            raise refusal.with_advice(_ADVICE) if self._has_history() else refusal
        if turn.compaction is not None:
            raise refusal
        try:
            self._compact_history()
        except INTERRUPTIONS:
            raise
        except (CompactionFailed, Unavailable, UpstreamError):
            raise refusal from None
        if self.turn is turn:
            raise refusal
        return self.turn, self._attempts()

    def _compact_history(self) -> None:
        """Replaces the history before the turn's own input by its compaction. Does nothing without a history."""
        turn = self.turn
        history, tail = split_for_answer(turn.input)
        if turn.chain.links:
            history, tail = self._parts.contexts.items(turn), turn.input
        if not history:
            return
        compacted = self._compacted(history, tail, _KEEP_BEFORE_ANSWER)
        item = compacted.item if self._expects_compactions() else hidden(compacted.item)
        shorter = replace(
            turn,
            leading_items=(*turn.leading_items, item),
            compaction_usage=compacted.usage,
            compaction=compacted.note,
        )
        if turn.chain.links:
            shorter = replace(shorter, chain=pseudo_chain(turn, compacted))
        else:
            shorter = replace(shorter, chain=Chain(), input=[*compacted.context, *tail])
        self._replace_turn(shorter)

    def _expects_compactions(self) -> bool:
        """Whether the client asked for compactions, and so gets their items."""
        return CompactionSettings.of(self.turn.request, "") is not None

    def _has_history(self) -> bool:
        return bool(self.turn.chain.links or split_for_answer(self.turn.input)[0])

    # --- shared by the steps

    def _compacted(self, history: Sequence[Item], tail: Sequence[Item], keep_turns: int) -> Compacted:
        parts, turn = self._parts, self._readable_turn()
        return parts.compaction.compact(
            turn,
            history,
            tail,
            parts.compaction.settings(turn.request),
            keep_turns,
            contexts=parts.contexts,
            affinity=self._affinity(),
            watch=self._watch,
            on_attempt=self.recorder.add_attempt,
        )

    def _readable_turn(self) -> Turn:
        """The turn as a model can read it."""
        return self.turn

    def _replace_turn(self, turn: Turn) -> None:
        self.turn = turn
        self.recorder.use_compacted(turn)

    def _affinity(self) -> Affinity:
        return affinity_of(self.turn, self._token, self._parts.contexts, self._context)

    def _attempts(self) -> TurnAttempts:
        """The attempts of the next exchange."""
        parts = self._parts
        return TurnAttempts(
            self._exchange_turn(),
            parts.channels,
            parts.contexts.for_channel,
            self.recorder.add_attempt,
            self._watch,
            self._affinity(),
            self._upstream_servers,
        )

    def _exchange_turn(self) -> Turn:
        """What a model gets in the next exchange."""
        return self.turn

    def _stream_start(self) -> StreamStart:
        parts = self._parts
        return StreamStart(self.turn, self.recorder, self._context, self._watch, parts.running, parts.transport.timing)

    def _stream(self) -> Iterable[bytes]:
        """The events. A failure raises until the head has been sent; afterwards events report it."""
        stream_start = self._stream_start()
        try:
            self.admit()
            return self._events(stream_start)
        except (GatewayError, ClientGone) as error:
            if stream_start.sent and isinstance(error, GatewayError):
                return _failed(stream_start, error)
            stream_start.end()
            self.recorder.give_up(error)
            raise
        except Exception:
            if not stream_start.sent:
                stream_start.end()
                self.recorder.admission.settle(None)
                raise
            log.exception("response %s failed", self.turn.id)
            return _failed(stream_start, InternalError())


class CompactedRun(TurnRun):
    """A turn whose history is always compacted before it is answered, however short it is."""

    def _shorten(self) -> None:
        self._compact_history()

    def _expects_compactions(self) -> bool:
        return True


class CompactionRun(TurnRun):
    """A turn whose context ends with a trigger. The response is one compaction item and no channel answers."""

    def _respond(self) -> dict[str, Any]:
        history = [*self._parts.contexts.items(self.turn), *self.turn.input]
        compacted = self._compacted(history, (), _KEEP_NOTHING)
        self._replace_turn(replace(self.turn, compaction=compacted.note))
        output = self._output(history, compacted.item)
        return self.recorder.finish(Answer("completed", output, compacted.usage), None)

    def _events(self, stream_start: StreamStart) -> Iterable[bytes]:
        response = self._respond()
        stream_start.end()
        return replayed_events(response, stream_start.sent)

    def _output(self, history: Sequence[Item], item: Item) -> Sequence[Item]:
        return [item]


class WindowRun(CompactionRun):
    """OpenAI's compaction window: the user messages verbatim, and the compaction item."""

    def _output(self, history: Sequence[Item], item: Item) -> Sequence[Item]:
        return [*_user_messages(history), item]


class WarmUpRun(TurnRun):
    """A WebSocket turn that no channel answers. The next turn can continue from its input."""

    def stream(self) -> Iterable[bytes]:
        self.check_served()
        self._check_size()
        return replayed_events(self.recorder.finish(Answer("completed", (), Usage()), None))

    def _on_outcome(self) -> None:
        """Nothing is remembered: the turn has no answer."""


def _failed(stream_start: StreamStart, error: GatewayError) -> Iterator[bytes]:
    """The last events of a failed stream. The failure is stored at once."""
    try:
        ending = stream_start.failure(error)
    finally:
        stream_start.end()
    return (event for event in (ending,))


def _user_messages(history: Sequence[Item]) -> Iterator[Item]:
    for position, item in enumerate(history):
        if item.get("role") == "user" and not is_summary(item):
            named = item if item.get("id") else {**item, "id": new_item_id("message")}
            yield as_listed(named, "", position)
