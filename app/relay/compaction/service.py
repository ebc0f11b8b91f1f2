"""Compaction: a history becomes one item, by the upstream itself, by a model's summary, or by leaving out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import orjson

from app.contract.items import Item, is_output
from app.contract.records import Chain, Link
from app.contract.redaction import redacted_items
from app.contract.response import Echo
from app.contract.turn import Answer, Turn
from app.contract.usage import Usage, estimate, estimate_items
from app.errors import (
    CompactionFailed,
    FormatNotServed,
    InvalidRequest,
    Unavailable,
    UpstreamError,
    UpstreamLimited,
    UpstreamUnreachable,
)
from app.formats import Compacting
from app.relay.attempts import ChannelAttempt, ChannelAttempts, StreamedInside, Tried, TurnAttempts, posted
from app.relay.compaction.context import Contexts
from app.relay.compaction.plan import Plan, Wish, divide, to_summarise
from app.relay.compaction.sealed_item import Native, is_summary, portable, seal_items, seal_native, summary_message
from app.relay.ports import Channels, Choice
from app.relay.request_watch import INTERRUPTIONS, Watch
from app.relay.streaming.transport import Mover
from app.sealing import Seal

_NATIVE = ("native", "trigger")
_PASSED_ON = ("instructions", "prompt_cache_key", "service_tier", "tools", "parallel_tool_calls", "reasoning", "text")
_TRIGGER = {"type": "compaction_trigger"}
#: Failures of a native pass that speak of the whole channel; any other may be its compaction's alone.
_OF_THE_CHANNEL = (UpstreamLimited, UpstreamUnreachable)


#: Tokens that a summary may take, where the request does not say: a quarter of what it replaces, within these. A model
#: needs some room to say anything; a summary that turns out longer than what it replaces is not used.
_SHORTEST_LIMIT, _LONGEST_LIMIT = 256, 4096


@dataclass(frozen=True, slots=True)
class Compacted:
    """A history made short."""

    item: Item
    """For the output: stands for the history and for what is answered now."""
    context: Sequence[Item]
    """What the history is for the upstream now."""
    usage: Usage
    note: Mapping[str, Any]
    channel: str | None = None
    """The only one that is sure to read `context`."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """One way the history was made short, before it is sealed. `context` stands behind what is native."""

    strategy: str
    context: Sequence[Item]
    usage: Usage = field(default_factory=Usage)
    native: Native | None = None
    channel: str | None = None


class Compaction:
    def __init__(self, channels: Channels, seal: Seal, mover: Mover) -> None:
        self._channels = channels
        self._mover = mover
        self._seal = seal

    def wish(self, request: Mapping[str, Any]) -> Wish:
        """What the request asks of compaction, or the table's defaults."""
        strategy = self._channels.compaction.strategy
        return Wish.of(request, strategy) or Wish(strategy)

    def compact(
        self,
        turn: Turn,
        history: Sequence[Item],
        tail: Sequence[Item],
        wish: Wish,
        keep_turns: int,
        *,
        contexts: Contexts,
        prefer: str | None,
        watch: Watch,
        tried: Tried,
    ) -> Compacted:
        """The history as one item that also holds `tail`, the input that is answered over it.

        Raises CompactionFailed, Unavailable (`responses_compact_not_supported`), or what the choice of a channel
        raises. Nothing is stored.
        """
        keep = wish.keep_turns if wish.keep_turns is not None else keep_turns
        asked = _Asked(turn, history, keep, divide(history, keep), wish, contexts, prefer, watch, tried)
        made = self._strategies[wish.strategy](self, asked) if asked.plan.old else self._as_it_is(asked)
        kept = redacted_items([*portable([*made.context, *tail])])
        if made.native is None:
            item, context = seal_items(self._seal, turn.owner, kept), made.context
        else:
            stored = replace(made.native, response=turn.id if turn.store else None)
            item = seal_native(self._seal, turn.owner, stored, kept)
            within = replace(made.native, originals=history)
            context = [seal_native(self._seal, turn.owner, within, made.context)]
        note = {
            "strategy": made.strategy,
            "channel": made.channel,
            "before": estimate_items(history),
            "after": estimate_items(made.context) if made.native is None else None,
            "usage": made.usage.wire(),
        }
        return Compacted(item, context, made.usage, note, made.native.channel if made.native else None)

    # --- strategies

    def _auto(self, asked: _Asked) -> _Pass:
        """Native where the channel that goes on has it; a summary where it has not, or where that fails."""
        try:
            first = next(self._choices(asked), None)
            if first is not None and first.channel.compact in _NATIVE:
                return self._native(asked, first.channel.family)
        except INTERRUPTIONS:
            raise
        except (CompactionFailed, Unavailable):
            pass
        return self._summary(asked)

    def _native(self, asked: _Asked, family: str | None = None) -> _Pass:
        """By the first channel that can, of this family if one is given."""
        choices = (
            choice
            for choice in self._choices(asked)
            if choice.channel.compact in _NATIVE and family in (None, choice.channel.family)
        )
        attempts = ChannelAttempts(choices, asked.tried, counted=_OF_THE_CHANNEL)
        try:
            return attempts.first(_NativeStep(self, asked))
        except UpstreamError as error:
            if attempts.last is None:
                raise _not_supported(asked.turn.model) from error
            raise CompactionFailed(f"The compaction failed: {error.message}") from error

    def native_pass(self, asked: _Asked, attempt: ChannelAttempt) -> _Pass:
        choice = attempt.choice
        turn = asked.contexts.fit(asked.internal(asked.turn.model, asked.plan.old), choice.channel.family)
        with self._limited(asked):
            if choice.channel.compact == "trigger":
                turn = replace(turn, input=[*turn.input, _TRIGGER])
                body = choice.format.encode(turn, choice.channel, choice.model)
                answer = posted(attempt, turn, choice.format.path(choice.model, False), body, asked.watch)
            else:
                format_ = cast(Compacting, choice.format)
                body = format_.encode_compaction(turn, choice.channel, choice.model)
                answer = posted(attempt, turn, format_.compaction_path(choice.model), body, asked.watch)
        native = next((item for item in answer.output if item.get("type") == "compaction"), None)
        if native is None:
            raise UpstreamError("The model's server compacted and gave no compaction item.")
        made = Native(native, choice.channel.family, choice.channel.name)
        usage = answer.usage or _estimated(turn.input, answer)
        return _Pass("native", asked.plan.kept, usage, made, choice.channel.name)

    def _summary(self, asked: _Asked) -> _Pass:
        history = asked.contexts.originals(asked.turn.owner, asked.history)
        plan = divide(history, asked.keep_turns)
        model = self._channels.compaction.model or asked.turn.model
        request = {"max_output_tokens": asked.wish.max_tokens or _longest_summary(plan.old)}
        turn = replace(asked.internal(model, to_summarise(plan, asked.wish.instructions), request), stream=True)
        fit, tried, watch = asked.contexts.fit, asked.tried, asked.watch
        try:
            attempts = TurnAttempts(turn, self._channels, fit, tried, watch, asked.prefer)
            with self._limited(asked):
                answer, answered = attempts.first(StreamedInside(watch, self._mover))
        except FormatNotServed as error:
            raise _not_supported(model) from error
        except INTERRUPTIONS:
            raise
        except InvalidRequest as error:
            if model == asked.turn.model:
                raise
            raise CompactionFailed(f"The compaction failed: {error.message}") from error
        except UpstreamError as error:
            raise CompactionFailed(f"The compaction failed: {error.message}") from error
        return _summed_up(plan, history, turn.input, answer, answered.choice)

    def _limited(self, asked: _Asked) -> AbstractContextManager[None]:
        """Bounds one pass, all its attempts included."""
        seconds = self._channels.compaction.timeout
        return asked.watch.limited(
            seconds, CompactionFailed(f"The compaction failed: it took longer than {seconds:g} s.")
        )

    def _trim(self, asked: _Asked) -> _Pass:
        self._choices(asked)
        return _Pass("trim", [summary_message(None), *asked.plan.kept])

    def _as_it_is(self, asked: _Asked) -> _Pass:
        """All of it has to stay word for word."""
        self._choices(asked)
        return _Pass(asked.wish.strategy, asked.history)

    _strategies: Mapping[str, Callable[[Compaction, _Asked], _Pass]] = {
        "auto": _auto,
        "native": _native,
        "summary": _summary,
        "trim": _trim,
    }

    def _choices(self, asked: _Asked) -> Iterator[Choice]:
        """Raises InvalidRequest for a model that nobody serves."""
        try:
            return self._channels.choices(asked.turn.model, asked.prefer, owner=asked.turn.owner)
        except FormatNotServed as error:
            raise _not_supported(asked.turn.model) from error


