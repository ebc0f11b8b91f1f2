"""Compaction: a history becomes one item, by the upstream itself, by a model's summary, or by leaving out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, cast

import orjson

from app.echo import Echo
from app.errors import CompactionFailed, FormatNotServed, Unavailable, UpstreamError
from app.formats import Compacting
from app.records import Chain, Link, Usage
from app.relay.asking import Tried, ask, post, whole_answer
from app.relay.compacting import (
    Plan,
    Wish,
    divide,
    is_summary,
    seal_items,
    seal_native,
    summary_message,
    to_summarise,
)
from app.relay.context import Contexts
from app.relay.ports import Channels, Choice
from app.sealing import Seal
from app.turn import Answer, Item, Turn

_NATIVE = ("native", "trigger")
_PASSED_ON = ("instructions", "prompt_cache_key", "service_tier", "tools", "parallel_tool_calls", "reasoning", "text")
_TRIGGER = {"type": "compaction_trigger"}


@dataclass(frozen=True, slots=True)
class Compacted:
    """A history made short."""

    item: Item
    """For the output: stands for the history and for what is answered now."""
    context: Sequence[Item]
    """What the history is for the upstream now."""
    usage: Usage
    note: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Pass:
    """One way the history was made short, before it is sealed. `native` is an upstream's own item."""

    strategy: str
    context: Sequence[Item]
    usage: Usage | None = None
    native: Item | None = None
    family: str | None = None
    channel: str | None = None


class Compaction:
    def __init__(self, channels: Channels, contexts: Contexts, seal: Seal) -> None:
        self._channels = channels
        self._contexts = contexts
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
        prefer: str | None,
        client: int | None,
        tried: Tried,
    ) -> Compacted:
        """The history as one item that also holds `tail`, the input that is answered over it.

        Raises CompactionFailed, Unavailable (`responses_compact_not_supported`), or what the choice of a channel
        raises. Nothing is stored.
        """
        keep = wish.keep_turns if wish.keep_turns is not None else keep_turns
        asked = _Asked(turn, history, divide(history, keep), wish, prefer, client, tried)
        made = self._strategies[wish.strategy](self, asked)
        seal, owner = self._seal, turn.owner
        if made.native is not None:
            family = made.family or ""
            item = seal_native(seal, owner, family, made.native, tail)
            context: Sequence[Item] = [seal_native(seal, owner, family, made.native, [])]
        else:
            item = seal_items(seal, owner, [*made.context, *tail])
            context = made.context
        before, after = _tokens(history), _tokens(made.context)
        note = {
            "strategy": made.strategy,
            "channel": made.channel,
            "before": before,
            "after": after if made.native is None else None,
            "usage": made.usage.wire() if made.usage else None,
        }
        return Compacted(item, context, made.usage or Usage(before, estimated=True), note)

    # --- strategies

    def _auto(self, asked: _Asked) -> _Pass:
        """Native where the channel has it; what a model can sum up is summed up where that fails."""
        try:
            return self._native(asked)
        except (CompactionFailed, Unavailable):
            return self._summary(asked)

    def _native(self, asked: _Asked) -> _Pass:
        last: UpstreamError | None = None
        for choice in self._choices(asked):
            if choice.channel.compact not in _NATIVE:
                continue
            began = monotonic()
            with choice:
                try:
                    made = self._native_pass(asked, choice)
                except UpstreamError as error:
                    choice.failed(error)
                    asked.tried(choice, began, error)
                    last = error
                    continue
                choice.succeeded()
                asked.tried(choice, began, None)
                return made
        if last is not None:
            raise CompactionFailed(f"The compaction failed: {last.message}") from last
        raise _not_supported(asked.turn.model)

    def _native_pass(self, asked: _Asked, choice: Choice) -> _Pass:
        turn = asked.internal(asked.turn.model, asked.history)
        if choice.channel.compact == "trigger":
            turn = replace(turn, input=[*asked.history, _TRIGGER])
            answer = whole_answer(turn, choice, asked.client)
        else:
            format_ = cast(Compacting, choice.format)
            body = format_.encode_compaction(turn, choice.channel, choice.model)
            answer = post(turn, choice, format_.COMPACTION_PATH, body, asked.client)
        native = next((item for item in answer.output if item.get("type") == "compaction"), None)
        if native is None:
            raise UpstreamError("The model's server compacted and gave no compaction item.")
        name, family = choice.channel.name, choice.channel.family
        return _Pass("native", [], answer.usage, native, family, name)

    def _summary(self, asked: _Asked) -> _Pass:
        plan = asked.plan
        if not plan.old:
            return _Pass("summary", asked.history)
        model = self._channels.compaction.model or asked.turn.model
        request: dict[str, Any] = {}
        if asked.wish.max_tokens is not None:
            request["max_output_tokens"] = asked.wish.max_tokens
        turn = asked.internal(model, to_summarise(plan, asked.wish.instructions), request)
        try:
            answer, choice = ask(
                turn, self._channels, self._contexts.fit, asked.tried, prefer=asked.prefer, client=asked.client
            )
        except FormatNotServed as error:
            raise _not_supported(model) from error
        except UpstreamError as error:
            raise CompactionFailed(f"The compaction failed: {error.message}") from error
        return _summed_up(plan, asked.history, answer, choice)

    def _trim(self, asked: _Asked) -> _Pass:
        if not asked.plan.old:
            return _Pass("trim", asked.history)
        return _Pass("trim", [summary_message(None), *asked.plan.kept])

    _strategies: Mapping[str, Callable[[Compaction, _Asked], _Pass]] = {
        "auto": _auto,
        "native": _native,
        "summary": _summary,
        "trim": _trim,
    }

    def _choices(self, asked: _Asked) -> Any:
        try:
            return self._channels.choices(asked.turn.model, asked.prefer)
        except FormatNotServed as error:
            raise _not_supported(asked.turn.model) from error


