"""The codec of `/chat/completions` as a passthrough endpoint: changes the model's name in the request, and reads ids,
status and usage of the answer. It translates nothing and stores no text.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any

import orjson

from app import sse
from app.contract.usage import Usage
from app.errors import UpstreamBroken, UpstreamError
from app.formats import _openai
from app.formats._decoding import string
from app.formats._endings import Ending, ending_of
from app.formats._failures import error_in_body, http_error
from app.formats._reader import FIELDS, MAX_UNREADABLE, data_of, is_done, objects, pass_over, plain_object
from app.formats.chat_completions._chunks import completion_of, reason_in, refuse_error, usage_of

PATH = "/chat/completions"

#: Members of a delta or message that hold text.
_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")


# --- the request ------------------------------------------------------------------------------------------------


def encode(request: Mapping[str, Any], model: str) -> bytes:
    """The client's body; a stream also requests its usage."""
    body = {**request, "model": model}
    if request.get("stream") and not asks_for_usage(request):
        body["stream_options"] = {**(request.get("stream_options") or {}), "include_usage": True}
    return orjson.dumps(body)


def asks_for_usage(request: Mapping[str, Any]) -> bool:
    """Whether the client requested the last chunk of a stream, which only holds usage."""
    return bool((request.get("stream_options") or {}).get("include_usage"))


def decode_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    return _about_messages(http_error(status, headers, body))


def _about_messages(error: UpstreamError) -> UpstreamError:
    """The error with `messages` as parameter in place of `input`."""
    if error.param == "input":
        error.param = "messages"
    return error


# --- the answer -------------------------------------------------------------------------------------------------


