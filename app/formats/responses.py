"""Upstreams that speak the Responses API themselves: a pass-through with our ids and our memory.

When nothing of ours stands in front, the bytes of output events are relayed as they came. Lifecycle events are never
relayed: the head and the end of a stream are written by the one who keeps the response.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from app import sse
from app.errors import UpstreamBroken, UpstreamError
from app.formats import _openai
from app.formats._context import without_secret
from app.formats._events import Emitter
from app.records import Link
from app.turn import Answer, Item, Row, Turn

PATH = "/responses"
#: Where an upstream that compacts natively does it.
COMPACTION_PATH = "/responses/compact"
_COMPACTION_KEYS = ("instructions", "prompt_cache_key", "service_tier")

#: Ours alone. `store` is always false upstream: the memory is here.
_NEVER_SENT = frozenset(
    {
        "background",
        "background_options",
        "context_management",
        "conversation",
        "generate",
        "input",
        "model",
        "previous_response_id",
        "store",
        "stream",
        "stream_id",
        "stream_options",
    }
)
_ENCRYPTED = "reasoning.encrypted_content"

_HEAD = frozenset({"response.created", "response.queued", "response.in_progress"})
_ENDS = {"response.completed": "completed", "response.incomplete": "incomplete", "response.failed": "failed"}

#: Events that hold nothing of ours and are passed on unread once the stream has proved exact.
_UNREAD = frozenset(
    f"response.{name}".encode()
    for name in (
        "output_text.delta",
        "output_text.done",
        "output_text.annotation.added",
        "content_part.added",
        "content_part.done",
        "refusal.delta",
        "refusal.done",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "reasoning_text.delta",
        "reasoning_text.done",
        "reasoning_summary_part.added",
        "reasoning_summary_part.done",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "code_interpreter_call_code.delta",
        "code_interpreter_call_code.done",
        "mcp_call_arguments.delta",
        "mcp_call_arguments.done",
        "image_generation_call.partial_image",
    )
)
_NAME = b"event: "
#: How an event may begin.
_FIELDS = (b"event:", b"data:", b"id:", b"retry:", b":", b"\n")
_SEQUENCE = re.compile(rb'"sequence_number":\s*(\d+)')

#: Raw events since the last finished item, kept for the partial output of a stream that breaks.
MAX_KEPT = 16 * 1024 * 1024
#: Bytes without one valid event: this is no event stream.
MAX_NONSENSE = 64 * 1024


# --- the request ------------------------------------------------------------------------------------------------


def encode(turn: Turn, row: Row, model: str) -> bytes:
    body = {name: value for name, value in turn.request.items() if name not in _NEVER_SENT}
    body["model"] = model
    body["store"] = False
    if turn.stream:
        body["stream"] = True
        if "stream_options" in turn.request:
            body["stream_options"] = turn.request["stream_options"]
    if isinstance(body.get("instructions"), Mapping):
        body["instructions"] = instructions_text(body["instructions"])
    if isinstance(body.get("truncation"), Mapping):
        body["truncation"] = body["truncation"].get("type", "disabled")
    if row.encrypted_reasoning:
        body["include"] = sorted({*body.get("include", ()), _ENCRYPTED})
    return _with_input(body, turn, row)


def headers(api_key: str | None) -> Mapping[str, str]:
    return _openai.bearer(api_key)


def dropped(turn: Turn, row: Row) -> Sequence[str]:
    """Whatever the upstream cannot run, it says so itself."""
    return ()


def amended(turn: Turn, row: Row, error: UpstreamError) -> Turn | None:
    return None


def encode_compaction(turn: Turn, row: Row, model: str) -> bytes:
    """The body for `COMPACTION_PATH`, which takes little besides the context."""
    body: dict[str, Any] = {name: turn.request[name] for name in _COMPACTION_KEYS if name in turn.request}
    if isinstance(body.get("instructions"), Mapping):
        body["instructions"] = instructions_text(body["instructions"])
    body["model"] = model
    return _with_input(body, turn, row)


def instructions_text(instructions: Mapping[str, Any]) -> str:
    """Instructions given as a message, as the string they mean."""
    content = instructions.get("content", instructions.get("text"))
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str))


def _with_input(body: Mapping[str, Any], turn: Turn, row: Row) -> bytes:
    """The context spliced into the body: what was stored as JSON is not parsed to be sent."""
    return b'%b,"input":[%b]}' % (orjson.dumps(body)[:-1], b",".join(_input(turn, row)))


def _input(turn: Turn, row: Row) -> Iterable[bytes]:
    """The context as comma-separated pieces of JSON: stored arrays as they are, unless something must be left out."""
    for position, link in enumerate(turn.chain.links):
        if not (turn.chain.compacted and position == 0):
            yield from _spliced(link.input, link, row)
        yield from _spliced(link.output, link, row)
    yield from (orjson.dumps(item) for item in turn.input)


def _spliced(array: bytes, link: Link, row: Row) -> Iterable[bytes]:
    readable = not link.opaque or (link.family == row.family and row.encrypted_reasoning)
    if readable and link.status == "completed":
        inner = array[1:-1]
        return (inner,) if inner else ()
    kept = (item for item in orjson.loads(array) if _can_replay(item, link, row))
    return (orjson.dumps(item if link.family == row.family else without_secret(item)) for item in kept)


def _can_replay(item: Item, link: Link, row: Row) -> bool:
    """Whether this upstream can read the item: not another family's secrets, nothing that was left unfinished."""
    kind = item.get("type")
    if kind == "reasoning":
        return bool(item.get("encrypted_content") and link.family == row.family) or bool(item.get("content"))
    if kind == "compaction":
        return link.family == row.family
    return not (link.status == "incomplete" and kind in _CALLS and item.get("status") == "incomplete")


