"""What the gateway does with a request: a turn is opened, a channel asked, the answer stored and given.

The relay is handed its store and its channels; it knows no Flask, no requests and no peewee.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import time
from typing import Any

from app import ids
from app.echo import Echo
from app.errors import (
    ClientGone,
    CompactionFailed,
    GatewayError,
    InvalidRequest,
    Unavailable,
    response_not_found,
)
from app.records import Chain, Stored, Token, Usage
from app.relay.asking import ask
from app.relay.compacting import is_summary
from app.relay.compaction import Compaction, context_tokens, pseudo_chain, split_for_answer
from app.relay.context import Contexts
from app.relay.keeper import Keeper, Running
from app.relay.listing import context_items, page, returned
from app.relay.mover import Drain, Pace
from app.relay.once import Once
from app.relay.opening import check_model, open_history, open_turn
from app.relay.ports import Channels, Store
from app.relay.recorder import Recorder
from app.relay.stream import EventStream, whole
from app.schemas.create import CompactRequest
from app.schemas.listing import Page
from app.sealing import Seals
from app.turn import Answer, Item, Turn

__all__ = ["Asked", "Drain", "EventStream", "Keeper", "Pace", "Relay"]

#: Newest turns that a compaction keeps word for word, where the request does not say.
_KEEP_BEFORE_ANSWER = 1
_KEEP_NOTHING = 0

_TRIGGER = "compaction_trigger"


@dataclass(frozen=True, slots=True)
class Asked:
    """Who waits for an answer. `client` is the descriptor of their connection, where there is one to watch."""

    request_id: str
    client: int | None = None
    key: str | None = None
    """The Idempotency-Key, where there is one."""
    told: dict[str, str] = field(default_factory=dict)
    """What they are told beside the answer, as headers; filled in while it is made."""

    def tell_dropped(self, tools: Sequence[str]) -> None:
        if tools:
            self.told["X-Antiphon-Dropped-Tools"] = ", ".join(tools)

    def tell_replayed(self) -> None:
        self.told["Idempotent-Replayed"] = "true"


#: Makes the history of a turn shorter, or leaves it.
Shorten = Callable[[Turn, Recorder, Asked], Turn]
#: The output of a response that is nothing but a compaction, from the history and the item.
Output = Callable[[Sequence[Item], Item], Sequence[Item]]


class Relay:
    def __init__(self, store: Store, channels: Channels, seals: Seals, pace: Pace) -> None:
        self._store = store
        self._channels = channels
        self._seals = seals
        self._pace = pace
        self._contexts = Contexts(store, seals)
        self._compaction = Compaction(channels, self._contexts, seals.compaction)
        self.running = Running()

    def over(self, store: Store) -> Relay:
        """The same relay over another store."""
        relay = Relay(store, self._channels, self._seals, self._pace)
        relay.running = self.running
        return relay

    # --- answering

    def create(self, token: Token, request: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
        """The whole response object, stored. Raises GatewayError, or ClientGone when nobody waits for it any more."""
        if _ends_with_trigger(request):
            return self._compacted_context(token, request, asked)
        turn = open_turn(self._store, self._contexts, token, request, int(time()))
        return self._create(turn, token, asked, self._compacted_if_due)

    def stream(self, token: Token, request: Mapping[str, Any], asked: Asked) -> Iterable[bytes]:
        """The response as events, opened: an upstream has accepted. Raises as `create` does."""
        if _ends_with_trigger(request):
            return whole(self._compacted_context(token, request, asked))
        turn = open_turn(self._store, self._contexts, token, request, int(time()))
        return self._stream(turn, token, asked, self._compacted_if_due)

    def warm_up(self, token: Token, request: Mapping[str, Any], asked: Asked) -> Iterable[bytes]:
        """A turn that nobody answers, as events: what it brings is there to be gone on from."""
        turn = open_turn(self._store, self._contexts, token, request, int(time()))
        self._channels.choices(turn.model)
        recorder = Recorder(self._store, turn, token, asked.request_id)
        return whole(recorder.finish(Answer("completed", (), Usage()), None))

    def _create(self, turn: Turn, token: Token, asked: Asked, shorten: Shorten) -> dict[str, Any]:
        once = Once(self._store, token, turn, asked.key)
        if (earlier := once.earlier()) is not None:
            return _replayed(earlier, asked)
        recorder = Recorder(self._store, turn, token, asked.request_id)
        with _recorded(recorder, once):
            turn = shorten(turn, recorder, asked)
            answer, answered = ask(
                turn,
                self._channels,
                self._contexts.fit,
                recorder.tried,
                prefer=self._prefer(turn),
                client=asked.client,
            )
            asked.tell_dropped(answered.dropped)
            return recorder.finish(answer, answered.choice)

    def _stream(self, turn: Turn, token: Token, asked: Asked, shorten: Shorten) -> Iterable[bytes]:
        once = Once(self._store, token, turn, asked.key)
        if (earlier := once.earlier()) is not None:
            return whole(_replayed(earlier, asked))
        recorder = Recorder(self._store, turn, token, asked.request_id)
        with _recorded(recorder, once):
            turn = shorten(turn, recorder, asked)
            return self._opened(turn, recorder, asked)

    def _opened(self, turn: Turn, recorder: Recorder, asked: Asked) -> EventStream:
        events = EventStream(
            turn,
            self._channels,
            recorder,
            fit=self._contexts.fit,
            prefer=self._prefer(turn),
            client=asked.client,
            pace=self._pace,
            running=self.running,
        ).open()
        asked.tell_dropped(events.dropped)
        return events

    def _prefer(self, turn: Turn) -> str | None:
        """Where the conversation was last: what only its maker can read can be read there."""
        return turn.chain.tip.channel if turn.chain.tip else self._contexts.maker(turn)

    # --- compacting

    def answers(self, compact: CompactRequest) -> bool:
        """Whether the compaction is asked for with something to answer over it; the wish's `answer` decides where it
        is given and there is something."""
        wished = self._compaction.wish(compact.request).answer
        return compact.answers if wished is None else wished and bool(compact.request.get("input"))

    def compact(self, token: Token, request: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
        """The history is compacted, then the input is answered: an ordinary response."""
        turn = open_turn(self._store, self._contexts, token, request, int(time()))
        return self._create(turn, token, asked, self._compacted_before)

    def compact_stream(self, token: Token, request: Mapping[str, Any], asked: Asked) -> Iterable[bytes]:
        turn = open_turn(self._store, self._contexts, token, request, int(time()))
        return self._stream(turn, token, asked, self._compacted_before)

    def window(self, token: Token, request: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
        """OpenAI's compaction object: the users' messages word for word and one item."""
        response = self._compact_only(token, request, asked, lambda history, item: [*_user_messages(history), item])
        return {
            "id": response["id"],
            "object": "response.compaction",
            "created_at": response["created_at"],
            "output": response["output"],
            "usage": response["usage"],
        }

    def _compacted_if_due(self, turn: Turn, recorder: Recorder, asked: Asked) -> Turn:
        """Over the threshold the history is compacted first; when that fails, the turn goes on as it is."""
        wish = self._compaction.wish(turn.request)
        if wish.threshold is None or context_tokens(turn) <= wish.threshold:
            return turn
        try:
            return self._compacted_before(turn, recorder, asked)
        except (CompactionFailed, Unavailable) as error:
            note = {"strategy": wish.strategy, "failed": error.code, "message": error.message}
            turn = replace(turn, compaction=note)
            recorder.compacted(turn)
            return turn

    def _compacted_before(self, turn: Turn, recorder: Recorder, asked: Asked) -> Turn:
        """The turn over a compacted history, its own input as it was. Without a history there is nothing to do."""
        history, tail = split_for_answer(turn.input)
        if turn.chain.links:
            history, tail = self._contexts.items(turn), turn.input
        if not history:
            return turn
        made = self._compaction.compact(
            turn,
            history,
            tail,
            self._compaction.wish(turn.request),
            _KEEP_BEFORE_ANSWER,
            prefer=self._prefer(turn),
            client=asked.client,
            tried=recorder.tried,
        )
        shorter = replace(turn, preface=(made.item,), spent=made.usage, compaction=made.note)
        if turn.chain.links:
            shorter = replace(shorter, chain=pseudo_chain(turn, made))
        else:
            shorter = replace(shorter, chain=Chain(), input=[*made.context, *tail])
        recorder.compacted(shorter)
        return shorter

    def _compacted_context(self, token: Token, request: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
        """A context that ends with a trigger: exactly one compaction item, and no answer."""
        items = request["input"][:-1]
        return self._compact_only(token, {**request, "input": items}, asked, lambda _, item: [item])

    def _compact_only(self, token: Token, request: Mapping[str, Any], asked: Asked, output: Output) -> dict[str, Any]:
        turn = open_history(self._store, self._contexts, token, request, int(time()))
        check_model(token, turn.model)
        history = [*self._contexts.items(turn), *turn.input]
        if not history:
            raise InvalidRequest("There is nothing to compact.", code="empty_array", param="input")
        once = Once(self._store, token, turn, asked.key)
        if (earlier := once.earlier()) is not None:
            return _replayed(earlier, asked)
        recorder = Recorder(self._store, turn, token, asked.request_id)
        with _recorded(recorder, once):
            made = self._compaction.compact(
                turn,
                history,
                (),
                self._compaction.wish(request),
                _KEEP_NOTHING,
                prefer=self._prefer(turn),
                client=asked.client,
                tried=recorder.tried,
            )
            recorder.compacted(replace(turn, compaction=made.note))
            return recorder.finish(Answer("completed", output(history, made.item), made.usage), None)

    # --- what is stored

    def retrieve(self, token: Token, response_id: str, include: Iterable[str] = ()) -> dict[str, Any]:
        return response_object(self._stored(token, response_id), include)

    def delete(self, token: Token, response_id: str) -> dict[str, Any]:
        if not self._store.delete(token.owner, response_id):
            raise response_not_found(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    def cancel(self, token: Token, response_id: str) -> dict[str, Any]:
        self._stored(token, response_id)
        raise InvalidRequest("Cannot cancel a synchronous response.")

    def input_items(self, token: Token, response_id: str, wanted: Page, include: Iterable[str] = ()) -> dict[str, Any]:
        """The context of a response, paged."""
        stored = self._stored(token, response_id)
        chain = self._contexts.load(token.owner, stored.parent) if stored.parent else Chain()
        chain = self._contexts.shown_chain(token.owner, chain)
        stored = replace(stored, input=self._contexts.shown_array(token.owner, stored.input))
        echo = Echo.stored(stored.settings, stored.echo).including(include)
        return page([dict(echo.shown(item)) for item in context_items(chain, stored)], wanted)

    def _stored(self, token: Token, response_id: str) -> Stored:
        stored = self._store.response(token.owner, response_id)
        if stored is None:
            raise response_not_found(response_id)
        return stored


def response_object(stored: Stored, include: Iterable[str] = ()) -> dict[str, Any]:
    """What a GET answers: the same object that the POST gave."""
    echo = Echo.stored(stored.settings, stored.echo).including(include)
    return echo.response(
        id=stored.id,
        created_at=stored.created_at,
        model=stored.model,
        status=stored.status,
        previous_response_id=stored.parent,
        output=stored.output_items(),
        usage=stored.usage,
        completed_at=stored.completed_at,
        error=stored.error,
        incomplete_details=stored.incomplete_details,
    )


def _replayed(stored: Stored, asked: Asked) -> dict[str, Any]:
    asked.tell_replayed()
    return response_object(stored)


@contextmanager
def _recorded(recorder: Recorder, once: Once) -> Iterator[None]:
    """However the work ends, it is written down; what came to nothing may be asked for again."""
    try:
        yield
    except GatewayError as error:
        once.release()
        recorder.refuse(error)
        raise
    except ClientGone:
        once.release()
        recorder.cancel()
        raise


def _ends_with_trigger(request: Mapping[str, Any]) -> bool:
    items: Sequence[Item] = request.get("input") or []
    return bool(items) and items[-1].get("type") == _TRIGGER


def _user_messages(history: Sequence[Item]) -> Iterator[Item]:
    for position, item in enumerate(history):
        if item.get("role") == "user" and not is_summary(item):
            named = item if item.get("id") else {**item, "id": ids.new_item("message")}
            yield returned(named, "", position)
