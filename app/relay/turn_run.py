"""One turn on its way to its response: an object that knows its steps.

The steps are: claim the idempotency key, shorten the history, have a channel answer, store. The subclasses differ in
whether the history is shortened, and whether anything is answered over it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from time import time
from typing import Any

from app.contract.items import Item, new_item_id
from app.contract.records import Chain, Stored, Token
from app.contract.turn import Answer, Turn
from app.contract.usage import Usage
from app.errors import ClientGone, CompactionFailed, GatewayError, InternalError, InvalidRequest, Unavailable
from app.relay.attempts import TurnAttempts, Unstreamed
from app.relay.compaction.context import Contexts
from app.relay.compaction.sealed_item import is_summary
from app.relay.compaction.service import Compacted, Compaction, context_tokens, pseudo_chain, split_for_answer
from app.relay.idempotency import Once
from app.relay.inferred_parents import Follow, Lineage, unfollowed
from app.relay.item_lists import returned
from app.relay.lease_keeper import Running
from app.relay.ports import Channels
from app.relay.recorder import Recorder
from app.relay.request_context import Asked
from app.relay.request_watch import INTERRUPTIONS, Watch
from app.relay.responses import shown
from app.relay.streaming.event_stream import EventStream, last_words
from app.relay.streaming.lifecycle_events import whole
from app.relay.streaming.stream_start import Announcement
from app.relay.streaming.transport import Mover
from app.relay.turn_builder import check_model, open_history, open_turn
from app.sealing import Seals
from app.store.store import Store

log = logging.getLogger(__name__)

#: Newest turns that a compaction keeps word for word, where the request does not say.
_KEEP_BEFORE_ANSWER = 1
_KEEP_NOTHING = 0

_TRIGGER = "compaction_trigger"


@dataclass(frozen=True, slots=True)
class TurnParts:
    """What the turns of one process work with. A connection that has a store of its own has its own value of this."""

    store: Store
    seals: Seals
    contexts: Contexts
    channels: Channels
    compaction: Compaction
    lineage: Lineage
    running: Running
    mover: Mover

    def with_store(self, store: Store) -> TurnParts:
        """The same parts with another store in front."""
        return replace(self, store=store, contexts=Contexts(store, self.seals))


def turn_of(parts: TurnParts, token: Token, request: Mapping[str, Any]) -> Turn:
    """The turn of a request. Raises InvalidRequest and NotFound."""
    if not _ends_with_trigger(request):
        return open_turn(parts.store, parts.contexts, token, request, int(time()))
    turn = turn_to_compact(parts, token, {**request, "input": request["input"][:-1]})
    return replace(turn, request=request)


def turn_to_compact(parts: TurnParts, token: Token, request: Mapping[str, Any]) -> Turn:
    """A turn whose context is only compacted. Raises as `turn_of` does."""
    turn = open_history(parts.store, parts.contexts, token, request, int(time()))
    check_model(token, turn.model)
    if not turn.input and not turn.chain.links:
        raise InvalidRequest("There is nothing to compact.", code="empty_array", param="input")
    return turn


def run_of(parts: TurnParts, token: Token, turn: Turn, asked: Asked, recorder: Recorder | None = None) -> TurnRun:
    """The run that fits the turn's request."""
    kind = CompactionRun if _ends_with_trigger(turn.request) else TurnRun
    return kind(parts, token, turn, asked, recorder)


def run_of_request(parts: TurnParts, token: Token, request: Mapping[str, Any], asked: Asked) -> TurnRun:
    """The run of a client's request. Raises as `turn_of` does."""
    return run_of(parts, token, turn_of(parts, token, request), asked)


def last_channel(turn: Turn, contexts: Contexts) -> str | None:
    """The conversation's last channel: some items can be read there only."""
    channels = (link.channel for link in reversed(turn.chain.links) if link.channel is not None)
    return next(channels, None) if turn.chain.links else contexts.maker(turn)


