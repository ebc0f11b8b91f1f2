"""Decodes an upstream's event stream. Events that keep the contract are relayed as bytes, most of them unparsed; from
the first event that does not, the stream is repaired."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from app import lone_surrogates, sse
from app.contract.events import ANNOTATION_ADDED, ARGUMENT_EVENTS, ITEM_DONE, QUEUED_HEAD, TERMINAL, TEXT_EVENTS
from app.contract.items import Item
from app.contract.replay import cut_off, may_be_cut
from app.contract.turn import Answer, Turn
from app.errors import UpstreamBroken, UpstreamError
from app.formats._failures import error_in_body, stream_error
from app.formats._reader import (
    FIELDS,
    MAX_UNREADABLE,
    data_of,
    error_in,
    is_done,
    is_keep_alive,
    objects,
    pass_over,
    plain_object,
    says_failure,
)
from app.formats.responses import _answer
from app.formats.responses._conformance import StreamConformance
from app.formats.responses._functions import Restorer
from app.formats.responses._repair import Repair, is_known
from app.nesting import FROM_UPSTREAMS, may_exceed

_STEPS = ("delta", "done")
_HEAD = frozenset(kind for kind, _ in QUEUED_HEAD)
#: How the types of this API begin.
_OURS = "response."
#: The events that end a stream, with those of other servers.
_TERMINAL = {**TERMINAL, "response.done": "completed", "response.cancelled": "failed"}
_ERRORS = frozenset({"error", "response.error"})
#: Names that other servers have for families of events.
_ALIASES = {
    "response.text": "response.output_text",
    "response.reasoning": "response.reasoning_text",
    "response.reasoning_summary": "response.reasoning_summary_text",
    "response.function_call": "response.function_call_arguments",
}
_LOGPROBS = "message.output_text.logprobs"

#: Events that are relayed unparsed once their item has proved exact.
_UNREAD = (
    *(f"{family}.{step}" for family, _ in (*TEXT_EVENTS.values(), *ARGUMENT_EVENTS.values()) for step in _STEPS),
    ANNOTATION_ADDED,
    "response.code_interpreter_call_code.delta",
    "response.code_interpreter_call_code.done",
    "response.image_generation_call.partial_image",
)
#: By the line that names the event: its beginning as OpenAI writes it, with the number right after the type.
_UNREAD_HEADS = {
    b"event: %b" % name: b'event: %b\ndata: {"type":"%b","sequence_number":%%d,' % (name, name)
    for name in map(str.encode, _UNREAD)
}
_NAME = b"event: "
_FIELDS = (*FIELDS, b"\n")
_SEQUENCE = re.compile(rb'"sequence_number":\s*(\d+)')

#: An event of fewer bytes cannot hold JSON that is nested too deep.
_FLAT = 2 * FROM_UPSTREAMS

#: Bytes of raw events that are kept for the partial output of a broken stream.
MAX_KEPT = 16 * 1024 * 1024
Event = dict[str, Any]


class ResponsesDecoder:
    """Relays the output events of one stream and collects its answer."""

    __slots__ = (
        "_backlog",
        "_conformance",
        "_done",
        "_halves",
        "_has_logprobs",
        "_held",
        "_index",
        "_loose",
        "_misnamed",
        "_number",
        "_repair",
        "_splitter",
        "_strange",
        "_turn",
        "_unreadable",
        "_usual",
        "accepted",
        "answer",
        "defaults",
        "path",
        "started",
    )

    def __init__(self, turn: Turn, sequence: int) -> None:
        self.accepted = False
        self.started = False
        self.answer: Answer | None = None
        self.defaults: Mapping[str, Any] = {}
        self.path = ""
        self._turn = turn
        self._splitter = sse.Splitter()
        self._halves = lone_surrogates.Joiner()
        self._has_logprobs = _LOGPROBS in turn.echo.include
        self._loose = False
        """The JSON of an event was loose."""
        self._misnamed = False
        """The name of an event was not its type, which is what clients read."""
        self._strange = False
        """A delta of an unknown type has come."""
        self._unreadable = 0
        self._conformance = StreamConformance(turn)
        self._repair: Repair | None = None
        self._number = sequence
        self._usual = b""
        """The beginning of the newest unparsed event: the next one most likely begins alike."""
        self._index = len(turn.shown_items)
        self._done: list[Item] = []
        self._backlog = _Backlog()
        self._held: tuple[Event, bytes] | None = None

    @property
    def sequence(self) -> int:
        """`sequence_number` of the next event of this stream."""
        return self._repair.sequence if self._repair else self._number

    def feed(self, data: bytes) -> bytes:
        if self.answer is not None:
            return b""
        out: list[bytes] = []
        try:
            self._take(self._splitter.feed(data), out)
            self.started = self.started or bool(out)
        except UpstreamError as error:
            self._break_off(error, out)
        except sse.EventTooLong:
            self._break_off(UpstreamBroken("The model's server sent an event without an end."), out)
        return out[0] if len(out) == 1 else b"".join(out)

    def finish(self) -> bytes:
        if self.answer is not None:
            return b""
        out: list[bytes] = []
        try:
            # The last event may lack its blank line; half an event is ignored.
            rest = self._splitter.rest.strip(b"\n")
            if not self.accepted and (error := error_in_body(rest)):
                raise error
            rest = self._halves.join(rest)
            if _is_whole(rest):
                self._read(rest, out)
            if self.answer is None:
                raise UpstreamBroken("The model's server closed the stream before the response had ended.")
        except UpstreamError as error:
            self._break(error)
        self.started = self.started or bool(out)
        return b"".join(out)

    def partial(self) -> list[Item]:
        if self._repair:
            return self._repair.partial()
        try:
            return [*self._done, *self._opened().partial()[len(self._done) :]]
        except UpstreamError:
            # Events that were relayed unparsed may not be valid JSON.
            return list(self._done)

    # --- unread

    def _pass_run(self, block: bytes, start: int, out: list[bytes]) -> int:
        """Relays leading events that may go unparsed and are written as OpenAI writes them; returns their end."""
        number, at, head = self._number, start, self._usual
        while at < len(block):
            if not head or not block.startswith(head % number, at):
                found = _UNREAD_HEADS.get(block[at : block.find(b"\n", at)])
                if found is None or not block.startswith(found % number, at):
                    break
                head = found
            # Its data is usually one line: a search for two bytes is much slower than for one.
            end = block.find(b"\n", at + len(head) - 1)
            end = (end if block.startswith(b"\n", end + 1) else block.find(b"\n\n", end)) + 2
            if end - at > _FLAT and may_exceed(block, at, end, FROM_UPSTREAMS):
                break
            at = end
            number += 1
        if at > start:
            self._number, self._usual = number, head
            self._send(block[start:at], out)
        return at

    def _is_next(self, raw: bytes) -> bool:
        """The same for one event with its members in any order."""
        if raw[: raw.find(b"\n")] not in _UNREAD_HEADS or self._misnamed:
            return False
        if len(raw) > _FLAT and may_exceed(raw, 0, len(raw), FROM_UPSTREAMS):
            return False
        number = _SEQUENCE.search(raw)
        return number is not None and int(number[1]) == self._number

    # --- events

    def _take(self, block: bytes, out: list[bytes]) -> None:
        is_ascii = block.isascii()
        # Most blocks have neither byte, and one byte is found much faster than several.
        if b"\\" in block or not is_ascii or self._halves.waiting:
            block = self._halves.join(block)
        valid, at = is_ascii or _is_utf8(block), 0
        if self._has_logprobs:
            # Impossible tokens have the logprob -Infinity.
            valid = valid and b"NaN" not in block and b"Infinity" not in block
        while at < len(block) and self.answer is None:
            # Events of an item that has proved exact, if their numbers are right.
            unread = self._conformance.is_complete and valid and not (self._loose or self._repair or self._index)
            if unread and (end := self._pass_run(block, at, out)) > at:
                at = end
                continue
            end = block.find(b"\n\n", at)
            raw, at = (block[at:end], end + 2) if end >= 0 else (block[at:], len(block))
            if unread and self._is_next(raw):
                self._pass(raw + b"\n\n", out)
            elif raw:
                self._read(raw.strip(b"\n"), out)
        if not self.accepted:
            self._count_unreadable(block)

    def _read(self, raw: bytes, out: list[bytes]) -> None:
        name, data = data_of(raw)
        if not data or is_done(data):
            return
        value = plain_object(data)
        if value is not None:
            self._read_object(value, name, raw, out)
        else:
            self._read_loose(data, name, raw, out)

    def _read_loose(self, data: bytes, name: str | None, raw: bytes, out: list[bytes]) -> None:
        strict = _is_strict(data)
        self._loose = self._loose or not strict
        for value in objects(data, name):
            self._read_object(value, name, raw if strict else None, out)

    def _read_object(self, value: Event, name: str | None, raw: bytes | None, out: list[bytes]) -> None:
        if not (_is_bare(value) and is_keep_alive(name, value)):
            event = _event(value, name)
            # What leaves is strict JSON.
            self._handle(event, sse.encode(event)[:-2] if raw is None else raw, out)

    def _handle(self, event: Event, raw: bytes, out: list[bytes]) -> None:
        kind = event["type"]
        if kind in _HEAD:
            self._begin(event)
        elif kind in _TERMINAL:
            self._end(event, _TERMINAL[kind], out)
        elif kind in _ERRORS:
            raise stream_error(event)
        elif kind.startswith(_OURS):
            self._strange = self._strange or (isinstance(event.get("delta"), str) and not is_known(kind))
            self._output(event, raw, out)
        else:
            self._pass_over(event)

    def _pass_over(self, event: Event) -> None:
        """Leaves out an event that is not of this API. Raises UpstreamError if it holds an error or content."""
        error = error_in(None, event)
        if error is not None or says_failure(event):
            raise stream_error(error or event)
        pass_over(None, event)

    def _begin(self, event: Event) -> None:
        self.accepted = True
        response = event.get("response")
        if isinstance(response, dict) and not self.defaults:
            self.defaults = response

    def _output(self, event: Event, raw: bytes, out: list[bytes]) -> None:
        """Relays an output event: as raw bytes if nothing in it has to change."""
        self.accepted = True
        if self._repair is not None or self._held is not None:
            self._release(out, cut=False)
        if self._repair is None and not self._conformance.conforms(event, self._backlog.last):
            self._start_repair()
        if self._repair is not None:
            out += self._repair.take(event)
        elif event["type"] == ITEM_DONE and may_be_cut(event["item"]):
            # The next event shows whether the answer was cut off there.
            self._held = event, raw
        else:
            self._relay(event, raw, out)

    def _relay(self, event: Event, raw: bytes, out: list[bytes]) -> None:
        changed = self._shown(event)
        number = event.get("sequence_number")
        if number != self._number:
            changed = {**changed, "sequence_number": self._number}
        if self._index and isinstance(event.get("output_index"), int):
            changed = {**changed, "output_index": event["output_index"] + self._index}
        named = raw.startswith(b"event: %b\n" % event["type"].encode())
        self._misnamed = self._misnamed or not named
        if not named or not isinstance(number, int):
            self.path = "repaired"
        self._pass(raw + b"\n\n" if changed is event and named else sse.encode(changed), out)
        if event["type"] == ITEM_DONE:
            self._done.append(event["item"])
            self._backlog = _Backlog()

    def _pass(self, event: bytes, out: list[bytes]) -> None:
        self._number += 1
        self._send(event, out)

    def _send(self, events: bytes, out: list[bytes]) -> None:
        self.path = self.path or "bytes"
        self._backlog.add(events)
        out.append(events)

    def _shown(self, event: Event) -> Event:
        item = event.get("item")
        if not isinstance(item, dict):
            return event
        shown = self._turn.echo.shown(item)
        return event if shown is item else {**event, "item": shown}

    def _release(self, out: list[bytes], *, cut: bool) -> None:
        """Relays the end of the last item if it was held back."""
        if self._repair is not None:
            out += self._repair.release(cut=cut)
        elif self._held is not None:
            (event, raw), self._held = self._held, None
            if cut:
                event = {**event, "item": cut_off(event["item"])}
                raw = sse.encode(event)[:-2]
            self._relay(event, raw, out)

    # --- repair

    def _start_repair(self) -> None:
        """Starts the repair of the stream, with the events of the open item so far."""
        if not self._backlog.whole:
            raise UpstreamBroken("The model's server broke the order of its events.")
        self._repair = self._opened()
        self.path = "repaired"

    def _opened(self) -> Repair:
        """A repair that has taken all events that were relayed."""
        repair = Repair(self._turn, self._number, self._done)
        repair.catch_up((self._unshifted(event) for event in self._backlog.events()), self._number)
        return repair

    def _unshifted(self, event: Event) -> Event:
        if self._index and isinstance(event.get("output_index"), int):
            return {**event, "output_index": event["output_index"] - self._index}
        return event

    # --- the end

    def _end(self, event: Event, status: str, out: list[bytes]) -> None:
        self.accepted = True
        # Some servers send the response without an object around it.
        response = event.get("response", event if isinstance(event.get("output"), list) else None)
        if not isinstance(response, dict):
            raise UpstreamBroken("The model's server ended the stream without a response.")
        if status == "completed":
            # Some servers use one event for every end.
            status = _answer.status_of(response)
        if status == "failed":
            raise stream_error(response.get("error") or event.get("error") or error_in(None, response) or {})
        self._conclude({**response, "status": status}, _output_of(event), out)

    def _conclude(self, response: Mapping[str, Any], final: list[Item], out: list[bytes]) -> None:
        if self._repair is None and self._is_missing(final):
            self._release(out, cut=False)
            self._start_repair()
        if self._repair is not None:
            out += self._repair.end(final, response["status"])
        self._release(out, cut=response["status"] == "incomplete")
        items = self._repair.items if self._repair else self._done
        if self._strange and not items:
            raise UpstreamBroken("The model's server sent content that this gateway does not understand.")
        self.path = self.path or "bytes"
        self.answer = _answer.answer_of(response, list(items), self._turn, path=self.path)

    def _is_missing(self, output: list[Item]) -> bool:
        """Whether an item is open, or the upstream's response object holds more than was relayed."""
        return self._conformance.item is not None or len(output) > len(self._items_so_far())

    def _items_so_far(self) -> list[Item]:
        return [*self._done, *([self._held[0]["item"]] if self._held else ())]

    def _break_off(self, error: UpstreamError, out: list[bytes]) -> None:
        self.started = self.started or bool(out)
        self._release(out, cut=False)
        self._break(error)

    def _break(self, error: UpstreamError) -> None:
        """Before the first output a failure is raised and failover follows; afterwards the answer has failed."""
        if not self.started:
            raise error
        self.answer = Answer(
            status="failed",
            output=self.partial(),
            error={"code": error.name, "message": error.message},
            failure=error,
            path=self.path,
            **_answer.identity(self.defaults),
        )

    def _count_unreadable(self, block: bytes) -> None:
        rest = self._splitter.rest
        self._unreadable += sum(len(raw) for raw in block.split(b"\n\n") if not raw.startswith(_FIELDS))
        if self._unreadable + (0 if rest.startswith(_FIELDS) else len(rest)) > MAX_UNREADABLE:
            raise UpstreamBroken("The model's server answered with something that is not an event stream.")


