"""Writes the contract's stream events in their order. All streams that the gateway makes use an `Emitter`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app import sse
from app.contract.events import (
    ANNOTATION_ADDED,
    ARGUMENT_EVENTS,
    ITEM_ADDED,
    ITEM_DONE,
    TEXT_EVENTS,
    part_family,
)
from app.contract.items import SUMMARY_PARTS, TYPES, Item, has_failed
from app.contract.turn import Answer, Turn

_PIECES = re.compile(r"\s*\S+|\s+\Z")


class Emitter:
    """Numbers the events of one stream. Each method returns bytes that are ready to be sent.

    The caller opens an item, fills it part by part and closes it before it opens the next; `item` does all at once.
    """

    def __init__(self, sequence: int = 0, output_index: int = 0) -> None:
        self.sequence = sequence
        self.output_index = output_index

    def event(self, kind: str, **fields: Any) -> bytes:
        data = sse.encode({"type": kind, "sequence_number": self.sequence, **fields})
        self.sequence += 1
        return data

    def item(self, item: Item) -> Iterator[bytes]:
        """All events of a finished item, from `added` to `done`; text and arguments in several deltas."""
        yield from self.begin(item)
        for index, part in enumerate(item.get("content") or ()):
            yield from self._part(item, index, part)
        if item.get("type") in ARGUMENT_EVENTS:
            for piece in pieces(item[ARGUMENT_EVENTS[item["type"]][1]]):
                yield self.argument(item, piece)
            yield self.close_arguments(item)
        for index, part in enumerate(item.get("summary") or ()):
            yield from self.summary(item, index, part)
        yield from self.finish(item)

    # --- an item

    def begin(self, item: Item) -> Iterator[bytes]:
        """The announcement of an item, and that its tool begins if it is one of a tool."""
        yield self.open(item)
        known = TYPES.get(str(item.get("type")))
        for step in known.steps if known else ():
            yield self.event(step, **self._of(item))

    def finish(self, item: Item) -> Iterator[bytes]:
        """How the tool of an item has ended, if it is one of a tool, then the end of the item."""
        known = TYPES.get(str(item.get("type")))
        step = (known.failed if has_failed(item) else known.succeeded) if known else ""
        if step:
            yield self.event(step, **self._of(item))
        yield self.close(item)

    def open(self, item: Item) -> bytes:
        return self.event(ITEM_ADDED, output_index=self.output_index, item=_opened(item))

    def close(self, item: Item) -> bytes:
        done = self.event(ITEM_DONE, output_index=self.output_index, item=item)
        self.output_index += 1
        return done

    # --- its parts: of its content, or of its summary

    def open_part(self, item: Item, index: int, part: Mapping[str, Any]) -> bytes:
        return self.event(
            f"{part_family(part['type'])}.added", **self._at(item, index, part["type"]), part=_empty_part(part)
        )

    def delta(self, item: Item, index: int, kind: str, text: str, logprobs: Sequence[Any] = (), **extra: Any) -> bytes:
        """A text delta for a part of type `kind`; `extra` holds further members of the upstream's event."""
        logged = {"logprobs": logprobs} if kind == "output_text" else {}
        return self.event(f"{TEXT_EVENTS[kind][0]}.delta", **self._at(item, index, kind), delta=text, **logged, **extra)

    def close_part(self, item: Item, index: int, part: Mapping[str, Any]) -> Iterator[bytes]:
        if part["type"] in TEXT_EVENTS:
            yield self.end_text(item, index, part)
        yield self.end_part(item, index, part)

    def end_text(self, item: Item, index: int, part: Mapping[str, Any]) -> bytes:
        kind, name = TEXT_EVENTS[part["type"]]
        logged = {"logprobs": part.get("logprobs") or []} if part["type"] == "output_text" else {}
        where = self._at(item, index, part["type"])
        return self.event(f"{kind}.done", **where, **{name: part[name]}, **logged)

    def end_part(self, item: Item, index: int, part: Mapping[str, Any]) -> bytes:
        return self.event(f"{part_family(part['type'])}.done", **self._at(item, index, part["type"]), part=part)

    def _part(self, item: Item, index: int, part: Mapping[str, Any]) -> Iterator[bytes]:
        yield self.open_part(item, index, part)
        if part["type"] in TEXT_EVENTS:
            for piece in pieces(part[TEXT_EVENTS[part["type"]][1]]):
                yield self.delta(item, index, part["type"], piece)
        for number, annotation in enumerate(part.get("annotations") or ()):
            yield self.annotation(item, index, number, annotation)
        yield from self.close_part(item, index, part)

    def annotation(self, item: Item, index: int, number: int, annotation: Item) -> bytes:
        """An annotation of a text part; `number` is its place among those of the part."""
        where = {"content_index": index, "annotation_index": number}
        return self.event(ANNOTATION_ADDED, **self._of(item), **where, annotation=annotation)

    def summary(self, item: Item, index: int, part: Mapping[str, Any]) -> Iterator[bytes]:
        """The four events of a finished summary part."""
        yield self.open_part(item, index, part)
        yield self.delta(item, index, part["type"], part["text"])
        yield from self.close_part(item, index, part)

    # --- what a call is made with

    def argument(self, item: Item, text: str, **extra: Any) -> bytes:
        """A delta of a call's arguments or input."""
        return self.event(f"{ARGUMENT_EVENTS[item['type']][0]}.delta", **self._of(item), delta=text, **extra)

    def close_arguments(self, item: Item) -> bytes:
        kind, name = ARGUMENT_EVENTS[item["type"]]
        return self.event(f"{kind}.done", **self._of(item), **{name: item[name]})

    def _of(self, item: Item) -> dict[str, Any]:
        return {"item_id": item["id"], "output_index": self.output_index}

    def _at(self, item: Item, index: int, kind: str) -> dict[str, Any]:
        return {**self._of(item), "summary_index" if kind in SUMMARY_PARTS else "content_index": index}


