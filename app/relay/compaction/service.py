"""Compaction: a history becomes one item, by an upstream's own compaction, a model's summary, or trimming."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import orjson

from app.channels.affinity import Affinity
from app.channels.model_facts import KnownFacts
from app.channels.selection import Channels, SelectedChannel
from app.contract.items import COMPACTION_TYPES, SECRETS, TOOLS, Item, is_output, offers_tools, unanswered
from app.contract.records import Chain, Link
from app.contract.redaction import redacted_items
from app.contract.replay import without_waiting
from app.contract.response import Echo
from app.contract.token_estimate import estimate_context, estimate_items
from app.contract.turn import Answer, Turn
from app.contract.usage import NOTHING_USED, Usage
from app.errors import (
    CompactionFailed,
    FormatNotServed,
    InvalidRequest,
    Unavailable,
    UpstreamError,
    UpstreamLacksEndpoint,
    UpstreamLimited,
    UpstreamRefused,
    UpstreamUnreachable,
)
from app.formats import Compacting, adapted, wants_truncation
from app.relay.attempts import (
    ChannelAttempt,
    ChannelAttempts,
    OnAttempt,
    StreamedInside,
    TurnAttempt,
    TurnAttempts,
    encoded,
    posted,
    unseen,
)
from app.relay.compaction.context import Contexts
from app.relay.compaction.folding import DEFAULT_WINDOW, room, without_pictures
from app.relay.compaction.native_ways import TRIGGER, NativeWays
from app.relay.compaction.plan import INSTRUCTION, CompactionSettings, Plan, divide, passages
from app.relay.compaction.sealed_item import (
    Native,
    is_summary,
    portable,
    seal_items,
    seal_native,
    summary_message,
    text_message,
)
from app.relay.compaction.summary import Summary, estimated, is_no_summary, summarise, summary_limit, summary_of
from app.relay.streaming.transport import ThreadTransport
from app.request_watch import INTERRUPTIONS, Watch
from app.schemas.create import CompactRequest
from app.sealing import Seal

_SAME_AS_TURN = (
    "instructions",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "cache_control",
    "service_tier",
    "tools",
    "parallel_tool_calls",
    "reasoning",
    "text",
)
_TRIGGER = {"type": "compaction_trigger"}
#: Failures of a native pass that count against the channel. Any other may concern only the channel's compaction.
_CHANNEL_FAILURES = (UpstreamLimited, UpstreamUnreachable)


@dataclass(frozen=True, slots=True)
class Compacted:
    """The result of a compaction."""

    item: Item
    """The item for the output. It stands for the history and the input that is being answered."""
    context: Sequence[Item]
    """The compacted history, as the upstream gets it."""
    usage: Usage
    note: Mapping[str, Any]
    channel: str | None = None
    """The only channel that can surely read `context`; None when any can."""


@dataclass(frozen=True, slots=True)
class _CompactionPass:
    """The result of one strategy, not sealed yet. `context` follows the native item."""

    strategy: str
    context: Sequence[Item]
    usage: Usage = NOTHING_USED
    native: Native | None = None
    channel: str | None = None
    note: Mapping[str, Any] = field(default_factory=dict)
    """For the operator."""


class CompactionService:
    def __init__(self, channels: Channels, model_facts: KnownFacts, seal: Seal, transport: ThreadTransport) -> None:
        self._channels = channels
        self._facts = model_facts
        self._transport = transport
        self._seal = seal
        self._ways = NativeWays()

    def settings(self, request: Mapping[str, Any]) -> CompactionSettings:
        """The request's compaction settings, or the channel table's defaults."""
        strategy = self._channels.compaction.strategy
        return CompactionSettings.of(request, strategy) or CompactionSettings(strategy)

    def threshold(self, turn: Turn) -> int | None:
        """Tokens of context above which a history is compacted: what the request says, or less by the model's
        `compact_at`, which concerns histories of the gateway only. None when neither sets a threshold."""
        request = turn.request
        requested = self.settings(request).threshold if request.get("context_management") else None
        of_model = self._facts.compaction_threshold(turn.model) if turn.chain.links else None
        return min((tokens for tokens in (requested, of_model) if tokens is not None), default=None)

    def may_shorten(self, turn: Turn) -> bool:
        """Whether a context that is too long may be compacted: the request allows it, or the table does."""
        request = turn.request
        return (
            CompactionSettings.of(request, "") is not None
            or wants_truncation(request)
            or self._facts.compacts(turn.model)
        )

    def wants_answer(self, compact: CompactRequest) -> bool:
        """Whether an answer follows the compaction: by default to new input, else as the request's `answer` says."""
        answer = self.settings(compact.request).answer
        return compact.has_new_input if answer is None else answer and bool(compact.request.get("input"))

    def compact(
        self,
        turn: Turn,
        history: Sequence[Item],
        tail: Sequence[Item],
        settings: CompactionSettings,
        keep_turns: int,
        *,
        contexts: Contexts,
        affinity: Affinity,
        watch: Watch,
        on_attempt: OnAttempt,
    ) -> Compacted:
        """The history as one item. The item also holds `tail`, the input that is answered after the compaction.

        Raises CompactionFailed, Unavailable (`responses_compact_not_supported`), and the errors of channel selection.
        Nothing is stored.
        """
        keep = settings.keep_turns if settings.keep_turns is not None else keep_turns
        task = _Task(turn, history, keep, divide(history, keep), settings, contexts, affinity, watch, on_attempt)
        result = self._strategies[settings.strategy](self, task) if task.plan.old else self._verbatim(task)
        verbatim, origin = redacted_items([*portable([*result.context, *tail])]), contexts.origin(turn) or turn.id
        if result.native is None:
            item, context = seal_items(self._seal, turn.owner, verbatim, origin), result.context
        else:
            stored = replace(result.native, response=turn.id if turn.store else None)
            item = seal_native(self._seal, turn.owner, stored, verbatim, origin)
            within = replace(result.native, originals=history)
            context = [seal_native(self._seal, turn.owner, within, result.context)]
        note = {
            "strategy": result.strategy,
            "channel": result.channel,
            "before": estimate_items(history),
            "after": estimate_items(result.context) if result.native is None else None,
            "usage": result.usage.wire(),
            **({} if result.usage.cost is None else {"cost_micros": result.usage.cost}),
            **result.note,
        }
        return Compacted(item, context, result.usage, note, result.native.channel if result.native else None)

    # --- strategies

    def _auto(self, task: _Task) -> _CompactionPass:
        """A native pass if the turn's channel supports it; a summary if it does not, or if the native pass fails."""
        try:
            first = next(self._channels_of(task), None)
            if first is not None and self._ways.of(first.channel):
                return self._native(task, first.channel.family)
        except INTERRUPTIONS:
            raise
        except (CompactionFailed, Unavailable):
            pass
        return self._summary(task)

    def _native(self, task: _Task, family: str | None = None) -> _CompactionPass:
        """A native pass on the first channel that supports it, of this family if one is given."""
        candidates = (
            selected
            for selected in self._channels_of(task)
            if self._ways.of(selected.channel) and family in (None, selected.channel.family)
        )
        attempts = ChannelAttempts(candidates, task.on_attempt, counted=_CHANNEL_FAILURES)
        try:
            return attempts.first(_NativeStep(self, task))
        except UpstreamError as error:
            if attempts.last is None:
                raise _not_supported(task.turn.model) from error
            raise CompactionFailed(f"The compaction failed: {error.message}") from error

    def native_pass(self, task: _Task, attempt: ChannelAttempt) -> _CompactionPass:
        selected = attempt.selected
        turn = task.contexts.for_channel(task.internal(task.turn.model, task.plan.old), selected.channel)
        attempt.unseen = unseen(turn)
        with self._limited(task):
            native, answer = self._compacted_by(attempt, turn, task.watch)
        native_item = Native(native, selected.channel.family, selected.channel.name)
        usage = selected.priced(turn.model, answer.usage or estimated(turn.input, answer))
        return _CompactionPass("native", task.plan.verbatim, usage, native_item, selected.channel.name)

    def _compacted_by(self, attempt: ChannelAttempt, turn: Turn, watch: Watch) -> tuple[Item, Answer]:
        """The upstream's compaction item. An upstream that lacks one way is asked in the next one. Raises
        UpstreamError."""
        selected = attempt.selected
        for way in self._ways.of(selected.channel):
            try:
                answer = posted(attempt, turn, *self._native_request(way, turn, selected), watch)
            except UpstreamLacksEndpoint:
                self._ways.lacks(selected.channel, way)
                continue
            native = next((item for item in answer.output if item.get("type") in COMPACTION_TYPES), None)
            if native is not None:
                return {**native, "type": "compaction"}, answer
            if way != selected.channel.compact:
                # The row promises no trigger, and this upstream answers it like any other input.
                self._ways.lacks(selected.channel, way)
        raise UpstreamError("The model's server cannot compact a conversation itself.")

    def _native_request(self, way: str, turn: Turn, selected: SelectedChannel) -> tuple[str, bytes]:
        """The path and the body."""
        if way == TRIGGER:
            body = encoded(replace(turn, input=[*turn.input, _TRIGGER]), selected)
            return selected.format.path(selected.model, False), body
        format_ = cast(Compacting, selected.format)
        body, _ = adapted(format_.encode_compaction(turn, selected.row, selected.model), selected.row)
        return format_.compaction_path(selected.model), body

    def _summary(self, task: _Task) -> _CompactionPass:
        history = task.contexts.originals(task.turn.owner, task.history)
        plan = divide(history, task.keep_turns)
        settings, model = task.settings, self._channels.summary_model(task.turn.model, task.affinity.tags)

        def read(items: Sequence[Item], limit: int) -> tuple[Turn, Answer, TurnAttempt]:
            return self._read(task, task.internal(model, items, {"max_output_tokens": limit}))

        try:
            summary = self._shared_summary(task, plan) if model == task.turn.model else None
            if summary is None:
                facts = self._facts.facts(model)
                # The conversation's own model has seen its pictures, unless its facts say that it sees none.
                sees = "image" in facts.modalities if facts.modalities else model == task.turn.model
                window = self._facts.pass_window(model) or DEFAULT_WINDOW
                material = list(passages(plan.old))
                material = material if sees else without_pictures(material)
                replaced = estimate_items(plan.old)
                summary = summarise(material, replaced, settings.instructions, settings.max_tokens, window, read)
        except FormatNotServed as error:
            raise _not_supported(model) from error
        except INTERRUPTIONS:
            raise
        except InvalidRequest as error:
            if model == task.turn.model:
                raise
            raise CompactionFailed(f"The compaction failed: {error.message}") from error
        except UpstreamError as error:
            raise CompactionFailed(f"The compaction failed: {error.message}") from error
        if not self._facts.states_window(model):
            summary.teach()
        # A summary longer than the items it replaces is of no use: the items are sealed instead.
        useful = len(summary.text.encode()) <= len(orjson.dumps(list(plan.old)))
        context = [summary_message(summary.text), *plan.verbatim] if useful else history
        return _CompactionPass(
            "summary", context, summary.usage, channel=summary.selected.channel.name, note=summary.note
        )

    def _shared_summary(self, task: _Task, plan: Plan) -> Summary | None:
        """A summary by the conversation's own model: its last request to the byte, followed by one instruction, so that
        the provider's cache pays for most of it. None when that does not fit, or when the model goes on with the
        conversation instead.
        """
        window = self._facts.pass_window(task.turn.model)
        limit = task.settings.max_tokens or summary_limit(estimate_items(plan.old), window or DEFAULT_WINDOW)
        instruction = text_message("user", task.settings.instructions or INSTRUCTION)
        turn = task.continued(instruction, limit)
        if turn is None or not _fits(turn, limit, window):
            return None
        try:
            turn, answer, answered = self._read(task, turn)
        except INTERRUPTIONS:
            raise
        except (InvalidRequest, UpstreamRefused):
            # The context is too long, or a part of it is none that this model takes. As text it may be taken.
            return None
        if answer.status != "failed" and is_no_summary(answer):
            return None
        usage = answered.selected.priced(turn.model, answer.usage or estimated(turn.input, answer))
        return Summary(summary_of(answer), answered.selected, usage)

    def _read(self, task: _Task, turn: Turn) -> tuple[Turn, Answer, TurnAttempt]:
        """The answer to an internal turn. Raises GatewayError."""
        turn = replace(turn, stream=True)
        for_channel, on_attempt, watch = task.contexts.for_channel, task.on_attempt, task.watch
        with self._limited(task):
            attempts = TurnAttempts(turn, self._channels, for_channel, on_attempt, watch, task.affinity)
            return turn, *attempts.first(StreamedInside(watch, self._transport))

    def _limited(self, task: _Task) -> AbstractContextManager[None]:
        """A timeout for one pass with all its attempts."""
        seconds = self._channels.compaction.timeout
        return task.watch.limited(
            seconds, CompactionFailed(f"The compaction failed: it took longer than {seconds:g} s.")
        )

    def _trim(self, task: _Task) -> _CompactionPass:
        self._channels_of(task)
        return _CompactionPass("trim", [summary_message(None), *task.plan.verbatim])

    def _verbatim(self, task: _Task) -> _CompactionPass:
        """The whole history stays verbatim."""
        self._channels_of(task)
        return _CompactionPass(task.settings.strategy, task.history)

    _strategies: Mapping[str, Callable[[CompactionService, _Task], _CompactionPass]] = {
        "auto": _auto,
        "native": _native,
        "summary": _summary,
        "trim": _trim,
    }

    def _channels_of(self, task: _Task) -> Iterator[SelectedChannel]:
        """Raises InvalidRequest for a model that no channel serves."""
        try:
            return self._channels.select(task.turn.model, task.affinity, wait=task.watch.wait)
        except FormatNotServed as error:
            raise _not_supported(task.turn.model) from error