class FunctionsDecoder(ResponsesDecoder):
    """Decodes the stream of an upstream that was sent functions in place of other tools."""

    __slots__ = ("_restorer",)

    def __init__(self, turn: Turn, sequence: int) -> None:
        super().__init__(turn, sequence)
        self._restorer = Restorer(turn)
        self._repair = Repair(turn, sequence)
        self.path = "translated"

    def _handle(self, event: Event, raw: bytes, out: list[bytes]) -> None:
        restored = self._restorer.event(event)
        if restored is not None:
            super()._handle(restored, raw, out)


class _Backlog:
    """The events of the open item, as they were relayed."""

    __slots__ = ("_pieces", "_size", "whole")

    def __init__(self) -> None:
        self.whole = True
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, events: bytes) -> None:
        self._size += len(events)
        if self._size <= MAX_KEPT:
            self._pieces.append(events)
        else:
            self.whole = False

    @property
    def last(self) -> str | None:
        """The type of the newest event; None if it was not kept."""
        if not self.whole or not self._pieces:
            return None
        piece = self._pieces[-1]
        before = piece.rfind(b"\n\n", 0, -2)
        return _name(piece[before + 2 if before >= 0 else 0 :])

    def events(self) -> Iterator[Event]:
        for piece in self._pieces:
            for raw in piece.split(b"\n\n"):
                name, data = data_of(raw)
                for value in objects(data, name) if data else ():
                    yield _event(value, name)