@dataclass(frozen=True, slots=True)
class _Asked:
    """What one compaction was asked to do."""

    turn: Turn
    history: Sequence[Item]
    keep_turns: int
    plan: Plan
    wish: Wish
    contexts: Contexts
    prefer: str | None
    watch: Watch
    tried: Tried

    def internal(self, model: str, items: Sequence[Item], request: Mapping[str, Any] | None = None) -> Turn:
        """A turn of our own, which nobody sees and nothing keeps."""
        if request is None:
            request = {name: self.turn.request[name] for name in _PASSED_ON if name in self.turn.request}
        return replace(
            self.turn,
            model=model,
            request=request,
            input=items,
            chain=Chain(),
            echo=Echo.of(request, store=False),
            store=False,
            stream=False,
            preface=(),
        )


@dataclass(frozen=True, slots=True)
class _NativeStep:
    """The step that has a channel compact the history itself. A pass that times out is recorded and ends the loop."""

    compaction: Compaction
    asked: _Asked

    def run(self, attempt: ChannelAttempt) -> _Pass:
        try:
            return self.compaction.native_pass(self.asked, attempt)
        except CompactionFailed as error:
            self.asked.tried(attempt.record(error))
            raise


def split_for_answer(items: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Item]]:
    """A conversation sent as one array: what came before, and what is to be answered: words, or results of calls."""
    start = len(items)
    while start and not _is_told(items[start - 1]):
        start -= 1
    while start and _is_told(items[start - 1]):
        start -= 1
    return items[:start], items[start:]