@dataclass(frozen=True, slots=True)
class _Task:
    """The parameters of one compaction."""

    turn: Turn
    history: Sequence[Item]
    keep_turns: int
    plan: Plan
    settings: CompactionSettings
    contexts: Contexts
    affinity: Affinity
    watch: Watch
    on_attempt: OnAttempt

    def internal(self, model: str, items: Sequence[Item], request: Mapping[str, Any] | None = None) -> Turn:
        """An internal turn: it is not stored and no client sees it."""
        request = self._settings() if request is None else request
        return replace(
            self.turn,
            model=model,
            request=request,
            input=items,
            chain=Chain(),
            echo=Echo.of(request, store=False),
            store=False,
            stream=False,
            leading_items=(),
        )

    def continued(self, instruction: Item, limit: int) -> Turn | None:
        """The turn's last request, with the instruction as its new input. Newest calls that wait for their outputs are
        left out. None when others wait."""
        answered = replace(self.turn, chain=_without_waiting(self.turn.chain), input=without_waiting(self.history))
        if unanswered(self.contexts.items(answered) if answered.chain.links else answered.input):
            return None
        request, choice = self._settings(), self.turn.request.get("tool_choice")
        text = {name: value for name, value in request.get("text", {}).items() if name != "format"}
        chained = bool(self.turn.chain.links)
        has_tools = bool(request.get("tools")) or any(map(offers_tools, self.history))
        turn = self.internal(
            self.turn.model,
            [instruction] if chained else [*answered.input, instruction],
            {
                **{name: value for name, value in request.items() if name != "text"},
                **({"text": text} if text else {}),
                **({"tool_choice": choice} if choice else {}),
                "max_output_tokens": limit,
            },
        )
        return replace(turn, chain=answered.chain if chained else turn.chain, forbids_calls=has_tools)

    def _settings(self) -> dict[str, Any]:
        return {name: self.turn.request[name] for name in _SAME_AS_TURN if name in self.turn.request}


