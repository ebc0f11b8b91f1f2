"""The items of an answer as they grow out of what a chat upstream says, and the events that tell of it.

One item is open at a time, as the contract has it. Calls that an upstream sends side by side wait for their turn.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from app import ids
from app.errors import UpstreamBroken
from app.formats._events import Emitter
from app.formats._openai import usable_call_id
from app.formats.chat_completions._context import arrays
from app.formats.chat_completions._request import LOGPROBS
from app.formats.chat_completions._tools import INPUT, Tool, Toolbox
from app.turn import Item, Turn


class Output:
    """What one answer has become so far. `take` and `end` prepare events, `drain` gives them away."""

    def __init__(self, turn: Turn, sequence: int) -> None:
        self.items: list[Item] = []
        """The finished ones."""
        self._turn = turn
        self._toolbox = Toolbox.of(turn)
        self._emitter = Emitter(sequence, len(turn.preface))
        self._events: list[bytes] = []
        self._written: _Written | None = None
        self._calls: deque[_Call] = deque()
        self._all_calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._late: list[tuple[str, str, Sequence[Mapping[str, Any]]]] = []
        self._logs = LOGPROBS in turn.echo.include

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
        """Everything that has been told of, the unfinished last item as such."""
        current = self._written or (self._calls[0] if self._calls and self._calls[0].item else None)
        return [*self.items, current.snapshot()] if current else list(self.items)

    def take(self, delta: Mapping[str, Any], logprobs: object = None) -> None:
        """More of the answer: a delta, or a whole message. Raises UpstreamBroken for what fits nowhere."""
        self._write("reasoning_text", _text(delta.get("reasoning_content")) or _text(delta.get("reasoning")))
        logged = logprobs.get("content") if self._logs and isinstance(logprobs, dict) else None
        self._write("output_text", _text(delta.get("content")), _logprobs(logged))
        self._write("refusal", _text(delta.get("refusal")))
        for call in _calls(delta):
            self._take_call(call)

    def end(self, status: str) -> None:
        """Closes what is open; with the status `incomplete` it was the last item that was cut off."""
        self._close_calls("completed" if self._late else status)
        self._write_late()
        self._close_written(status)

    # --- text

    def _write(self, kind: str, text: str, logprobs: Sequence[Mapping[str, Any]] = ()) -> None:
        if not text:
            return
        if self._calls:
            if not all(call.whole for call in self._calls):
                self._late.append((kind, text, logprobs))
                return
            self._close_calls("completed")
            self._write_late()
        item_type = "reasoning" if kind == "reasoning_text" else "message"
        if self._written and self._written.item["type"] != item_type:
            self._close_written("completed")
        if self._written is None:
            self._written = _Written(_new_item(self._turn, item_type, self._emitter.output_index))
            self._events.append(self._emitter.open(self._written.item))
        self._events += self._written.write(self._emitter, kind, text, logprobs)

    def _write_late(self) -> None:
        """Text that came in the midst of calls."""
        late, self._late = self._late, []
        for kind, text, logprobs in late:
            self._write(kind, text, logprobs)

    def _close_written(self, status: str) -> None:
        written, self._written = self._written, None
        if written is None:
            return
        self._events += written.close_part(self._emitter)
        item = written.snapshot(status)
        if item["type"] == "reasoning":
            item = _finished_reasoning(item, self._turn)
        for index, part in enumerate(item.get("summary") or ()):
            self._events += self._emitter.summary(item, index, part)
        self._finish(item)

    def _finish(self, item: Item) -> None:
        self._events.append(self._emitter.close(item))
        self.items.append(item)

    # --- calls

    def _take_call(self, delta: Mapping[str, Any]) -> None:
        call = self._find(delta)
        if call.closed:
            if call.surplus(delta):
                raise UpstreamBroken("The model's server went on with a call that had ended.")
            return
        call.take(delta)
        self._advance()

    def _find(self, delta: Mapping[str, Any]) -> _Call:
        """The call that a delta goes on with, or a new one."""
        index = delta.get("index")
        at = index if isinstance(index, int) else None
        known = self._by_index.get(at) if at is not None else (self._all_calls[-1] if self._all_calls else None)
        if known is not None and not known.differs(delta):
            return known
        call = _Call()
        self._calls.append(call)
        self._all_calls.append(call)
        if at is not None:
            self._by_index[at] = call
        return call

    def _advance(self) -> None:
        """Tells of the first call, and of those behind it as soon as it is whole."""
        while self._calls:
            first = self._calls[0]
            if first.can_begin:
                self._open_call(first)
                self._events += first.told(self._emitter)
            if len(self._calls) == 1 or not (first.can_begin and first.whole):
                return
            self._close_call("completed")

    def _open_call(self, call: _Call) -> None:
        if call.item is not None:
            return
        self._close_written("completed")
        tool = self._toolbox.called(call.name)
        item = _new_item(self._turn, tool.call, self._emitter.output_index)
        call.open({**item, "call_id": self._call_id(call, item["id"]), **_named(tool)})
        self._events.append(self._emitter.open(call.snapshot()))

    def _close_call(self, status: str) -> None:
        call = self._calls.popleft()
        self._open_call(call)
        self._events += call.told(self._emitter)
        self._events += call.ended(self._emitter, status)
        item = call.snapshot(status)
        self._events.append(self._emitter.close_arguments(item))
        self._finish(item)

    def _close_calls(self, status: str) -> None:
        for call in self._calls:
            call.require_name()
        self._calls = deque(call for call in self._calls if call.name)
        while self._calls:
            self._close_call("completed" if len(self._calls) > 1 else status)

    def _call_id(self, call: _Call, item_id: str) -> str:
        """The upstream's id of the call, unless it has none or has used it before."""
        made = f"call_{item_id.partition('_')[2]}"
        if not call.id:
            return made
        call_id = usable_call_id(call.id)
        taken = any(item.get("call_id") == call_id for item in (*self.items, *self._turn.input))
        quoted = orjson.dumps(call_id)
        return made if taken or any(quoted in array for array in arrays(self._turn)) else call_id


