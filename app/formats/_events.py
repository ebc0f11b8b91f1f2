"""The contract's event order, written once: whatever becomes a stream here becomes it through an `Emitter`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app import sse
from app.turn import Answer, Item

_PIECES = re.compile(r"\s*\S+|\s+\Z")


class Emitter:
    """Numbers the events of one stream. Each method gives back bytes ready to be sent."""

    def __init__(self, sequence: int = 0, output_index: int = 0) -> None:
        self.sequence = sequence
        self.output_index = output_index

    def event(self, kind: str, **fields: Any) -> bytes:
        data = sse.encode({"type": kind, "sequence_number": self.sequence, **fields})
        self.sequence += 1
        return data

    def item(self, item: Item) -> Iterator[bytes]:
        """All events of a finished item, from `added` to `done`; text and arguments in several pieces."""
        yield self.event("response.output_item.added", output_index=self.output_index, item=_opened(item))
        kind = item.get("type")
        if kind == "message":
            yield from self._message(item)
        elif kind == "function_call":
            yield from self._text(item, "response.function_call_arguments", item["arguments"], "arguments")
        elif kind == "custom_tool_call":
            yield from self._text(item, "response.custom_tool_call_input", item["input"], "input")
        elif kind == "reasoning":
            yield from self._reasoning(item)
        yield self.event("response.output_item.done", output_index=self.output_index, item=item)
        self.output_index += 1

    def _message(self, item: Item) -> Iterator[bytes]:
        for index, part in enumerate(item["content"]):
            yield from self._part(item, index, part)

    def _part(self, item: Item, index: int, part: Mapping[str, Any]) -> Iterator[bytes]:
        where = {"item_id": item["id"], "output_index": self.output_index, "content_index": index}
        yield self.event("response.content_part.added", **where, part=_empty_part(part))
        if part["type"] == "output_text":
            for piece in pieces(part["text"]):
                yield self.event("response.output_text.delta", **where, delta=piece, logprobs=[])
            yield self.event(
                "response.output_text.done", **where, text=part["text"], logprobs=part.get("logprobs") or []
            )
        elif part["type"] == "refusal":
            for piece in pieces(part["refusal"]):
                yield self.event("response.refusal.delta", **where, delta=piece)
            yield self.event("response.refusal.done", **where, refusal=part["refusal"])
        elif part["type"] == "reasoning_text":
            for piece in pieces(part["text"]):
                yield self.event("response.reasoning_text.delta", **where, delta=piece)
            yield self.event("response.reasoning_text.done", **where, text=part["text"])
        yield self.event("response.content_part.done", **where, part=part)

    def _reasoning(self, item: Item) -> Iterator[bytes]:
        for index, part in enumerate(item.get("content") or []):
            yield from self._part(item, index, part)
        for index, part in enumerate(item.get("summary") or []):
            where = {"item_id": item["id"], "output_index": self.output_index, "summary_index": index}
            yield self.event("response.reasoning_summary_part.added", **where, part={**part, "text": ""})
            for piece in pieces(part["text"]):
                yield self.event("response.reasoning_summary_text.delta", **where, delta=piece)
            yield self.event("response.reasoning_summary_text.done", **where, text=part["text"])
            yield self.event("response.reasoning_summary_part.done", **where, part=part)

    def _text(self, item: Item, kind: str, text: str, name: str) -> Iterator[bytes]:
        where = {"item_id": item["id"], "output_index": self.output_index}
        for piece in pieces(text):
            yield self.event(f"{kind}.delta", **where, delta=piece)
        yield self.event(f"{kind}.done", **where, **{name: text})


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

    def __init__(self, answer: Answer, sequence: int) -> None:
        self.accepted = True
        self.started = False
        self.answer: Answer | None = None
        self.defaults = answer.defaults
        self._whole = answer
        self._emitter = Emitter(sequence)

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


def replay(answer: Answer, sequence: int) -> Replay:
    return Replay(answer, sequence)