class CompletionSummary:
    """What is recorded of an answer: ids, model, usage, size and end; never its text."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.model: str | None = None
        self.usage: Usage | None = None
        self.text_length = 0
        """Characters, for an estimate if the upstream counts no tokens."""
        self._begun: set[object] = set()
        self._endings: dict[object, Ending] = {}

    def add_chunk(self, piece: Mapping[str, Any]) -> None:
        """Reads a chunk, or a whole completion."""
        self.id = self.id or string(piece.get("id"))
        self.model = self.model or string(piece.get("model"))
        self.usage = _openai.later(self.usage, usage_of(piece))
        for choice in _objects(piece.get("choices")):
            self._take_choice(choice)

    def _take_choice(self, choice: Mapping[str, Any]) -> None:
        index = at if isinstance(at := choice.get("index"), int) else 0
        self._begun.add(index)
        self.usage = _openai.later(self.usage, usage_of(choice))
        self.text_length += _length(choice.get("delta") or choice.get("message") or choice.get("text"))
        if reason := reason_in(choice):
            self._endings[index] = ending_of(reason)

    @property
    def finished(self) -> bool:
        """Every choice that has begun has a `finish_reason`."""
        return bool(self._begun) and self._begun == self._endings.keys()

    @property
    def status(self) -> str:
        """Status of a finished answer."""
        found = {ending.status for ending in self._endings.values()}
        return next((status for status in ("failed", "incomplete") if status in found), "completed")


def _length(message: object) -> int:
    """Characters of a message or a delta."""
    if not isinstance(message, dict):
        return len(message) if isinstance(message, str) else 0
    texts = [message.get(name) for name in _TEXTS]
    for call in _objects(message.get("tool_calls")):
        function = call.get("function")
        if isinstance(function, dict):
            texts += [function.get("name"), function.get("arguments")]
    return sum([len(text) for text in texts if isinstance(text, str)])


def _objects(value: object) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


# --- in one piece -----------------------------------------------------------------------------------------------


def read_whole(body: bytes) -> CompletionSummary:
    """The summary of an unstreamed answer. Raises UpstreamError if it is not an answer."""
    summary = CompletionSummary()
    summary.add_chunk(_completion(body))
    return summary


def as_stream(body: bytes) -> bytes:
    """An unstreamed answer as the events of a stream. Raises as `read_whole` does."""
    completion = _completion(body)
    head = {**completion, "object": "chat.completion.chunk"}
    usage = head.pop("usage", None)
    choices = [
        {**{name: value for name, value in choice.items() if name != "message"}, "delta": _as_delta(choice)}
        for choice in _objects(completion["choices"])
    ]
    chunks = [{**head, "choices": choices}, {**head, "choices": [], "usage": usage}][: 2 if usage else 1]
    return b"".join(b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks) + sse.DONE


def _completion(body: bytes) -> dict[str, Any]:
    try:
        completion = completion_of(body)
    except UpstreamError as error:
        raise _about_messages(error) from None
    if not any(isinstance(choice.get("message"), dict) for choice in _objects(completion.get("choices"))):
        raise UpstreamBroken("The model's server answered with something that is not a chat completion.")
    return completion


def _as_delta(choice: Mapping[str, Any]) -> dict[str, Any]:
    """A message as one delta, its calls numbered by position."""
    message: dict[str, Any] = choice.get("message") or {}
    if not isinstance(message.get("tool_calls"), list):
        return message
    calls = _objects(message["tool_calls"])
    return {**message, "tool_calls": [{"index": at, **call} for at, call in enumerate(calls)]}


# --- as a stream ------------------------------------------------------------------------------------------------


def decoder(request: Mapping[str, Any]) -> CompletionDecoder:
    return CompletionDecoder(request)


class CompletionDecoder:
    """A push machine over the bytes of one stream: returns whole events unchanged and reads their state.

    After an `ending` or a `failure` it takes no more.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.accepted = False
        """A first valid chunk has come."""
        self.ending: bytes | None = None
        """The event that ends the stream. The relay sends it after the row is written."""
        self.failure: UpstreamError | None = None
        self.summary = CompletionSummary()
        self._gives_usage = asks_for_usage(request)
        self._cutter = sse.Cutter()
        self._unreadable = 0

    def feed(self, data: bytes) -> bytes:
        """Takes the next bytes of the stream; returns those for the client."""
        given: list[bytes] = []
        try:
            for raw in self._cutter.feed(data):
                if not self._over and self._take(raw):
                    given.append(raw)
            if not self.accepted:
                self._check_unreadable()
        except sse.EventTooLong:
            self._fail(UpstreamBroken("The model's server sent an event without an end."))
        except UpstreamError as error:
            self._fail(error)
        return b"".join(given)

    def finish(self) -> bytes:
        """The upstream has closed. Its last event may lack the blank line; half an event is ignored."""
        given = b""
        rest = self._cutter.rest.rstrip(b"\r\n")
        if not self._over and _is_whole(rest):
            given = self.feed(b"\n\n")
        if not self._over:
            self._close()
        return given

    @property
    def answer(self) -> object | None:
        """The ending or the failure; None while the stream goes on."""
        return self.failure if self.ending is None else self.ending

    @property
    def _over(self) -> bool:
        return self.answer is not None

    def _take(self, raw: bytes) -> bool:
        """Whether to send this event to the client."""
        name, data = data_of(_plain(raw))
        if data is None:
            self._unreadable += 0 if raw.startswith(FIELDS) else len(raw)
        elif is_done(data):
            self._end(raw)
            return False
        elif data:
            chunk = plain_object(data) if data.startswith(b"{") else None
            if chunk is not None:
                return self._take_chunk(name, chunk)
            return all(self._take_chunk(name, chunk) for chunk in objects(data, name))
        return True

    def _take_chunk(self, name: str | None, chunk: Mapping[str, Any]) -> bool:
        """Whether the client gets the chunk: not the usage that it did not request."""
        refuse_error(name, chunk)
        choices, usage = chunk.get("choices"), chunk.get("usage")
        if not choices and not isinstance(usage, dict):
            # Later it goes on as it came: the client's own parser may take it.
            if not self.accepted:
                pass_over(name, chunk)
            return True
        self.accepted = True
        self.summary.add_chunk(chunk)
        return bool(choices) or self._gives_usage or not isinstance(usage, dict)

    def _end(self, raw: bytes) -> None:
        if not self.accepted:
            raise UpstreamBroken("The model's server ended the stream without an answer.")
        self.ending = raw

    def _close(self) -> None:
        """Some servers never send [DONE]: the answer has ended with its `finish_reason`."""
        if self.summary.finished:
            self.ending = sse.DONE
            return
        error = None if self.accepted else error_in_body(self._cutter.rest)
        self._fail(error or UpstreamBroken("The model's server closed the stream before the answer had ended."))

    def _fail(self, error: UpstreamError) -> None:
        if not self._over:
            self.failure = _about_messages(error)

    def _check_unreadable(self) -> None:
        rest = self._cutter.rest
        if self._unreadable + (0 if rest.startswith(FIELDS) else len(rest)) > MAX_UNREADABLE:
            raise UpstreamBroken("The model's server answered with something that is not an event stream.")


def _plain(raw: bytes) -> bytes:
    """The event without a byte order mark, its line ends normalised."""
    return raw.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _is_whole(rest: bytes) -> bool:
    """Whether an event is complete except for its blank line."""
    name, data = data_of(_plain(rest))
    try:
        return data is not None and (is_done(data) or any(objects(data, name)))
    except UpstreamBroken:
        return False