_CALLS = frozenset({"function_call", "custom_tool_call", "shell_call", "local_shell_call", "apply_patch_call"})


# --- the answer -------------------------------------------------------------------------------------------------


def decode(body: bytes, turn: Turn) -> Answer:
    try:
        response = orjson.loads(body)
    except ValueError:
        raise UpstreamBroken("The model's server answered with something that is not JSON.") from None
    if not isinstance(response, dict) or not isinstance(response.get("output"), list):
        if isinstance(response, dict) and isinstance(response.get("error"), dict):
            raise _openai.stream_error(response["error"])
        raise UpstreamBroken("The model's server answered with something that is not a response.")
    if response.get("status") == "failed" and not response["output"]:
        raise _openai.stream_error(response.get("error") or {})
    return _answer(response, [])


def decode_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    return _openai.http_error(status, headers, body)


def _answer(response: Mapping[str, Any], done: list[Item]) -> Answer:
    status = response.get("status")
    output = response.get("output")
    items = [item for item in output if isinstance(item, dict)] if isinstance(output, list) and output else done
    return Answer(
        status=status if status in ("incomplete", "failed") else "completed",
        output=[_openai.usable_item(item) for item in items],
        usage=_openai.usage(response.get("usage")),
        error=response.get("error"),
        incomplete_details=response.get("incomplete_details"),
        defaults=response,
        upstream_id=_string(response.get("id")),
        upstream_model=_string(response.get("model")),
    )


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None


# --- the stream -------------------------------------------------------------------------------------------------


def decoder(turn: Turn, sequence: int) -> ResponsesDecoder:
    return ResponsesDecoder(turn, sequence)


