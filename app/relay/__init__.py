"""What the gateway does with a request: a turn is opened, a channel asked, the answer stored and given.

The relay is handed its store and its channels; it knows no Flask, no requests and no peewee.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import time
from typing import Any, TypeVar

from app.contract.items import new_item_id
from app.echo import Echo
from app.errors import (
    ClientGone,
    CompactionFailed,
    GatewayError,
    InternalError,
    InvalidRequest,
    Unavailable,
    response_not_found,
)
from app.records import Chain, Stored, Token, Usage
from app.relay.announcement import Announcement
from app.relay.answers import Unstreamed
from app.relay.asked import Asked
from app.relay.asking import TurnAttempts
from app.relay.background import Background
from app.relay.compacting import is_summary
from app.relay.compaction import Compaction, context_tokens, pseudo_chain, split_for_answer
from app.relay.context import Contexts
from app.relay.conversations import Conversations
from app.relay.counting import count, estimate
from app.relay.keeper import Keeper, Running
from app.relay.lineage import Lineage
from app.relay.listing import context_items, page, returned
from app.relay.mover import Client, Mover, Pace, chunked, unframed
from app.relay.once import Once
from app.relay.opening import check_model, open_history, open_turn
from app.relay.ports import Channels
from app.relay.pump import Pump
from app.relay.recorder import Recorder
from app.relay.stream import EventStream, last_words, whole
from app.relay.watch import INTERRUPTIONS, Drain, Watch
from app.schemas.create import CompactRequest
from app.schemas.listing import Page
from app.sealing import Seals
from app.store import Store
from app.turn import Answer, Item, Turn

log = logging.getLogger(__name__)

__all__ = [
    "Asked",
    "Background",
    "Client",
    "Drain",
    "EventStream",
    "Keeper",
    "Mover",
    "Pace",
    "Pump",
    "Relay",
    "chunked",
    "unframed",
]

#: Newest turns that a compaction keeps word for word, where the request does not say.
_KEEP_BEFORE_ANSWER = 1
_KEEP_NOTHING = 0

_TRIGGER = "compaction_trigger"


T = TypeVar("T")

#: Makes the history of a turn shorter, or leaves it.
Shorten = Callable[[Turn, Recorder, Watch], Turn]
#: Opens the events of a turn.
Open = Callable[[Turn, Announcement, Asked, Watch], Iterable[bytes]]
#: The output of a response that is nothing but a compaction, from the history and the item.
Output = Callable[[Sequence[Item], Item], Sequence[Item]]


class Relay:
    def __init__(self, store: Store, channels: Channels, seals: Seals, mover: Mover) -> None:
        self._store = store
        self._channels = channels
        self._seals = seals
        self._mover = mover
        self._contexts = Contexts(store, seals)
        self._compaction = Compaction(channels, self._contexts, seals.compaction, mover)
        self.conversations = Conversations(store, self._contexts)
        self._lineage = Lineage(store)
        self.running = Running()

    def over(self, store: Store) -> Relay:
        """The same relay over another store. It has no thread of its own, so nothing of it has to be closed."""
        relay = Relay(store, self._channels, self._seals, self._mover)
        relay.running = self.running
        relay._lineage = self._lineage
        return relay

    # --- answering

    def create(self, token: Token, request: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
        """The whole response object, stored. Raises GatewayError, or ClientGone when nobody waits for it any more."""
        turn = self.open(token, request)
        return self.once(turn, token, asked, lambda recorder: self._answer(turn, recorder, asked), _itself)

    def stream(self, token: Token, request: Mapping[str, Any], asked: Asked) -> Iterable[bytes]:
        """The response as events, opened: an upstream has accepted. Raises as `create` does."""
        turn = self.open(token, request)
        return self.once(turn, token, asked, lambda recorder: self._stream(turn, recorder, asked, self._events), whole)

    def warm_up(self, token: Token, request: Mapping[str, Any], asked: Asked) -> Iterable[bytes]:
        """A turn that nobody answers, as events: what it brings is there to be gone on from."""
        turn = open_turn(self._store, self._contexts, token, request, int(time()))
        self._channels.choices(turn.model)
        recorder = Recorder(self._store, turn, token, asked.request_id, asked.entry)
        return whole(recorder.finish(Answer("completed", (), Usage()), None))

    def once(
        self,
        turn: Turn,
        token: Token,
        asked: Asked,
        make: Callable[[Recorder], T],
        again: Callable[[dict[str, Any]], T],
    ) -> T:
        """What `make` makes of the turn; where the same request has been answered before, that response."""
        asked.hold(turn.chain)
        once = Once(self._store, token, turn, asked.key)
        if (earlier := once.earlier()) is not None:
            asked.tell_replayed()
            return again(self.shown(earlier))
        with once:
            follow = self._lineage.follow(turn, token, asked.session)
            return make(Recorder(self._store, turn, token, asked.request_id, asked.entry, follow))

    def open(self, token: Token, request: Mapping[str, Any]) -> Turn:
        """The turn that a request asks for. Raises InvalidRequest and NotFound."""
        if not _ends_with_trigger(request):
            return open_turn(self._store, self._contexts, token, request, int(time()))
        items = request["input"][:-1]
        turn = self._open_to_compact(token, {**request, "input": items})
        return replace(turn, request=request)

    def check_served(self, turn: Turn) -> None:
        """Raises GatewayError when no channel can answer."""
        self._channels.choices(turn.model)

    def events(self, turn: Turn, recorder: Recorder, client: int, say: Callable[[bytes], None]) -> Iterable[bytes]:
        """The events of a turn that a run has opened, for a client that can only hang up. Raises as `create` does, also
        when `say` was given their beginning: the run tells of its own end."""
        asked = Asked("", client, say=say)
        watch = self._watch(asked)
        announcement = Announcement(turn, recorder, asked, watch, Running(), self._mover.pace)
        with _recorded(recorder):
            return self._events(turn, announcement, asked, watch)

    def _watch(self, asked: Asked) -> Watch:
        return Watch(asked.client, self._mover.pace.drain)

    def _answer(self, turn: Turn, recorder: Recorder, asked: Asked) -> dict[str, Any]:
        if _ends_with_trigger(turn.request):
            with _recorded(recorder):
                return self._compact_only(turn, recorder, self._watch(asked), _item_alone)
        return self._create(turn, recorder, asked, self._compacted_if_due)

    def _create(self, turn: Turn, recorder: Recorder, asked: Asked, shorten: Shorten) -> dict[str, Any]:
        watch = self._watch(asked)
        with _recorded(recorder):
            turn = shorten(turn, recorder, watch)
            attempts = TurnAttempts(turn, self._channels, self._contexts.fit, recorder.tried, watch, self._prefer(turn))
            answer, answered = attempts.first(Unstreamed(watch))
            asked.tell_dropped(answered.dropped)
            return recorder.finish(answer, answered.choice)

    def _stream(self, turn: Turn, recorder: Recorder, asked: Asked, opening: Open) -> Iterable[bytes]:
        """The events that `opening` gives. When their head has left before an upstream has accepted, a failure is told
        by events as well; until then it raises."""
        watch = self._watch(asked)
        announcement = Announcement(turn, recorder, asked, watch, self.running, self._mover.pace)
        try:
            return opening(turn, announcement, asked, watch)
        except ClientGone:
            announcement.end()
            recorder.cancel()
            raise
        except GatewayError as error:
            if announcement.sent:
                return _ended(announcement, error)
            announcement.end()
            recorder.refuse(error)
            raise
        except Exception:
            if not announcement.sent:
                announcement.end()
                raise
            log.exception("response %s failed", turn.id)
            return _ended(announcement, InternalError())

    def _events(self, turn: Turn, announcement: Announcement, asked: Asked, watch: Watch) -> Iterable[bytes]:
        if _ends_with_trigger(turn.request):
            response = self._compact_only(turn, announcement.recorder, watch, _item_alone)
            announcement.end()
            return whole(response, announcement.sent)
        turn = self._compacted_if_due(turn, announcement.recorder, watch)
        return self._opened(turn, announcement, asked, watch)

    def _events_over_shorter(
        self, turn: Turn, announcement: Announcement, asked: Asked, watch: Watch
    ) -> Iterable[bytes]:
        turn = self._compacted_before(turn, announcement.recorder, watch)
        return self._opened(turn, announcement, asked, watch)

    def _opened(self, turn: Turn, announcement: Announcement, asked: Asked, watch: Watch) -> EventStream:
        events = EventStream(
            turn,
            self._channels,
            announcement,
            fit=self._contexts.fit,
            prefer=self._prefer(turn),
            watch=watch,
            client=asked.connection,
            mover=self._mover,
        ).open()
        asked.tell_dropped(events.dropped)
        return events

    def _prefer(self, turn: Turn) -> str | None:
        """Where the conversation was last: what only its maker can read can be read there."""
        channels = (link.channel for link in reversed(turn.chain.links) if link.channel is not None)
        return next(channels, None) if turn.chain.links else self._contexts.maker(turn)

    # --- compacting

    def answers(self, compact: CompactRequest) -> bool:
        """Whether the compaction is asked for with something to answer over it; the wish's `answer` decides where it
        is given and there is something."""
        wished = self._compaction.wish(compact.request).answer
        return compact.answers if wished is None else wished and bool(compact.request.get("input"))

    def compact(self, token: Token, request: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
        """The history is compacted, then the input is answered: an ordinary response."""
        turn = open_turn(self._store, self._contexts, token, request, int(time()))
        return self.once(
            turn, token, asked, lambda recorder: self._create(turn, recorder, asked, self._compacted_before), _itself
        )

    def compact_stream(self, token: Token, request: Mapping[str, Any], asked: Asked) -> Iterable[bytes]:
        turn = open_turn(self._store, self._contexts, token, request, int(time()))

        def stream(recorder: Recorder) -> Iterable[bytes]:
            return self._stream(turn, recorder, asked, self._events_over_shorter)

        return self.once(turn, token, asked, stream, whole)

    def window(self, token: Token, request: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
        """OpenAI's compaction object: the users' messages word for word and one item."""
        turn = self._open_to_compact(token, request)

        def make(recorder: Recorder) -> dict[str, Any]:
            with _recorded(recorder):
                return self._compact_only(turn, recorder, self._watch(asked), _window)

        response = self.once(turn, token, asked, make, _itself)
        return {
            "id": response["id"],
            "object": "response.compaction",
            "created_at": response["created_at"],
            "output": response["output"],
            "usage": response["usage"],
        }

    def _compacted_if_due(self, turn: Turn, recorder: Recorder, watch: Watch) -> Turn:
        """Over the threshold the history is compacted first; when that fails, the turn goes on as it is."""
        wish = self._compaction.wish(turn.request)
        if wish.threshold is None or context_tokens(turn) <= wish.threshold:
            return turn
        try:
            return self._compacted_before(turn, recorder, watch)
        except INTERRUPTIONS:
            raise
        except (CompactionFailed, Unavailable) as error:
            note = {"strategy": wish.strategy, "failed": error.name, "message": error.message}
            turn = replace(turn, compaction=note)
            recorder.compacted(turn)
            return turn

    def _compacted_before(self, turn: Turn, recorder: Recorder, watch: Watch) -> Turn:
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
            watch=watch,
            tried=recorder.tried,
        )
        shorter = replace(turn, preface=(made.item,), spent=made.usage, compaction=made.note)
        if turn.chain.links:
            shorter = replace(shorter, chain=pseudo_chain(turn, made))
        else:
            shorter = replace(shorter, chain=Chain(), input=[*made.context, *tail])
        recorder.compacted(shorter)
        return shorter

    def _open_to_compact(self, token: Token, request: Mapping[str, Any]) -> Turn:
        """A turn whose context is only to be compacted."""
        turn = open_history(self._store, self._contexts, token, request, int(time()))
        check_model(token, turn.model)
        if not turn.input and not turn.chain.links:
            raise InvalidRequest("There is nothing to compact.", code="empty_array", param="input")
        return turn

    def _compact_only(self, turn: Turn, recorder: Recorder, watch: Watch, output: Output) -> dict[str, Any]:
        history = [*self._contexts.items(turn), *turn.input]
        made = self._compaction.compact(
            turn,
            history,
            (),
            self._compaction.wish(turn.request),
            _KEEP_NOTHING,
            prefer=self._prefer(turn),
            watch=watch,
            tried=recorder.tried,
        )
        recorder.compacted(replace(turn, compaction=made.note))
        return recorder.finish(Answer("completed", output(history, made.item), made.usage), None)

    # --- counting

    def count(self, token: Token, request: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
        """How many tokens the request would take. Nothing is stored."""
        model = request.get("model") or self._model_before(token, request)
        turn = open_history(self._store, self._contexts, token, {**request, "model": model}, int(time()))
        tokens = None
        if model:
            check_model(token, model)
            watch = self._watch(asked)
            tokens = count(turn, self._channels, self._contexts.fit, prefer=self._prefer(turn), watch=watch)
        if tokens is None:
            asked.tell_estimated("input_tokens")
            tokens = estimate(turn)
        return {"object": "response.input_tokens", "input_tokens": tokens}

    def _model_before(self, token: Token, request: Mapping[str, Any]) -> str:
        """What the previous response was asked of; nothing where there is none."""
        previous = request.get("previous_response_id")
        stored = self._store.responses.read(token.owner, previous) if previous else None
        return stored.model if stored else ""

    # --- what is stored

    def retrieve(self, token: Token, response_id: str, include: Iterable[str] = ()) -> dict[str, Any]:
        return self.shown(self.stored(token, response_id), include)

    def delete(self, token: Token, response_id: str) -> dict[str, Any]:
        if not self._store.responses.delete(token.owner, response_id):
            raise response_not_found(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    def input_items(self, token: Token, response_id: str, wanted: Page, include: Iterable[str] = ()) -> dict[str, Any]:
        """The context of a response, paged."""
        stored = self.stored(token, response_id)
        chain = self._contexts.shown_chain(token.owner, self._contexts.before(stored))
        stored = replace(stored, input=self._contexts.shown_array(token.owner, stored.input))
        echo = Echo.stored(stored.settings, stored.echo).including(include)
        return page([dict(echo.shown(item)) for item in context_items(chain, stored)], wanted)

    def stored(self, token: Token, response_id: str) -> Stored:
        stored = self._store.responses.read(token.owner, response_id)
        if stored is None:
            raise response_not_found(response_id)
        return stored

    def shown(self, stored: Stored, include: Iterable[str] = ()) -> dict[str, Any]:
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


@contextmanager
def _recorded(recorder: Recorder) -> Iterator[None]:
    """However the work ends, it is written down."""
    try:
        yield
    except GatewayError as error:
        recorder.refuse(error)
        raise
    except ClientGone:
        recorder.cancel()
        raise


def _ended(announcement: Announcement, error: GatewayError) -> Iterator[bytes]:
    """What is left of a stream that has failed: its end, which is stored at once."""
    try:
        ending = last_words(announcement, error)
    finally:
        announcement.end()
    return (event for event in (ending,))


def _ends_with_trigger(request: Mapping[str, Any]) -> bool:
    items: Sequence[Item] = request.get("input") or []
    return bool(items) and items[-1].get("type") == _TRIGGER


def _item_alone(_: Sequence[Item], item: Item) -> Sequence[Item]:
    """The output of a context that ends with a trigger: exactly one compaction item, and no answer."""
    return [item]


def _itself(response: dict[str, Any]) -> dict[str, Any]:
    return response


def _window(history: Sequence[Item], item: Item) -> Sequence[Item]:
    return [*_user_messages(history), item]


def _user_messages(history: Sequence[Item]) -> Iterator[Item]:
    for position, item in enumerate(history):
        if item.get("role") == "user" and not is_summary(item):
            named = item if item.get("id") else {**item, "id": new_item_id("message")}
            yield returned(named, "", position)