class _Written:
    """A message or a reasoning item, part by part."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self._parts: list[dict[str, Any]] = []
        self._kind = ""
        self._pieces: list[str] = []
        self._logprobs: list[Mapping[str, Any]] = []

    def write(self, emitter: Emitter, kind: str, text: str, logprobs: Sequence[Mapping[str, Any]]) -> Iterator[bytes]:
        if kind != self._kind:
            yield from self.close_part(emitter)
            self._kind = kind
            yield emitter.open_part(self.item, len(self._parts), _part(kind))
        self._pieces.append(text)
        self._logprobs += logprobs
        yield emitter.delta(self.item, len(self._parts), kind, text, logprobs)

    def close_part(self, emitter: Emitter) -> Iterator[bytes]:
        if self._kind:
            part = self._part()
            yield from emitter.close_part(self.item, len(self._parts), part)
            self._parts.append(part)
            self._kind, self._pieces, self._logprobs = "", [], []

    def snapshot(self, status: str = "incomplete") -> Item:
        content = [*self._parts, self._part()] if self._kind else list(self._parts)
        return {**self.item, "status": status, "content": content}

    def _part(self) -> dict[str, Any]:
        return _part(self._kind, "".join(self._pieces), self._logprobs)


class _Call:
    """A call, its arguments growing. Told of once its name is known and its arguments have begun."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.item: Item | None = None
        self.closed = False
        self._arguments: list[str] = []
        self._untold: list[str] = []
        self._told: list[str] = []
        self._reader: _InputReader | None = None

    def take(self, delta: Mapping[str, Any]) -> None:
        call_id, name, arguments = _told_of(delta)
        self.id = self.id or call_id
        # Some send the name in pieces, some repeat it with every piece of the arguments.
        if self.item is None and name != self.name:
            self.name += name
        if arguments:
            self._arguments.append(arguments)
            self._untold.append(arguments)

    def differs(self, delta: Mapping[str, Any]) -> bool:
        """Whether a delta under the same index, or under none, begins another call."""
        call_id, name, arguments = _told_of(delta)
        if not name:
            return False
        if call_id and self.id:
            return call_id != self.id
        # Servers that give no index send each call whole.
        return bool(self._arguments) and ("index" not in delta or (bool(arguments) and self.whole))

    def surplus(self, delta: Mapping[str, Any]) -> bool:
        return bool(_told_of(delta)[2].strip())

    def require_name(self) -> None:
        if self._arguments and not self.name:
            raise UpstreamBroken("The model's server sent a call without a name.")

    @property
    def can_begin(self) -> bool:
        return self.item is not None or bool(self.name and self._untold)

    @property
    def whole(self) -> bool:
        """The arguments are an object that has come to its end."""
        try:
            return isinstance(orjson.loads("".join(self._arguments)), dict)
        except ValueError:
            return False

    def open(self, item: Item) -> None:
        self.item = item
        if item["type"] == "custom_tool_call":
            self._reader = _InputReader()

    def told(self, emitter: Emitter) -> Iterator[bytes]:
        """The arguments that nobody has heard of yet."""
        untold, self._untold = "".join(self._untold), []
        return self._tell(emitter, self._reader.feed(untold) if self._reader else untold)

    def ended(self, emitter: Emitter, status: str) -> Iterator[bytes]:
        """What is still owed at the end; clients parse arguments, so that none at all are an empty object."""
        self.closed = True
        if self._reader:
            return self._tell(emitter, self._reader.rest())
        return self._tell(emitter, "{}" if status == "completed" and not self._arguments else "")

    def snapshot(self, status: str = "incomplete") -> Item:
        assert self.item is not None
        if self._reader:
            return {**self.item, "input": "".join(self._told)}
        return {**self.item, "arguments": "".join(self._told), "status": status}

    def _tell(self, emitter: Emitter, text: str) -> Iterator[bytes]:
        assert self.item is not None
        if text:
            self._told.append(text)
            yield emitter.argument(self.item, text)