def pieces(text: str) -> Sequence[str]:
    """The text in words, as a model streams it."""
    return _PIECES.findall(text)


def _opened(item: Item) -> Item:
    """The item as it is announced: with its ids, and empty."""
    known = TYPES.get(str(item.get("type")))
    if known is None or not (known.grows or known.opened):
        return item
    opened: Item = {name: value for name, value in item.items() if name not in known.results}
    opened.update(known.opened)
    if known.has_status:
        opened["status"] = "in_progress"
    for name in known.grows:
        if opened.get(name):
            opened[name] = [] if known.parts else ""
    return opened


def _empty_part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] not in TEXT_EVENTS:
        return dict(part)
    empty: dict[str, Any] = {**part, TEXT_EVENTS[part["type"]][1]: ""}
    for listed in ("annotations", "logprobs"):
        if listed in empty:
            empty[listed] = []
    return empty


class Replay:
    """A decoder for an upstream that answered a streamed request with one JSON object."""

    path = "translated"

    def __init__(self, answer: Answer, turn: Turn, sequence: int) -> None:
        self.accepted = True
        self.started = False
        self.answer: Answer | None = None
        self.defaults = answer.defaults
        self._whole = answer
        self._shown = [dict(turn.echo.shown(item)) for item in answer.output]
        self._emitter = Emitter(sequence, len(turn.shown_items))

    def feed(self, data: bytes) -> bytes:
        self.started = True
        events = b"".join(event for item in self._shown for event in self._emitter.item(item))
        self.answer = self._whole
        return events

    def finish(self) -> bytes:
        """The answer was complete from the start."""
        return b""

    def partial(self) -> list[Item]:
        return list(self._whole.output)

    @property
    def sequence(self) -> int:
        return self._emitter.sequence


def replay(answer: Answer, turn: Turn, sequence: int) -> Replay:
    return Replay(answer, turn, sequence)