class TurnRun:
    """A turn that a channel answers. Its history is compacted first when it is over the request's threshold."""

    def __init__(
        self, parts: TurnParts, token: Token, turn: Turn, asked: Asked, recorder: Recorder | None = None
    ) -> None:
        """`recorder`: for a response whose row is there already."""
        self.turn = turn
        self._parts = parts
        self._token = token
        self._asked = asked
        self._watch = Watch(asked.client, parts.mover.pace.drain)
        if recorder is not None:
            self.recorder = recorder

    # --- from outside

    def create(self) -> dict[str, Any]:
        """The response object, stored. Raises GatewayError, or ClientGone when the client has left."""
        once = self.claim()
        if (earlier := once.earlier()) is not None:
            return self.replayed(earlier)
        with once, _recorded(self.recorder):
            return self._respond()

    def stream(self) -> Iterable[bytes]:
        """The events, opened: an upstream has accepted, or the head has left. Raises as `create` does until then."""
        once = self.claim()
        if (earlier := once.earlier()) is not None:
            return whole(self.replayed(earlier))
        with once:
            return self._stream()

    def events(self) -> Iterable[bytes]:
        """The events for a client that can only hang up. Raises as `create` does, also after the head has left."""
        with _recorded(self.recorder):
            return self._events(self._announcement())

    def check_served(self) -> None:
        """Raises GatewayError when no channel serves the model."""
        self._parts.channels.choices(self.turn.model)

    def claim(self) -> Once:
        """The claim on the request's idempotency key. Raises PayloadTooLarge and Overloaded."""
        self._asked.hold(self.turn)
        return Once(self._parts.store, self._token, self.turn, self._asked.key)

    def replayed(self, earlier: Stored) -> dict[str, Any]:
        """The response that the same request got before."""
        self._asked.tell_replayed()
        return shown(earlier)

    # --- steps

    @cached_property
    def recorder(self) -> Recorder:
        asked = self._asked
        return Recorder(self._parts.store, self.turn, self._token, asked.request_id, asked.entry, self._follow())

    def _follow(self) -> Follow:
        return self._parts.lineage.follow(self.turn, self._token, self._asked.session)

    def _respond(self) -> dict[str, Any]:
        self._shorten()
        answer, attempt = self._attempts().first(Unstreamed(self._watch))
        self._asked.tell_dropped(attempt.dropped)
        return self.recorder.finish(answer, attempt.choice)

    def _events(self, announcement: Announcement) -> Iterable[bytes]:
        self._shorten()
        events = EventStream(
            self.turn, self._attempts(), announcement, self._watch, self._asked.connection, self._parts.mover
        ).open()
        self._asked.tell_dropped(events.dropped)
        return events

    def _shorten(self) -> None:
        """Compacts the history if it is over the threshold. If that fails, the turn goes on as it is."""
        settings = self._parts.compaction.wish(self.turn.request)
        if settings.threshold is None or context_tokens(self.turn) <= settings.threshold:
            return
        try:
            self._compact_history()
        except INTERRUPTIONS:
            raise
        except (CompactionFailed, Unavailable) as error:
            note = {"strategy": settings.strategy, "failed": error.name, "message": error.message}
            self._go_on_with(replace(self.turn, compaction=note))

    def _compact_history(self) -> None:
        """Puts a compacted history before the turn's own input. Without a history nothing changes."""
        turn = self.turn
        history, tail = split_for_answer(turn.input)
        if turn.chain.links:
            history, tail = self._parts.contexts.items(turn), turn.input
        if not history:
            return
        compacted = self._compacted(history, tail, _KEEP_BEFORE_ANSWER)
        shorter = replace(turn, preface=(compacted.item,), spent=compacted.usage, compaction=compacted.note)
        if turn.chain.links:
            shorter = replace(shorter, chain=pseudo_chain(turn, compacted))
        else:
            shorter = replace(shorter, chain=Chain(), input=[*compacted.context, *tail])
        self._go_on_with(shorter)

    # --- what the steps share

    def _compacted(self, history: Sequence[Item], tail: Sequence[Item], keep_turns: int) -> Compacted:
        parts, turn = self._parts, self.turn
        return parts.compaction.compact(
            turn,
            history,
            tail,
            parts.compaction.wish(turn.request),
            keep_turns,
            contexts=parts.contexts,
            prefer=last_channel(turn, parts.contexts),
            watch=self._watch,
            tried=self.recorder.tried,
        )

    def _go_on_with(self, turn: Turn) -> None:
        self.turn = turn
        self.recorder.compacted(turn)

    def _attempts(self) -> TurnAttempts:
        parts = self._parts
        prefer = last_channel(self.turn, parts.contexts)
        return TurnAttempts(self.turn, parts.channels, parts.contexts.fit, self.recorder.tried, self._watch, prefer)

    def _announcement(self) -> Announcement:
        parts = self._parts
        return Announcement(self.turn, self.recorder, self._asked, self._watch, parts.running, parts.mover.pace)

    def _stream(self) -> Iterable[bytes]:
        """Once the head has left, a failure is told by events; until then it raises."""
        announcement = self._announcement()
        try:
            return self._events(announcement)
        except ClientGone:
            announcement.end()
            self.recorder.cancel()
            raise
        except GatewayError as error:
            if announcement.sent:
                return _failed(announcement, error)
            announcement.end()
            self.recorder.refuse(error)
            raise
        except Exception:
            if not announcement.sent:
                announcement.end()
                raise
            log.exception("response %s failed", self.turn.id)
            return _failed(announcement, InternalError())


