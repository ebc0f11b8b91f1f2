"""Builds the output items of an answer from an upstream's deltas, and their events.

The contract allows one open item at a time. Of calls that an upstream streams in parallel, the later ones wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from app.contract.events import TEXT_EVENTS
from app.contract.items import TEXT_TYPES, Item, is_call
from app.contract.turn import Secret, Turn
from app.errors import UpstreamBroken
from app.formats._events import Emitter
from app.formats._ids import ContextIds, made, made_call_id, usable_call_id
from app.formats._tool_call_stream import Call
from app.formats._toolbox import Tool, Toolbox


class Output:
    """The output of one answer so far. Each method prepares events; `drain` returns them."""

    def __init__(self, turn: Turn, sequence: int) -> None:
        self.items: list[Item] = []
        """Finished items."""
        self._turn = turn
        self._in_context = ContextIds(turn)
        self._toolbox = Toolbox.of(turn)
        self._emitter = Emitter(sequence, len(turn.shown_items))
        self._events: list[bytes] = []
        self._written: _Written | None = None
        self._calls: deque[Call] = deque()
        self._late: list[Callable[[], None]] = []
        """What came between calls."""
        self._annotations: list[Item] = []
        """Annotations that came before their text."""
        self.secret_source: Callable[[], str] = str
        """Returns what its family gets back with the answer, as far as it has come since the last time."""

    @property
    def sequence(self) -> int:
        return self._emitter.sequence

    @property
    def waiting(self) -> bool:
        """There are events to be sent."""
        return bool(self._events)

    def drain(self) -> bytes:
        events = b"".join(self._events)
        self._events.clear()
        return events

    def partial(self) -> list[Item]:
        """All items that events have announced; an unfinished last one is `incomplete`."""
        current = self._written or (self._calls[0] if self._calls and self._calls[0].item else None)
        return [*self.items, current.snapshot()] if current else list(self.items)

    def end(self, status: str) -> None:
        """Closes open items. With the status `incomplete`, the last one was cut off."""
        self._close_calls(status)
        self._write_late()
        if self._annotations:
            self._events += self._writing("message").begin(self._emitter, "output_text")
            self._annotate_text()
        self._close_written(status)
        if any(is_call(item) for item in self.items):
            # What came too late for the place before the calls.
            self._write_secret()

    # --- text

    def write(self, kind: str, text: str, logprobs: Sequence[Mapping[str, Any]] = ()) -> None:
        """Adds text of a kind: output_text, refusal or reasoning_text."""
        if not text:
            return
        if self._calls and self._is_between_calls():
            self._late.append(partial(self.write, kind, text, logprobs))
            return
        written = self._writing("reasoning" if kind == "reasoning_text" else "message")
        self._events += written.write(self._emitter, kind, text, logprobs)
        if kind == "output_text" and self._annotations:
            self._annotate_text()

    def annotate(self, annotations: Iterable[Item]) -> None:
        """Adds annotations to the text of the open message, or to the next text. Repeated ones are left out."""
        known = [*self._annotations, *(self._written.annotations if self._written else ())]
        self._annotations += (one for one in annotations if one not in known)
        if self._annotations and self._written is not None and self._written.kind == "output_text":
            self._annotate_text()

    def _annotate_text(self) -> None:
        assert self._written is not None
        annotations, self._annotations = self._annotations, []
        self._events += self._written.annotate(self._emitter, annotations)

    def draw(self, image: str) -> None:
        """Adds an image that the model generated, in base64."""
        if self._is_between_calls():
            self._late.append(partial(self.draw, image))
            return
        self._close_written("completed")
        kind = "image_generation_call"
        item = {**_new_item(self._turn, kind, self._emitter.output_index), "status": "completed", "result": image}
        self._events += self._emitter.item(item)
        self.items.append(item)

    @property
    def text_length(self) -> int:
        """Characters of the open part of text."""
        return self._written.length if self._written is not None and self._written.kind == "output_text" else 0

    def written(self, kind: str) -> str:
        """All text of a kind so far."""
        items = [*self.items, self._written.snapshot()] if self._written else self.items
        parts = (part for item in items if item["type"] in TEXT_TYPES for part in item["content"])
        return "".join(str(part[TEXT_EVENTS[kind][1]]) for part in parts if part["type"] == kind)

    def _is_between_calls(self) -> bool:
        """Whether a call is open, so that other output has to wait. Whole calls are closed."""
        if not self._calls:
            return False
        if not all(call.whole for call in self._calls):
            return True
        self._close_calls("completed")
        self._write_late()
        return False

    def seal(self, secret: str) -> None:
        """Ends the reasoning item and adds the part that only its own upstream can read.

        It may have no text. Between calls it is left out: the contract has no place for it there.
        """
        if not self._calls:
            self._writing("reasoning").secret = secret
            self._close_written("completed")

    def _write_secret(self) -> None:
        """Adds a reasoning item with what only its family can read, if there is anything."""
        if secret := self.secret_source():
            self._writing("reasoning").kept = secret
            self._close_written("completed")

    def _writing(self, item_type: str) -> _Written:
        """The open item of this type; closes an open item of another type first."""
        if self._written and self._written.item["type"] != item_type:
            self._close_written("completed")
        if self._written is None:
            if item_type == "message":
                self._write_secret()
            self._written = _Written(_new_item(self._turn, item_type, self._emitter.output_index))
            self._events.append(self._emitter.open(self._written.item))
        return self._written

    def _write_late(self) -> None:
        """Writes text that came between calls."""
        late, self._late = self._late, []
        for write in late:
            write()

    def _close_written(self, status: str) -> None:
        written, self._written = self._written, None
        if written is None:
            return
        self._events += written.close_part(self._emitter)
        item = written.snapshot(status)
        if item["type"] == "reasoning":
            item = _finished_reasoning(item, self._turn, written.secret, written.kept or self.secret_source())
        for index, part in enumerate(item.get("summary") or ()):
            self._events += self._emitter.summary(item, index, part)
        self._finish(item)

    def _finish(self, item: Item) -> None:
        self._events.append(self._emitter.close(dict(self._turn.echo.shown(item))))
        self.items.append(item)

    # --- calls

    def begin(self) -> Call:
        """Adds a call behind those that have begun."""
        call = Call()
        self._calls.append(call)
        return call

    def extend(self, call: Call, call_id: str = "", name: str = "", arguments: str = "") -> None:
        """Adds to a call. Raises UpstreamBroken if it has ended."""
        self.add(call, call_id, name, arguments)
        self.advance()

    def add(self, call: Call, call_id: str = "", name: str = "", arguments: str = "") -> None:
        """As `extend`, without events: `advance` makes them."""
        if not call.closed:
            call.take(call_id, name, arguments)
        elif arguments.strip():
            raise UpstreamBroken("The model's server went on with a call that had ended.")

    def finish(self, call: Call) -> None:
        """The call is complete."""
        call.finished = True
        self.advance()
        if not self._calls:
            self._write_late()

    def advance(self) -> None:
        """Emits the first call, and the next ones as soon as it is whole."""
        while self._calls:
            first = self._calls[0]
            if first.can_begin:
                self._open_call(first)
                self._events += first.emit(self._emitter)
            overtaken = len(self._calls) > 1 and first.can_begin and first.whole
            if not (first.finished or overtaken):
                return
            self._close_call("completed")

    def _open_call(self, call: Call) -> None:
        if call.item is not None:
            return
        self._close_written("completed")
        if not any(is_call(item) for item in self.items):
            self._write_secret()
        tool = self._toolbox.called(call.name)
        item = _new_item(self._turn, tool.call, self._emitter.output_index)
        call.open({**item, "call_id": self._call_id(call), **_named(tool)})
        self._events.append(self._emitter.open(call.snapshot()))

    def _close_call(self, status: str) -> None:
        call = self._calls.popleft()
        call.require_name()
        if not call.name:
            return
        self._open_call(call)
        self._events += call.emit(self._emitter)
        self._events += call.ended(self._emitter, status)
        item = call.snapshot(status)
        self._events.append(self._emitter.close_arguments(item))
        self._finish(item)

    def _close_calls(self, status: str) -> None:
        for call in self._calls:
            call.require_name()
        self._calls = deque(call for call in self._calls if call.name)
        while self._calls:
            call = self._calls[0]
            # Whole arguments show that the answer was cut off behind the call. A call without any may be whole as well,
            # unless nothing follows it.
            is_last = len(self._calls) == 1 and not self._late
            was_cut = status == "incomplete" and not call.whole and (call.begun or is_last)
            self._close_call("incomplete" if was_cut else "completed")

    def _call_id(self, call: Call) -> str:
        """The upstream's id of the call; a new one if that is missing or repeated."""
        call_id = usable_call_id(call.id)
        taken = any(item.get("call_id") == call_id for item in self.items) or call_id in self._in_context
        return call_id if call_id and not taken else made_call_id(self._turn.id, self._emitter.output_index)


