"""Turns the calls in an upstream's stream into the items that show calls of tool servers.

It stands behind the decoder of any format and reads the contract's own events. It renumbers all events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from app import sse
from app.contract.events import ANNOTATION_ADDED, ARGUMENT_EVENTS, ITEM_ADDED, ITEM_DONE, TEXT_EVENTS, part_family
from app.contract.items import Item
from app.contract.turn import Answer
from app.errors import UpstreamBroken
from app.formats import Decoder, Emitter
from app.relay.tools.citations import Sources, TextCitations
from app.relay.tools.model_calls import AnswerCalls, Fate, ToolCall

_DELTA, _ARGUMENTS = (f"{ARGUMENT_EVENTS['function_call'][0]}.{step}" for step in ("delta", "done"))

_TEXT_DELTA, _TEXT_DONE = (f"{TEXT_EVENTS['output_text'][0]}.{step}" for step in ("delta", "done"))
_PART_DONE = f"{part_family('output_text')}.done"
#: Events of a text, or with the whole of it.
_OF_TEXTS = frozenset({_TEXT_DELTA, _TEXT_DONE, ANNOTATION_ADDED, _PART_DONE, ITEM_DONE})

Event = Mapping[str, Any]


class ToolDecoder:
    """A decoder of one exchange in a turn whose tools the gateway runs."""

    def __init__(
        self, decoder: Decoder, calls: AnswerCalls, sequence: int, output_index: int, sources: Sources | None = None
    ) -> None:
        """`sequence`, `output_index`: of the next event, and of the next item of the response. `sources`: what the
        answer may cite."""
        self.calls = calls
        self.accepted = decoder.accepted
        self.defaults = decoder.defaults
        self.path = "translated"
        self.started = False
        self.answer: Answer | None = None
        self.output_index = output_index
        """Of the next item of the response."""
        self._decoder = decoder
        self._emitter = Emitter(sequence)
        self._places: dict[int, int] = {}
        """The upstream's index of an item → the response's."""
        self._calls: dict[int, ToolCall] = {}
        """By the upstream's index."""
        self._sources = sources or Sources({})
        self._texts: dict[tuple[str, int], TextCitations] = {}
        """By the item and the place of its part."""
        self._order: dict[str, int] = {}
        """The response's index of the model's items, by their ids."""

    @property
    def sequence(self) -> int:
        return self._emitter.sequence

    def feed(self, data: bytes) -> bytes:
        return self.translated(self._decoder.feed(data))

    def finish(self) -> bytes:
        return self.translated(self._decoder.finish())

    def translated(self, events: bytes) -> bytes:
        """The events to send for whole events of the decoder. Raises UpstreamBroken."""
        out = [sent for raw in events.split(b"\n\n") if raw for sent in self._translated(raw)]
        self.accepted, self.defaults = self._decoder.accepted, self._decoder.defaults
        answer = self._decoder.answer
        if answer is not None and self.answer is None:
            if answer.status == "incomplete":
                out += self._unfinished()
            self.answer = answer
        self.started = self.started or bool(out)
        return b"".join(out)

    def partial(self) -> list[Item]:
        return self.shown(self._decoder.partial(), "incomplete")

    def shown(self, items: list[Item], status: str) -> list[Item]:
        """The model's items as the response has them, in the order of its events. `status`: of a call that has not
        ended."""
        last = self.output_index
        items = [self._cited(item) for item in items] if self._sources else items
        return self.calls.output(sorted(items, key=lambda item: self._order.get(str(item.get("id")), last)), status)

    def places(self) -> dict[ToolCall, int]:
        """The response's index of the item of each call that runs."""
        return {call: self._places[index] for index, call in self._calls.items() if call.fate is Fate.RUN}

    # --- events

    def _translated(self, raw: bytes) -> Iterator[bytes]:
        _, data = sse.parse(raw)
        if data is None:
            return
        try:
            event = orjson.loads(data)
        except ValueError:
            raise UpstreamBroken("The model's server sent an event that is not JSON.") from None
        kind, index = event["type"], event.get("output_index")
        if kind == ITEM_ADDED and (call := self.calls.of(event["item"])) is not None:
            self._calls[index] = call
            yield from self._begun(index, call, event["item"])
        elif (call := self._calls.get(index)) is not None:
            yield from self._of_call(index, call, event)
        elif self._sources and kind in _OF_TEXTS:
            yield from self._of_text(event)
        else:
            yield self._passed(event)

    def _of_text(self, event: dict[str, Any]) -> Iterator[bytes]:
        """An event of a text, in which sources may be cited."""
        kind, where = event["type"], (event.get("item_id", ""), event.get("content_index", 0))
        if kind == ITEM_DONE:
            yield self._passed({**event, "item": self._cited(event["item"])})
            return
        text = self._texts.setdefault(where, TextCitations(self._sources))
        if kind == ANNOTATION_ADDED:
            yield self._passed({**event, "annotation_index": text.note(event["annotation"])})
        elif kind == _TEXT_DELTA:
            yield self._passed(event)
            yield from self._citations(event, text.feed(event["delta"]), text)
        elif kind == _TEXT_DONE:
            yield from self._citations(event, text.finish(event["text"]), text)
            yield self._passed(event)
        elif event["part"].get("type") == "output_text":
            yield self._passed({**event, "part": text.whole(event["part"])})
        else:
            yield self._passed(event)

    def _citations(self, event: Event, found: Sequence[Item], text: TextCitations) -> Iterator[bytes]:
        first = len(text.annotations) - len(found)
        emitter = self._at(event["output_index"])
        for number, citation in enumerate(found, first):
            yield emitter.annotation({"id": event["item_id"]}, event.get("content_index", 0), number, citation)

    def _cited(self, item: Item) -> Item:
        content = item.get("content")
        if item.get("type") != "message" or not isinstance(content, list):
            return item
        parts = [
            self._texts.setdefault((str(item.get("id")), place), TextCitations(self._sources)).whole(part)
            if part.get("type") == "output_text"
            else part
            for place, part in enumerate(content)
        ]
        return {**item, "content": parts}

    def _passed(self, event: dict[str, Any]) -> bytes:
        index = event.get("output_index")
        if isinstance(index, int):
            event["output_index"] = self._place(index, event.get("item"))
        event["sequence_number"] = self._emitter.sequence
        self._emitter.sequence += 1
        return sse.encode(event)

    def _begun(self, index: int, call: ToolCall, item: Item) -> Iterator[bytes]:
        if call.fate is Fate.RUN:
            yield from self._at(index, item).begin(call.item())

    def _of_call(self, index: int, call: ToolCall, event: Event) -> Iterator[bytes]:
        kind = event["type"]
        if kind == ITEM_DONE:
            call.finish(event["item"])
            if call.fate is Fate.ASK and call.is_whole:
                yield from self._at(index, event["item"]).item(call.item())
        elif call.fate is Fate.RUN and call.offered.item_type in ARGUMENT_EVENTS:
            emitter = self._at(index)
            if kind == _DELTA:
                yield emitter.argument(call.item(), event["delta"])
            elif kind == _ARGUMENTS:
                yield emitter.close_arguments({**call.item(), "arguments": event["arguments"]})

    def _unfinished(self) -> Iterator[bytes]:
        """Ends the items of calls that are not run, because the answer was cut off."""
        for index, call in self._calls.items():
            if call.fate is Fate.RUN:
                yield self._at(index).close(call.item("incomplete"))

    def _at(self, index: int, item: Item | None = None) -> Emitter:
        self._emitter.output_index = self._place(index, item)
        return self._emitter

    def _place(self, index: int, item: Item | None = None) -> int:
        place = self._places.get(index)
        if place is None:
            place = self._places[index] = self.output_index
            self.output_index += 1
        if item is not None and isinstance(item.get("id"), str):
            self._order[item["id"]] = place
        return place