class CompactedRun(TurnRun):
    """A turn that is answered over a compacted history, however short the history is."""

    def _shorten(self) -> None:
        self._compact_history()


class CompactionRun(TurnRun):
    """A turn whose context ends with a trigger: the response is one compaction item, and nothing is answered."""

    def _respond(self) -> dict[str, Any]:
        history = [*self._parts.contexts.items(self.turn), *self.turn.input]
        compacted = self._compacted(history, (), _KEEP_NOTHING)
        self._go_on_with(replace(self.turn, compaction=compacted.note))
        output = self._output(history, compacted.item)
        return self.recorder.finish(Answer("completed", output, compacted.usage), None)

    def _events(self, announcement: Announcement) -> Iterable[bytes]:
        response = self._respond()
        announcement.end()
        return whole(response, announcement.sent)

    def _output(self, history: Sequence[Item], item: Item) -> Sequence[Item]:
        return [item]


class WindowRun(CompactionRun):
    """OpenAI's compaction window: the users' messages word for word, and the item."""

    def _output(self, history: Sequence[Item], item: Item) -> Sequence[Item]:
        return [*_user_messages(history), item]


class WarmUpRun(TurnRun):
    """A turn of a WebSocket that no channel answers: its input is there for the next turn to continue from."""

    def stream(self) -> Iterable[bytes]:
        self.check_served()
        self._asked.hold(self.turn)
        return whole(self.recorder.finish(Answer("completed", (), Usage()), None))

    def _follow(self) -> Follow:
        return unfollowed


@contextmanager
def _recorded(recorder: Recorder) -> Iterator[None]:
    """Records how the work inside fails."""
    try:
        yield
    except GatewayError as error:
        recorder.refuse(error)
        raise
    except ClientGone:
        recorder.cancel()
        raise


def _failed(announcement: Announcement, error: GatewayError) -> Iterator[bytes]:
    """The rest of a stream that has failed: its end, which is stored at once."""
    try:
        ending = last_words(announcement, error)
    finally:
        announcement.end()
    return (event for event in (ending,))


def _ends_with_trigger(request: Mapping[str, Any]) -> bool:
    items: Sequence[Item] = request.get("input") or []
    return bool(items) and items[-1].get("type") == _TRIGGER


def _user_messages(history: Sequence[Item]) -> Iterator[Item]:
    for position, item in enumerate(history):
        if item.get("role") == "user" and not is_summary(item):
            named = item if item.get("id") else {**item, "id": new_item_id("message")}
            yield returned(named, "", position)