def pseudo_chain(turn: Turn, compacted: Compacted) -> Chain:
    """The compacted history where a chain would stand. It goes by its tip's id, behind which the originals lie."""
    tip = turn.chain.tip
    return Chain(
        (
            Link(
                id=tip.id if tip else "",
                status="completed",
                channel=compacted.channel or (tip.channel if tip else None),
                family=None,
                opaque=True,
                input=b"[]",
                output=orjson.dumps(list(compacted.context)),
                input_tokens=None,
                output_tokens=None,
            ),
        )
    )


def context_tokens(turn: Turn) -> int:
    """How large the context is: as the parent's upstream counted it, else estimated; and the new input."""
    tip, own = turn.chain.tip, estimate_items(turn.input)
    if tip is None:
        return own
    if tip.input_tokens:
        return tip.input_tokens + (tip.output_tokens or 0) + own
    return own + estimate(turn.chain.size)


def _summed_up(plan: Plan, history: Sequence[Item], given: Sequence[Item], answer: Answer, choice: Choice) -> _Pass:
    if answer.status == "failed":
        message = (answer.error or {}).get("message") or "the model's server failed."
        raise CompactionFailed(f"The compaction failed: {message}")
    text = "".join(
        part.get("text", "")
        for item in answer.output
        if item.get("type") == "message"
        for part in item.get("content", ())
        if part.get("type") == "output_text"
    ).strip()
    if not text:
        raise CompactionFailed("The compaction failed: the model's summary was empty.")
    usage = answer.usage or _estimated(given, answer)
    if len(text.encode()) > len(orjson.dumps(list(plan.old))):
        # Longer than what it would replace: the items themselves are the better summary.
        return _Pass("summary", history, usage, channel=choice.channel.name)
    return _Pass("summary", [summary_message(text), *plan.kept], usage, channel=choice.channel.name)


def _longest_summary(old: Sequence[Item]) -> int:
    return min(_LONGEST_LIMIT, max(_SHORTEST_LIMIT, estimate_items(old) // 4))


def _estimated(given: Sequence[Item], answer: Answer) -> Usage:
    return Usage(input_tokens=estimate_items(given), output_tokens=estimate_items(answer.output), estimated=True)


def _is_told(item: Item) -> bool:
    """Whether it comes from the client's side."""
    return (item.get("role") == "user" and not is_summary(item)) or is_output(item)


def _not_supported(model: str) -> Unavailable:
    error = Unavailable(
        f"No channel of the model '{model}' can compact a conversation.",
        code="responses_compact_not_supported",
        param="model",
    )
    error.should_retry = False
    return error