class _Written:
    """A message or a reasoning item, part by part."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.secret = ""
        self.kind = ""
        """Of the open part."""
        self.length = 0
        """Characters of the open part."""
        self.annotations: list[Item] = []
        """Of the open part."""
        self.kept = ""
        self._parts: list[dict[str, Any]] = []
        self._pieces: list[str] = []
        self._logprobs: list[Mapping[str, Any]] = []

    def begin(self, emitter: Emitter, kind: str) -> Iterator[bytes]:
        """Makes sure that a part of this kind is open."""
        if kind != self.kind:
            yield from self.close_part(emitter)
            self.kind, self.length = kind, 0
            yield emitter.open_part(self.item, len(self._parts), _part(kind))

    def annotate(self, emitter: Emitter, annotations: Iterable[Item]) -> Iterator[bytes]:
        for annotation in annotations:
            yield emitter.annotation(self.item, len(self._parts), len(self.annotations), annotation)
            self.annotations.append(annotation)

    def write(self, emitter: Emitter, kind: str, text: str, logprobs: Sequence[Mapping[str, Any]]) -> Iterator[bytes]:
        if kind != self.kind:
            yield from self.begin(emitter, kind)
        self.length += len(text)
        self._pieces.append(text)
        self._logprobs += logprobs
        yield emitter.delta(self.item, len(self._parts), kind, text, logprobs)

    def close_part(self, emitter: Emitter) -> Iterator[bytes]:
        if self.kind:
            part = self._part()
            yield from emitter.close_part(self.item, len(self._parts), part)
            self._parts.append(part)
            self.kind, self.annotations, self._pieces, self._logprobs = "", [], [], []

    def snapshot(self, status: str = "incomplete") -> Item:
        content = [*self._parts, self._part()] if self.kind else list(self._parts)
        return {**self.item, "status": status, "content": content}

    def _part(self) -> dict[str, Any]:
        return _part(self.kind, "".join(self._pieces), self._logprobs, self.annotations)


# --- items ------------------------------------------------------------------------------------------------------


def _new_item(turn: Turn, kind: str, output_index: int) -> Item:
    """A new item. The upstream gives it no id; ours is the same whenever this answer is decoded again."""
    item: Item = {"type": kind, "id": made(turn.id, kind, output_index)}
    if kind == "message":
        return {**item, "status": "in_progress", "role": "assistant", "content": []}
    if kind == "reasoning":
        return {**item, "status": "in_progress", "summary": [], "content": []}
    return item


def _named(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, **({"namespace": tool.namespace} if tool.namespace else {})}


def _part(
    kind: str, text: str = "", logprobs: Sequence[Mapping[str, Any]] = (), annotations: Sequence[Item] = ()
) -> dict[str, Any]:
    if kind == "refusal":
        return {"type": kind, "refusal": text}
    if kind == "output_text":
        return {"type": kind, "text": text, "annotations": list(annotations), "logprobs": list(logprobs)}
    return {"type": kind, "text": text}


def _finished_reasoning(item: Item, turn: Turn, secret: str, kept: str) -> Item:
    """A reasoning item with what the client requested: its text as summary, and sealed as `encrypted_content`."""
    text = "".join(part["text"] for part in item["content"])
    summary_mode = turn.request.get("reasoning") or {}
    if text and (summary_mode.get("summary") or summary_mode.get("generate_summary")):
        item = {**item, "summary": [{"type": "summary_text", "text": text}]}
    if kept and not secret:
        secret = turn.sealed(Secret(kept, text if turn.seal is not None else ""))
    if text and not secret and turn.seal is not None:
        secret = turn.seal(text)
    return {**item, "encrypted_content": secret} if secret else item
