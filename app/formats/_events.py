"""The contract's event order, written once: whatever becomes a stream here becomes it through an `Emitter`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app import sse
from app.turn import Answer, Item

_PIECES = re.compile(r"\s*\S+|\s+\Z")


#: Where the text of a content part stands, and the events that bring it.
_PARTS = {
    "output_text": ("response.output_text", "text"),
    "refusal": ("response.refusal", "refusal"),
    "reasoning_text": ("response.reasoning_text", "text"),
}
#: The same for what a call is made with.
_ARGUMENTS = {
    "function_call": ("response.function_call_arguments", "arguments"),
    "custom_tool_call": ("response.custom_tool_call_input", "input"),
}


class Emitter:
    """Numbers the events of one stream. Each method gives back bytes ready to be sent.

    An item is opened, filled part by part and closed before the next one is opened; `item` does all of it at once.
    """

    def __init__(self, sequence: int = 0, output_index: int = 0) -> None:
        self.sequence = sequence
        self.output_index = output_index

    def event(self, kind: str, **fields: Any) -> bytes:
        data = sse.encode({"type": kind, "sequence_number": self.sequence, **fields})
        self.sequence += 1
        return data

    def item(self, item: Item) -> Iterator[bytes]:
        """All events of a finished item, from `added` to `done`; text and arguments in several pieces."""
        yield self.open(item)
        for index, part in enumerate(item.get("content") or ()):
            yield from self._part(item, index, part)
        if item.get("type") in _ARGUMENTS:
            for piece in pieces(item[_ARGUMENTS[item["type"]][1]]):
                yield self.argument(item, piece)
            yield self.close_arguments(item)
        for index, part in enumerate(item.get("summary") or ()):
            yield from self.summary(item, index, part)
        yield self.close(item)

    # --- an item

    def open(self, item: Item) -> bytes:
        return self.event("response.output_item.added", output_index=self.output_index, item=_opened(item))

    def close(self, item: Item) -> bytes:
        done = self.event("response.output_item.done", output_index=self.output_index, item=item)
        self.output_index += 1
        return done

    # --- its content

    def open_part(self, item: Item, index: int, part: Mapping[str, Any]) -> bytes:
        return self.event("response.content_part.added", **self._at(item, index), part=_empty_part(part))

    def delta(self, item: Item, index: int, kind: str, text: str, logprobs: Sequence[Any] = ()) -> bytes:
        """More text of a part of type `kind`."""
        extra = {"logprobs": logprobs} if kind == "output_text" else {}
        return self.event(f"{_PARTS[kind][0]}.delta", **self._at(item, index), delta=text, **extra)

    def close_part(self, item: Item, index: int, part: Mapping[str, Any]) -> Iterator[bytes]:
        where = self._at(item, index)
        if part["type"] in _PARTS:
            kind, name = _PARTS[part["type"]]
            extra = {"logprobs": part.get("logprobs") or []} if part["type"] == "output_text" else {}
            yield self.event(f"{kind}.done", **where, **{name: part[name]}, **extra)
        yield self.event("response.content_part.done", **where, part=part)

    def _part(self, item: Item, index: int, part: Mapping[str, Any]) -> Iterator[bytes]:
        yield self.open_part(item, index, part)
        if part["type"] in _PARTS:
            for piece in pieces(part[_PARTS[part["type"]][1]]):
                yield self.delta(item, index, part["type"], piece)
        yield from self.close_part(item, index, part)

    def summary(self, item: Item, index: int, part: Mapping[str, Any]) -> Iterator[bytes]:
        """The four events of a summary part that is known already."""
        where = {"item_id": item["id"], "output_index": self.output_index, "summary_index": index}
        yield self.event("response.reasoning_summary_part.added", **where, part={**part, "text": ""})
        yield self.event("response.reasoning_summary_text.delta", **where, delta=part["text"])
        yield self.event("response.reasoning_summary_text.done", **where, text=part["text"])
        yield self.event("response.reasoning_summary_part.done", **where, part=part)

    # --- what a call is made with

    def argument(self, item: Item, text: str) -> bytes:
        """More of a call's arguments or input."""
        where = {"item_id": item["id"], "output_index": self.output_index}
        return self.event(f"{_ARGUMENTS[item['type']][0]}.delta", **where, delta=text)

    def close_arguments(self, item: Item) -> bytes:
        kind, name = _ARGUMENTS[item["type"]]
        where = {"item_id": item["id"], "output_index": self.output_index}
        return self.event(f"{kind}.done", **where, **{name: item[name]})

    def _at(self, item: Item, index: int) -> dict[str, Any]:
        return {"item_id": item["id"], "output_index": self.output_index, "content_index": index}


def pieces(text: str) -> Sequence[str]:
    """The text in words, as a model would speak it."""
    return _PIECES.findall(text)


def _opened(item: Item) -> Item:
    """The item as it is announced: known by its ids, still empty."""
    kind = item.get("type")
    if kind == "message":
        return {**item, "status": "in_progress", "content": []}
    if kind == "function_call":
        return {**item, "status": "in_progress", "arguments": ""}
    if kind == "custom_tool_call":
        return {**item, "input": ""}
    if kind == "reasoning":
        return {**item, "summary": [], **({"content": []} if item.get("content") else {})}
    return item


def _empty_part(part: Mapping[str, Any]) -> dict[str, Any]:
    name = "refusal" if part["type"] == "refusal" else "text"
    empty: dict[str, Any] = {**part, name: ""}
    for listed in ("annotations", "logprobs"):
        if listed in empty:
            empty[listed] = []
    return empty


class Replay:
    """A decoder for an answer that came in one piece although a stream was asked for."""

    def __init__(self, answer: Answer, sequence: int, output_index: int) -> None:
        self.accepted = True
        self.started = False
        self.answer: Answer | None = None
        self.defaults = answer.defaults
        self._whole = answer
        self._emitter = Emitter(sequence, output_index)

    def feed(self, data: bytes) -> bytes:
        self.started = True
        events = b"".join(event for item in self._whole.output for event in self._emitter.item(item))
        self.answer = self._whole
        return events

    def finish(self) -> None:
        """There is nothing more to come."""

    def partial(self) -> list[Item]:
        return list(self._whole.output)

    @property
    def sequence(self) -> int:
        return self._emitter.sequence


def replay(answer: Answer, sequence: int, output_index: int) -> Replay:
    return Replay(answer, sequence, output_index)