class ResponsesDecoder:
    """Relays the output events of one stream and learns what it needs on the way."""

    def __init__(self, turn: Turn, sequence: int) -> None:
        self.accepted = False
        self.started = False
        self.answer: Answer | None = None
        self.defaults: Mapping[str, Any] = {}
        self._echo = turn.echo
        self.sequence = sequence
        """Number of the next event on this stream, whoever sends it."""
        self._splitter = sse.Splitter()
        self._index = len(turn.preface)
        self._verbatim = False
        self._done: list[Item] = []
        self._open: list[bytes] = []
        self._kept = 0
        self._nonsense = 0

    def feed(self, data: bytes) -> bytes:
        if self.answer is not None:
            return b""
        out: list[bytes] = []
        try:
            self._take(data, out)
        except UpstreamError as error:
            self._break(error)
        if not out:
            return b""
        out.append(b"")
        return b"\n\n".join(out)

    def finish(self) -> None:
        if self.answer is not None:
            return
        try:
            rest = self._splitter.rest.strip(b"\n")
            if _is_end(rest):
                # The last event may lack its blank line; half an output event is nothing.
                self._read(rest, [])
            if self.answer is None:
                raise UpstreamBroken("The model's server closed the stream before the response had ended.")
        except UpstreamError as error:
            self._break(error)

    def partial(self) -> list[Item]:
        return [*self._done, *_unfinished(self._open)]

    def _is_next(self, raw: bytes) -> bool:
        """Whether the event can be passed on unread: a plain one that has the number it should have."""
        if not self._verbatim or not raw.startswith(_NAME) or raw[7 : raw.find(b"\n")] not in _UNREAD:
            return False
        number = _SEQUENCE.search(raw)
        return number is not None and int(number[1]) == self.sequence

    def _take(self, data: bytes, out: list[bytes]) -> None:
        try:
            block = self._splitter.feed(data)
        except sse.EventTooLong:
            raise UpstreamBroken("The model's server sent an event without an end.") from None
        verbatim = _is_utf8(block)
        for raw in block.split(b"\n\n"):
            if verbatim and self._is_next(raw):
                out.append(raw)
                self._keep(raw)
            elif raw:
                self._read(raw.strip(b"\n"), out)
                if self.answer is not None:
                    break
        if not self.accepted:
            self._count_nonsense(block)

    def _read(self, raw: bytes, out: list[bytes]) -> None:
        name, data = sse.parse(raw)
        if data is None or data.startswith(b"[DONE]"):
            return
        event = _event(data, name)
        kind = event["type"]
        if kind in _HEAD:
            self._begin(event)
        elif kind in _ENDS:
            self._end(event, _ENDS[kind])
        elif kind == "error":
            self._fail(event)
        else:
            out.append(self._relayed(event, raw))

    def _begin(self, event: Mapping[str, Any]) -> None:
        self.accepted = True
        response = event.get("response")
        if isinstance(response, dict) and not self.defaults:
            self.defaults = response

    def _end(self, event: Mapping[str, Any], status: str) -> None:
        self.accepted = True
        response = event.get("response")
        if not isinstance(response, dict):
            raise UpstreamBroken("The model's server ended the stream without a response.")
        if status == "failed":
            self._fail(response)
        else:
            self.answer = _answer({**response, "status": status}, self._done)

    def _fail(self, holder: Mapping[str, Any]) -> None:
        error = holder.get("error")
        raise _openai.stream_error(error if isinstance(error, dict) else holder)

    def _break(self, error: UpstreamError) -> None:
        """Before the first output a failure is an error, so that another channel may be asked; later an answer."""
        if not self.started:
            raise error
        self.answer = Answer(
            status="failed",
            output=self.partial(),
            error={"code": error.code or "server_error", "message": error.message},
            defaults=self.defaults,
            upstream_id=_string(self.defaults.get("id")),
            upstream_model=_string(self.defaults.get("model")),
        )

    def _relayed(self, event: dict[str, Any], raw: bytes) -> bytes:
        """An output event as it goes on: the raw bytes where nothing in it had to change."""
        if not self.started:
            self._start(event, raw)
        changed = self._with_usable_item(event)
        if event.get("sequence_number") != self.sequence:
            changed = {**changed, "sequence_number": self.sequence}
        if self._index and isinstance(event.get("output_index"), int):
            changed = {**changed, "output_index": event["output_index"] + self._index}
        result = raw if changed is event and raw.startswith(_NAME) else sse.encode(changed)[:-2]
        self._keep(result)
        if event["type"] == "response.output_item.done" and isinstance(event.get("item"), dict):
            self._done.append(_openai.usable_item(event["item"]))
            self._open, self._kept = [], 0
        return result

    def _start(self, event: Mapping[str, Any], raw: bytes) -> None:
        """The first output event shows what kind of stream this is."""
        self.accepted = self.started = True
        self._verbatim = raw.startswith(_NAME) and isinstance(event.get("output_index"), int) and not self._index

    def _with_usable_item(self, event: dict[str, Any]) -> dict[str, Any]:
        item = event.get("item")
        if not isinstance(item, dict):
            return event
        shown = self._echo.shown(_openai.usable_item(item))
        return event if shown is item else {**event, "item": shown}

    def _keep(self, raw: bytes) -> None:
        self.sequence += 1
        self._kept += len(raw)
        if self._kept <= MAX_KEPT:
            self._open.append(raw)

    def _count_nonsense(self, block: bytes) -> None:
        rest = self._splitter.rest
        self._nonsense += sum(len(raw) for raw in block.split(b"\n\n") if not raw.startswith(_FIELDS))
        if self._nonsense + (0 if rest.startswith(_FIELDS) else len(rest)) > MAX_NONSENSE:
            raise UpstreamBroken("The model's server answered with something that is not an event stream.")