def _name(raw: bytes) -> str | None:
    first = raw[: raw.find(b"\n")]
    return first[len(_NAME) :].decode("utf-8", "replace") if first.startswith(_NAME) else sse.parse(first)[0]


def _event(value: Event, name: str | None) -> Event:
    """The event with a type of this API, if it has one: its own, else its name."""
    kind = value.get("type")
    if isinstance(kind, str) and kind.startswith(_OURS) and kind.rpartition(".")[0] not in _ALIASES:
        return value
    if not isinstance(kind, str) or (not kind.startswith(_OURS) and name is not None and name.startswith(_OURS)):
        kind = name or ("error" if value.get("error") else "")
    if name == "error" and not kind.startswith(_OURS):
        # Its type may be that of the error.
        kind = "error"
    family, _, step = kind.rpartition(".")
    return {**value, "type": f"{_ALIASES[family]}.{step}" if family in _ALIASES else kind}


def _is_bare(event: Event) -> bool:
    """Whether an event belongs to no item."""
    return "output_index" not in event and "item_id" not in event and "item" not in event


def _is_strict(data: bytes) -> bool:
    """Whether the data is one object of strict JSON."""
    try:
        return isinstance(orjson.loads(data), dict)
    except ValueError:
        return False


def _is_whole(raw: bytes) -> bool:
    """Whether an event only lacks its blank line."""
    name, data = data_of(raw)
    try:
        return bool(data) and any(objects(data or b"", name))
    except UpstreamBroken:
        return False


def _is_utf8(block: bytes) -> bool:
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def _output_of(end: Event) -> list[Item]:
    """The output items of the upstream's response object."""
    response = end.get("response", end)
    output = response.get("output") if isinstance(response, dict) else None
    return [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