@dataclass(frozen=True, slots=True)
class _Asked:
    """What one compaction was asked to do."""

    turn: Turn
    history: Sequence[Item]
    plan: Plan
    wish: Wish
    prefer: str | None
    client: int | None
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


def split_for_answer(items: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Item]]:
    """A conversation sent as one array: what came before, and the newest turn, which is to be answered."""
    start = len(items)
    while start and not _is_said(items[start - 1]):
        start -= 1
    while start and _is_said(items[start - 1]):
        start -= 1
    return items[:start], items[start:]


def pseudo_chain(turn: Turn, compacted: Compacted) -> Chain:
    """The compacted history where a chain would stand. It goes by its tip's id, behind which the originals lie."""
    tip = turn.chain.tip
    return Chain(
        (
            Link(
                id=tip.id if tip else "",
                parent=None,
                depth=0,
                status="completed",
                channel=None,
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
    """How large the context is: as the parent's upstream counted it, else four bytes a token; and the new input."""
    tip, own = turn.chain.tip, _tokens(turn.input)
    if tip is None:
        return own
    if tip.input_tokens:
        return tip.input_tokens + (tip.output_tokens or 0) + own
    return own + sum(len(link.input) + len(link.output) for link in turn.chain.links) // 4


def _summed_up(plan: Plan, history: Sequence[Item], answer: Answer, choice: Choice) -> _Pass:
    text = "".join(
        part.get("text", "")
        for item in answer.output
        if item.get("type") == "message"
        for part in item.get("content", ())
        if part.get("type") == "output_text"
    ).strip()
    if not text:
        raise CompactionFailed("The compaction failed: the model's summary was empty.")
    if len(text.encode()) > len(orjson.dumps(list(plan.old))):
        # Longer than what it would replace: the items themselves are the better summary.
        return _Pass("summary", history, answer.usage, channel=choice.channel.name)
    return _Pass("summary", [summary_message(text), *plan.kept], answer.usage, channel=choice.channel.name)


def _is_said(item: Item) -> bool:
    return item.get("role") == "user" and not is_summary(item)


def _tokens(items: Sequence[Item]) -> int:
    return len(orjson.dumps(list(items))) // 4 if items else 0


def _not_supported(model: str) -> Unavailable:
    error = Unavailable(
        f"No channel of the model '{model}' can compact a conversation.",
        code="responses_compact_not_supported",
        param="model",
    )
    error.should_retry = False
    return error