class _InputReader:
    """The string in `{"input": "…"}`, read while it is being written. What is no such object is the input itself."""

    _BEGIN = re.compile(rf'\s*\{{\s*"{INPUT}"\s*:\s*"')
    _UNIT = re.compile(
        r'[^"\\]+'
        r"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
        r"|\\u[0-9a-fA-F]{4}"
        r"|\\[^u]"
    )
    _LONGEST_UNIT = len(r"\ud83d\ude00")
    #: What stands before the string is short; more than this is something else.
    _MAX_BEGIN = 200

    def __init__(self) -> None:
        self._held = ""
        self._begun = False
        self._ended = False

    def feed(self, text: str) -> str:
        if self._ended:
            return ""
        self._held += text
        if not self._begun:
            begin = self._BEGIN.match(self._held[: self._MAX_BEGIN])
            if begin is None:
                return ""
            self._begun, self._held = True, self._held[begin.end() :]
        return "".join(self._units(self._LONGEST_UNIT))

    def rest(self) -> str:
        """What is left when nothing more comes."""
        if self._begun and not self._ended:
            return "".join(self._units(0))
        rest, self._held = self._held, ""
        return "" if self._ended else rest

    def _units(self, needed: int) -> Iterator[str]:
        """Plain characters and escapes, unescaped; an escape only when it cannot become a longer one."""
        at = 0
        while at < len(self._held):
            if self._held[at] == '"':
                self._ended = True
                break
            unit = self._UNIT.match(self._held, at)
            escaped = self._held[at] == "\\"
            if unit is None or (escaped and self._held[at + 1 : at + 2] == "u" and len(self._held) - at < needed):
                break
            yield _unescaped(unit[0]) if escaped else unit[0]
            at = unit.end()
        self._held = "" if self._ended else self._held[at:]


def _unescaped(escape: str) -> str:
    try:
        text: str = orjson.loads(f'"{escape}"')
    except ValueError:
        # Half of a surrogate pair, or an escape that JSON does not have.
        return "\ufffd" if escape.startswith("\\u") else escape
    return text


# --- items ------------------------------------------------------------------------------------------------------


def _new_item(turn: Turn, kind: str, output_index: int) -> Item:
    """An item under an id that is the same whenever this turn is read again. A chat upstream gives it none."""
    digest = hashlib.sha256(f"{turn.id}/{output_index}".encode()).hexdigest()[:48]
    item: Item = {"type": kind, "id": f"{ids.ITEM_PREFIXES[kind]}_{digest}"}
    if kind == "message":
        return {**item, "status": "in_progress", "role": "assistant", "content": []}
    if kind == "reasoning":
        return {**item, "status": "in_progress", "summary": [], "content": []}
    return item


def _named(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, **({"namespace": tool.namespace} if tool.namespace else {})}


def _part(kind: str, text: str = "", logprobs: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    if kind == "refusal":
        return {"type": kind, "refusal": text}
    if kind == "output_text":
        return {"type": kind, "text": text, "annotations": [], "logprobs": list(logprobs)}
    return {"type": kind, "text": text}


def _finished_reasoning(item: Item, turn: Turn) -> Item:
    """Reasoning text as the client asked for it: said again as the summary, and sealed to be carried."""
    text = "".join(part["text"] for part in item["content"])
    asked = turn.request.get("reasoning") or {}
    if asked.get("summary") or asked.get("generate_summary"):
        item = {**item, "summary": [{"type": "summary_text", "text": text}]}
    if turn.seal is not None:
        item = {**item, "encrypted_content": turn.seal(text)}
    return item


# --- what upstreams send ----------------------------------------------------------------------------------------


def _text(value: object) -> str:
    """A string, or the text of a list of parts."""
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, dict))
    return value if isinstance(value, str) else ""


def _calls(delta: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        return (call for call in calls if isinstance(call, dict))
    # The form before there were several calls.
    legacy = delta.get("function_call")
    return [{"index": 0, "function": legacy}] if isinstance(legacy, dict) else ()


def _told_of(delta: Mapping[str, Any]) -> tuple[str, str, str]:
    """Id, name and arguments in a delta of a call, each possibly empty."""
    function = delta.get("function")
    if not isinstance(function, dict):
        function = {}
    arguments = function.get("arguments")
    if isinstance(arguments, dict):
        arguments = orjson.dumps(arguments).decode()
    return _text(delta.get("id")), _text(function.get("name")), _text(arguments)


def _logprobs(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        return []
    return [
        {**_logprob(token), "top_logprobs": [_logprob(top) for top in _logged(token.get("top_logprobs"))]}
        for token in _logged(value)
    ]


def _logged(value: object) -> list[dict[str, Any]]:
    return [token for token in value if isinstance(token, dict)] if isinstance(value, list) else []


def _logprob(token: Mapping[str, Any]) -> dict[str, Any]:
    text, logprob, raw = _text(token.get("token")), token.get("logprob"), token.get("bytes")
    return {
        "token": text,
        "logprob": float(logprob) if isinstance(logprob, int | float) else 0.0,
        "bytes": raw if isinstance(raw, list) else list(text.encode("utf-8", "replace")),
    }