def _event(data: bytes, name: str | None) -> dict[str, Any]:
    """The event in `data`. One that cannot be read ends the stream: a lost delta would corrupt the text silently."""
    try:
        event = orjson.loads(data)
    except ValueError:
        raise UpstreamBroken("The model's server sent an event that is not JSON.") from None
    if not isinstance(event, dict):
        raise UpstreamBroken("The model's server sent an event that is not an object.")
    if not isinstance(event.get("type"), str):
        event["type"] = name or ("error" if event.get("error") else "")
    if not event["type"]:
        raise UpstreamBroken("The model's server sent an event without a type.")
    return event


def _is_utf8(block: bytes) -> bool:
    if block.isascii():
        return True
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_end(raw: bytes) -> bool:
    name, data = sse.parse(raw)
    try:
        return data is not None and _event(data, name)["type"] in _ENDS
    except UpstreamBroken:
        return False


def _unfinished(raws: Iterable[bytes]) -> list[Item]:
    """The item that was being sent when the stream broke, as far as its events tell."""
    item: Item | None = None
    parts: dict[int, dict[str, Any]] = {}
    for raw in raws:
        _, data = sse.parse(raw)
        event = orjson.loads(data or b"{}")
        kind = event.get("type", "")
        if kind == "response.output_item.added":
            item, parts = dict(event["item"]), {}
        elif kind == "response.content_part.added":
            parts[event.get("content_index", 0)] = dict(event["part"])
        elif kind in ("response.output_text.delta", "response.reasoning_text.delta"):
            _append(parts, event, "output_text" if "output" in kind else "reasoning_text", "text")
        elif kind == "response.refusal.delta":
            _append(parts, event, "refusal", "refusal")
        elif item is not None and kind == "response.function_call_arguments.delta":
            item["arguments"] = item.get("arguments", "") + event.get("delta", "")
        elif item is not None and kind == "response.custom_tool_call_input.delta":
            item["input"] = item.get("input", "") + event.get("delta", "")
    if item is None:
        return []
    if parts:
        item["content"] = [parts[index] for index in sorted(parts)]
    return [{**_openai.usable_item(item), "status": "incomplete"}]


def _append(parts: dict[int, dict[str, Any]], event: Mapping[str, Any], kind: str, name: str) -> None:
    empty: dict[str, Any] = {"type": kind, name: ""}
    if kind == "output_text":
        empty |= {"annotations": [], "logprobs": []}
    part = parts.setdefault(event.get("content_index", 0), empty)
    part[name] = part.get(name, "") + event.get("delta", "")


def stream(answer: Mapping[str, Any]) -> Iterable[bytes]:
    """A whole response object as the event stream that an upstream would have sent for it."""
    emitter = Emitter()
    begun = {**answer, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    yield emitter.event("response.created", response=begun)
    yield emitter.event("response.in_progress", response=begun)
    for item in answer["output"]:
        yield from emitter.item(item)
    yield emitter.event(f"response.{answer['status']}", response=answer)