@dataclass(frozen=True, slots=True)
class _NativeStep:
    """The step that has a channel compact the history itself. A timed-out pass is recorded and ends the attempts."""

    compaction: CompactionService
    task: _Task

    def run(self, attempt: ChannelAttempt) -> _CompactionPass:
        try:
            return self.compaction.native_pass(self.task, attempt)
        except CompactionFailed as error:
            self.task.on_attempt(attempt.record(error))
            raise


def split_for_answer(items: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Item]]:
    """Splits a conversation sent as one array: the history, and the client's newest messages or call outputs."""
    start = len(items)
    while start and not _is_client_item(items[start - 1]):
        start -= 1
    while start and _is_client_item(items[start - 1]):
        start -= 1
    return items[:start], items[start:]


def pseudo_chain(turn: Turn, compacted: Compacted) -> Chain:
    """The compacted history in the place of the chain. It keeps the tip's id, which leads to the original items."""
    tip = turn.chain.tip
    return Chain(
        (
            Link(
                id=tip.id if tip else "",
                status="completed",
                channel=compacted.channel or (tip.channel if tip else None),
                family=None,
                opaque=SECRETS | TOOLS,
                input=b"[]",
                output=orjson.dumps(list(compacted.context)),
                input_tokens=None,
                output_tokens=None,
            ),
        ),
        origin=turn.chain.root,
    )


def _without_waiting(chain: Chain) -> Chain:
    """The chain without calls of its newest response that wait for their outputs."""
    tip = chain.tip
    if tip is None or b'"call_id"' not in tip.output:
        return chain
    output = orjson.loads(tip.output)
    answered = without_waiting(output)
    if answered is output:
        return chain
    return replace(chain, links=(*chain.links[:-1], tip._replace(output=orjson.dumps(list(answered)))))


def _fits(turn: Turn, limit: int, window: int | None) -> bool:
    """Whether the model can read its last request again, and write a summary."""
    tip = turn.chain.tip
    if window is None and tip is not None and tip.input_tokens:
        # It has just read that much, and nothing tells how much more it could.
        return True
    tokens = estimate_context(turn.chain, turn.input, turn.echo.shared_settings())
    return tokens <= room(window or DEFAULT_WINDOW, limit)


def _is_client_item(item: Item) -> bool:
    """Whether the client sent the item."""
    return (item.get("role") == "user" and not is_summary(item)) or is_output(item)


def _not_supported(model: str) -> Unavailable:
    error = Unavailable(
        f"No channel of the model '{model}' can compact a conversation.",
        code="responses_compact_not_supported",
        param="model",
    )
    error.should_retry = False
    return error
