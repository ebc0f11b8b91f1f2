"""Rewrites a stream that does not keep the contract: one item after the other, each announced, filled and ended, with
one id and an `output_index` of its own.

Events of a later item wait until the open item has ended. An open reasoning item ends when another item begins: some
upstreams end it only with the whole answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.contract.events import (
    ANNOTATION_ADDED,
    ARGUMENT_EVENTS,
    CONTENT_PART,
    ITEM_ADDED,
    ITEM_DONE,
    MISNAMED_PART,
    SUMMARY_PART,
    TEXT_EVENTS,
)
from app.contract.items import STREAMED_CALLS, TEXT_TYPES, TYPES, WITH_STATUS, Item
from app.contract.replay import cut_off, has_arguments, may_be_cut, with_arguments
from app.contract.turn import Turn
from app.errors import UpstreamBroken
from app.formats._events import Emitter
from app.formats.responses import _item_stream, _items

#: The types of the items that an event of a family can belong to, the likeliest first.
_TYPES: Mapping[str, tuple[str, ...]] = {
    **{
        family: tuple(item.name for item in TYPES.values() if part in item.parts)
        for part, (family, _) in TEXT_EVENTS.items()
    },
    **{family: (kind,) for kind, (family, _) in ARGUMENT_EVENTS.items()},
    CONTENT_PART: tuple(item.name for item in TYPES.values() if "content" in item.grows),
    ANNOTATION_ADDED.rpartition(".")[0]: ("message",),
    SUMMARY_PART: ("reasoning",),
    MISNAMED_PART: ("reasoning",),
}
#: Members that identify an item and never change.
_IDENTITY = ("id", "type", "call_id", "name")
#: The streamed items that always have a status.
_STATED = (TEXT_TYPES | STREAMED_CALLS) & WITH_STATUS


class _ItemTrack:
    """One item of the upstream, and its events that have not been sent."""

    def __init__(self, announced: Item) -> None:
        self.announced = announced
        self.type: str = announced["type"]
        self.item: Item | None = None
        """As it was announced to the client."""
        self.body: _item_stream.ItemStream | None = None
        self.waiting: list[Mapping[str, Any]] = []
        self.end: Item | None = None
        """The finished item, from the upstream."""
        self.sent_id: object = None
        """The `item_id` of its events."""
        self.followed = False
        """Another event has come after its end."""

    def may_be(self, item: Mapping[str, Any]) -> bool:
        """Whether an item with an unknown id may be this one."""
        return self.is_like(item) and self._agrees(item, "call_id")

    def is_followed_by(self, item: Mapping[str, Any]) -> bool:
        """Whether this is another call, although it has the id of this one, which has ended."""
        name = TYPES[self.type].arguments if self.type in STREAMED_CALLS else None
        return name is not None and self.end is not None and bool(item.get(name)) and item[name] != self.end.get(name)

    def is_like(self, item: Mapping[str, Any]) -> bool:
        return self.type == item.get("type", self.type) and self._agrees(item, "name")

    @property
    def is_empty_call(self) -> bool:
        """Whether this is a call with arguments in JSON, and neither its end nor an event before it has any."""
        known = TYPES.get(self.type)
        sent = self.body.snapshot() if self.body else {}
        sources = (self.announced, sent, self.end or {})
        return known is not None and known.json_arguments and not any(map(has_arguments, sources))

    def _agrees(self, item: Mapping[str, Any], name: str) -> bool:
        ours, theirs = self.announced.get(name), item.get(name)
        return not ours or not theirs or ours == theirs


class Repair:
    """Takes an upstream's output events and returns the contract's."""

    def __init__(self, turn: Turn, sequence: int, done: Sequence[Item] = ()) -> None:
        self.items: list[Item] = list(done)
        """Finished items."""
        self._turn = turn
        self._emitter = Emitter(sequence, len(turn.shown_items) + len(done))
        self._events: list[bytes] = []
        self._queue: list[_ItemTrack] = []
        self._tracks: list[_ItemTrack] = []
        self._by_id: dict[str, _ItemTrack] = {}
        self._by_index: dict[int, _ItemTrack] = {}
        self._taken = _items.TakenIds(turn)
        self._held: Item | None = None
        for item in done:
            self._remember(item)

    @property
    def sequence(self) -> int:
        return self._emitter.sequence

    def catch_up(self, events: Iterable[Mapping[str, Any]], sequence: int) -> None:
        """Takes events that have been sent already."""
        for event in events:
            self.take(event)
        self._emitter.sequence = sequence

    def take(self, event: Mapping[str, Any]) -> list[bytes]:
        kind = event["type"]
        self._follow()
        if kind == ITEM_ADDED:
            self._add(event)
        elif kind == ITEM_DONE:
            self._finish(event)
        else:
            self._on_delta(event)
        self._emit_ready()
        return self._drain()

    def end(self, output: Sequence[Item], status: str) -> list[bytes]:
        """Ends open items by the upstream's response object, and adds items that only this object holds."""
        for item, track in self._matched(output):
            if track is None:
                self._track(item).end = item
            elif track.end is None:
                track.end = item if item.get("status") else {**item, "status": status}
        for track in self._queue:
            if track.end is None:
                track.end = {"status": status}
        if status == "incomplete" and self._queue and self._queue[-1].is_empty_call:
            self._queue[-1].end = {**(self._queue[-1].end or {}), "status": status}
        self._follow()
        self._emit_ready()
        if self._queue:
            raise UpstreamBroken("The model's server sent a call without a name.")
        return self._drain()

    def release(self, *, cut: bool) -> list[bytes]:
        """The end of the last item, if it was held back."""
        if cut and self._held is not None:
            self._held = self.items[-1] = cut_off(self._held)
        self._release()
        return self._drain()

    def partial(self) -> list[Item]:
        """All items that were announced; an unfinished last one is `incomplete`."""
        current = self._queue[0] if self._queue else None
        if current is None or current.item is None or current.body is None:
            return list(self.items)
        return [*self.items, cut_off({**current.item, **current.body.snapshot()})]

    # --- what the upstream says

    def _add(self, event: Mapping[str, Any]) -> None:
        announced = event.get("item")
        if not isinstance(announced, dict):
            return
        known = self._by_id.get(str(announced.get("id")))
        if known is not None and known.end is None and known.may_be(announced):
            return
        self._place(self._track(announced), event)

    def _finish(self, event: Mapping[str, Any]) -> None:
        item = event.get("item")
        if not isinstance(item, dict):
            return
        track = self._owner_of(item, event)
        if track is None:
            track = self._track(item)
            self._place(track, event)
        if track.end is None:
            track.end = item

    def _on_delta(self, event: Mapping[str, Any]) -> None:
        types = _types_of(event)
        track = self._track_of(event, types)
        if not types and (track is None or track.end is not None):
            self._pass(event)
            return
        if track is None and types and _has_content(event):
            track = self._track({"type": types[0], "id": event.get("item_id")})
            self._place(track, event)
        elif track is not None and track.end is not None and track.type in TEXT_TYPES and event.get("delta"):
            # Text for an item that has ended becomes another item, so that it is not lost.
            track = self._track({"type": track.type})
            self._place(track, event)
        if track is not None and track.end is None:
            track.sent_id = track.sent_id or event.get("item_id")
            track.waiting.append(event)

    def _pass(self, event: Mapping[str, Any]) -> None:
        self._release()
        fields = {name: value for name, value in event.items() if name not in ("type", "sequence_number")}
        self._events.append(self._emitter.event(event["type"], **fields))

    # --- which item is meant

    def _track(self, announced: Item) -> _ItemTrack:
        if not isinstance(announced.get("type"), str):
            announced = {**announced, "type": _items.kind_of(announced)}
        track = _ItemTrack(announced)
        for earlier in self._queue:
            if earlier.type == "reasoning" and earlier.end is None:
                earlier.end = {}
        self._tracks.append(track)
        self._queue.append(track)
        for name in ("id", "call_id"):
            self._alias(track, announced.get(name))
        return track

    def _remember(self, item: Item) -> None:
        track = self._track(item)
        track.end = item
        self._queue.remove(track)
        self._taken.add(item)

    def _place(self, track: _ItemTrack, event: Mapping[str, Any]) -> None:
        index = event.get("output_index")
        if isinstance(index, int):
            self._by_index[index] = track
        self._alias(track, event.get("item_id"))

    def _alias(self, track: _ItemTrack, name: object) -> None:
        if isinstance(name, str) and name:
            self._by_id[name] = track

    def _track_of(self, event: Mapping[str, Any], types: Sequence[str]) -> _ItemTrack | None:
        """The item of an event: by id, by position, else the running item of a fitting type."""
        item_id, index = event.get("item_id"), event.get("output_index")
        named = self._by_id.get(item_id) if isinstance(item_id, str) else None
        if named is not None and (not types or named.type in types):
            return named
        placed = self._by_index.get(index) if isinstance(index, int) else None
        if placed is None or placed.end is not None or (types and placed.type not in types):
            placed = self._candidate(types, item_id)
        if placed is not None:
            self._alias(placed, item_id)
        return placed

    def _candidate(self, types: Sequence[str], item_id: object) -> _ItemTrack | None:
        running = [track for track in self._tracks if track.type in types and track.end is None]
        if not item_id:
            return running[-1] if running else None
        return next((track for track in running if track.sent_id is None), None)

    def _owner_of(self, item: Item, event: Mapping[str, Any]) -> _ItemTrack | None:
        """The running item that a finished one ends."""
        for name in (item.get("id"), item.get("call_id")):
            named = self._by_id.get(name) if isinstance(name, str) else None
            if named is not None and named.may_be(item) and not named.is_followed_by(item):
                return named
        index = event.get("output_index")
        placed = self._by_index.get(index) if isinstance(index, int) else None
        if placed is not None and placed.end is None and placed.may_be(item):
            return placed
        return next((track for track in self._tracks if track.end is None and track.may_be(item)), None)

    def _matched(self, output: Sequence[Item]) -> list[tuple[Item, _ItemTrack | None]]:
        """Each item of the upstream's response object with its item in the stream: by id, else in order, because some
        servers make new ids for the object."""
        left = list(self._tracks)
        found: list[_ItemTrack | None] = []
        for item in output:
            named = (self._by_id.get(name) for name in (item.get("id"), item.get("call_id")) if isinstance(name, str))
            found.append(next((track for track in named if track in left), None))
            left = [track for track in left if track is not found[-1]]
        for at, item in enumerate(output):
            if found[at] is None:
                found[at] = next((track for track in left if track.is_like(item)), None)
                left = [track for track in left if track is not found[at]]
        return list(zip(output, found, strict=True))

    # --- events that leave

    def _emit_ready(self) -> None:
        """Emits all events that are ready, in order."""
        while self._queue and self._emit(self._queue[0]):
            self._queue.pop(0)

    def _emit(self, track: _ItemTrack) -> bool:
        """Emits the ready events of an item; whether it has ended."""
        if not self._open(track):
            return False
        assert track.item is not None
        assert track.body is not None
        for event in track.waiting:
            self._release()
            self._events += track.body.take(self._emitter, event)
        track.waiting.clear()
        # Only the next event shows whether a call without arguments was cut off, or has none.
        if track.end is None or (track.is_empty_call and not track.followed):
            return False
        self._close(track, track.item, track.body, track.end)
        return True

    def _follow(self) -> None:
        for track in self._queue:
            track.followed = track.followed or track.end is not None

    def _open(self, track: _ItemTrack) -> bool:
        """Announces the item; False while the name of a call is unknown."""
        if track.item is not None:
            return True
        sources = [track.announced, *track.waiting, track.end or {}]
        known = {
            name: next((source[name] for source in sources if isinstance(source.get(name), str) and source[name]), None)
            for name in ("name", "call_id")
        }
        if track.type in STREAMED_CALLS and not known["name"]:
            return False
        self._release()
        track.item = self._announced(track, {name: value for name, value in known.items() if value is not None})
        track.body = _item_stream.body(track.item)
        self._events.append(self._emitter.open(dict(self._turn.echo.shown(track.item))))
        return True

    def _announced(self, track: _ItemTrack, known: Mapping[str, str]) -> Item:
        """The item for its announcement, with the id that it keeps."""
        place = self._emitter.output_index
        named = known if track.type in ARGUMENT_EVENTS else {}
        item = _items.complete({**track.announced, **named, "type": track.type}, self._turn.id, place)
        item = _items.bound(self._taken.renamed(item, place), track.announced, self._turn)
        begins = track.type in _STATED or (track.announced is track.end and "status" in item)
        return {**item, "status": "in_progress"} if begins else item

    def _close(self, track: _ItemTrack, item: Item, body: _item_stream.ItemStream, end: Item) -> None:
        finished: Item = {**item, **end}
        finished |= {name: item[name] for name in _IDENTITY if name in item}
        if item["type"] in TEXT_TYPES | STREAMED_CALLS and "status" in finished:
            finished["status"] = "incomplete" if end.get("status") == "incomplete" else "completed"
        finished = _items.complete(with_arguments(finished), self._turn.id, self._emitter.output_index)
        finished = _items.bound(finished, {"id": track.announced.get("id"), **end}, self._turn)
        self._events += body.end(self._emitter, finished)
        self._held = {**finished, **body.snapshot()}
        self.items.append(self._held)
        # The next event shows whether the answer was cut off within this call.
        if not may_be_cut(self._held):
            self._release()

    def _release(self) -> None:
        if self._held is not None:
            item, self._held = self._held, None
            self._events.append(self._emitter.close(dict(self._turn.echo.shown(item))))

    def _drain(self) -> list[bytes]:
        events, self._events = self._events, []
        return events


def is_known(kind: str) -> bool:
    """Whether events of this type belong to items of known types."""
    return kind.rpartition(".")[0] in _TYPES


def _types_of(event: Mapping[str, Any]) -> tuple[str, ...]:
    """Types of the items that the event may belong to; empty for hosted tools and unknown events."""
    part = event.get("part")
    if isinstance(part, dict) and part.get("type") == "reasoning_text":
        return ("reasoning",)
    return _TYPES.get(event["type"].rpartition(".")[0], ())


def _has_content(event: Mapping[str, Any]) -> bool:
    part = event.get("part")
    content = part if isinstance(part, dict) else event
    return any(content.get(name) for name in ("delta", "text", "refusal", "arguments", "input", "annotation"))
