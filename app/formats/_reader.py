"""Reads what upstreams really send, for all decoders: events of a stream and JSON bodies, as loose as they come.

An event that a format does not understand is passed over when it has no content: keep-alives come in many forms. With
content it is an error, because an answer must not lose content and still be called completed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from app import lone_surrogates, nesting, sse
from app.errors import UpstreamBroken
from app.formats._failures import unreadable

JSON = dict[str, Any]

#: Bytes without a valid event after which the answer is not an event stream.
MAX_UNREADABLE = 64 * 1024
#: How an event may begin.
FIELDS = (b"event:", b"data:", b"id:", b"retry:", b":")

_DATA = b"data: "
_PLAIN = b"data: {"
_NAMED = b"event: "
#: An event of fewer bytes cannot hold JSON that is nested too deep.
_FLAT = 2 * nesting.FROM_UPSTREAMS
#: Names and types of keep-alives, such as `ping` and `response.keep_alive`.
_KEEP_ALIVE = re.compile(
    r"[\W_]*(?:[^\W_]+[\W_]+)*?(?:ping|pong|keep[\W_]?alive|heart[\W_]?beat|noop)s?[\W_]*", re.IGNORECASE
)
#: Words of queues besides, which some servers send as bare data.
_PATIENCE = re.compile(r"[\W_]*(?:[^\W_]+[\W_]+)*?(?:processing|waiting|queued|pending|alive|ok)[\W_]*", re.IGNORECASE)
_LONGEST_NAME = 64
#: Members whose text is content, wherever they stand in an object.
_CONTENT = frozenset(
    {
        "answer",
        "arguments",
        "b64_json",
        "body",
        "completion",
        "content",
        "delta",
        "explanation",
        "generated_text",
        "image_url",
        "input",
        "output",
        "output_text",
        "partial_json",
        "reasoning",
        "reasoning_content",
        "reasoning_text",
        "refusal",
        "response",
        "result",
        "text",
        "thinking",
        "tool_plan",
        "transcript",
    }
)
#: The same for the reason of an end.
_REASONS = frozenset({"finish_reason", "finishReason", "stop_reason", "done_reason"})
#: Members that begin a part of an answer, whose content comes later.
_PARTS = ("item", "content_block", "tool_calls", "function_call")
#: Members in which servers put the code of an error.
_STATUSES = ("code", "status_code", "statusCode", "status", "error_code", "errcode")
_FAILED = frozenset({"error", "failed", "failure", "fail"})
#: Members with the name of an error, names of errors, and members with its sentence.
_NAMED_ERRORS, _SENTENCES = ("code", "error_code", "errcode"), ("message", "msg", "error_msg", "errmsg")
_ERROR_NAME = re.compile(
    r"[\w.]*(?:error|exception|invalid|fail|unavailable|exceeded|denied|forbidden|timeout|throttl|limit|quota|arrear|"
    r"notfound|not_found|unsupported|overload|unauthorized|inspection)[\w.]*",
    re.IGNORECASE,
)
_FIRST_OF_ERRORS = 400
_ERRORS = frozenset({"error", "errors", "base_resp"})


class Event(NamedTuple):
    """One event of a stream."""

    name: str | None
    value: JSON | None
    """None for `[DONE]`."""


class EventReader:
    """Cuts the bytes of a stream into events and reads them. Comments and events without data are left out."""

    def __init__(self) -> None:
        self._splitter = sse.Splitter()
        self._halves = lone_surrogates.Joiner()
        self._unreadable = 0

    def feed(self, data: bytes) -> Iterator[tuple[str | None, JSON | None]]:
        """The events that are complete now. Raises UpstreamBroken for one that cannot be read: a lost delta would
        corrupt the text silently."""
        try:
            block = self._splitter.feed(data)
        except sse.EventTooLong:
            raise UpstreamBroken("The model's server sent an event without an end.") from None
        for raw in block.split(b"\n\n"):
            # Most events are one line of strict JSON, some with a name.
            name, _, line = raw.partition(b"\n") if raw.startswith(_NAMED) else (b"", b"", raw)
            value = plain_object(line[len(_DATA) :]) if line.startswith(_PLAIN) and not self._halves.waiting else None
            if value is not None:
                yield name[len(_NAMED) :].decode("utf-8", "replace") or None, value
            elif raw:
                yield from self._events(raw.strip(b"\n"))

    def finish(self) -> Iterator[Event]:
        """The last event if it only lacks its blank line; half an event is ignored."""
        try:
            yield from list(self._events(self._splitter.rest.strip(b"\n")))
        except UpstreamBroken:
            return

    @property
    def rest(self) -> bytes:
        """The bytes after the last whole event."""
        return self._splitter.rest

    def check(self) -> None:
        """Raises UpstreamBroken if the bytes are no event stream."""
        rest = self._splitter.rest
        if self._unreadable + (0 if rest.startswith(FIELDS) else len(rest)) > MAX_UNREADABLE:
            raise UpstreamBroken("The model's server answered with something that is not an event stream.")

    def _events(self, raw: bytes) -> Iterator[Event]:
        name, data = data_of(raw)
        if data is None:
            self._unreadable += 0 if raw.startswith(FIELDS) else len(raw)
        elif is_done(data):
            yield Event(name, None)
        elif data:
            for value in objects(self._joined(data), name):
                yield Event(name, value)

    def _joined(self, data: bytes) -> bytes:
        return self._halves.join(data) if self._halves.waiting or b"\\" in data or b"\xed" in data else data


def plain_object(data: bytes) -> JSON | None:
    """The object in strict JSON; None if the data has to be read with more care."""
    try:
        value = orjson.loads(data)
    except ValueError:
        return None
    if len(data) > _FLAT and nesting.may_exceed(data, 0, len(data), nesting.FROM_UPSTREAMS):
        return None
    return value if isinstance(value, dict) else None


def data_of(raw: bytes) -> tuple[str | None, bytes | None]:
    """Name and data of one event; the data is None if there is none, and empty in some keep-alives."""
    name, data = sse.parse(raw)
    if data is None and raw.startswith(b"error:"):
        # Older llama.cpp has a field of its own for errors.
        return "error", raw.removeprefix(b"error:").strip()
    return name, data.strip() if data is not None else None


def is_done(data: bytes) -> bool:
    return data.startswith((b"[DONE]", b'"[DONE]"', b"[done]"))


def objects(data: bytes, name: str | None = None) -> Iterator[JSON]:
    """The object in the data of an event, or those in a list; none in a keep-alive. Raises UpstreamBroken."""
    try:
        value = nesting.from_upstream(data)
    except nesting.TooDeep:
        raise UpstreamBroken("The model's server sent JSON that is nested too deep.") from None
    except ValueError:
        if _is_bare_keep_alive(name, data.decode("utf-8", "replace")):
            return
        if b"\n" in data:
            # Some servers put one line end between events.
            for line in filter(None, data.split(b"\n")):
                yield from () if is_done(line) else objects(line, name)
            return
        raise UpstreamBroken("The model's server sent an event that is not JSON.") from None
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        yield from value
    elif isinstance(value, dict):
        yield value
    elif isinstance(value, list) or (isinstance(value, str) and value and not _is_bare_keep_alive(name, value)):
        raise UpstreamBroken("The model's server sent an event that is not an object.")


def whole(body: bytes) -> Any:
    """The JSON of an unstreamed answer; the only member of a list. Raises UpstreamBroken, with the words of a body that
    is a text or a page."""
    try:
        value = nesting.from_upstream(body)
    except nesting.TooDeep:
        raise UpstreamBroken("The model's server sent JSON that is nested too deep.") from None
    except ValueError:
        raise unreadable("The model's server answered with something that is not JSON.", body) from None
    return value[0] if isinstance(value, list) and len(value) == 1 else value


# --- what is not understood -------------------------------------------------------------------------------------


def pass_over(name: str | None, value: Mapping[str, Any]) -> None:
    """Leaves out an event that the format does not understand. Raises UpstreamBroken if it has content, begins a part
    of the answer or tells why the answer ended."""
    if not is_keep_alive(name, value) and (has_content(value, _CONTENT | _REASONS) or _begins_part(value)):
        raise UpstreamBroken("The model's server sent an event with content that this gateway does not understand.")


def is_keep_alive(name: str | None, value: Mapping[str, Any]) -> bool:
    """Whether an event says by its name or its type that it is a keep-alive."""
    return any(map(_is_keep_alive, (name, value.get("type"), value.get("event"), value.get("object"))))


def has_content(value: object, names: frozenset[str] = _CONTENT) -> bool:
    """Whether a value of an unknown shape holds text, or anything else in a member of these names."""
    if isinstance(value, list):
        return any(has_content(inner, names) for inner in value)
    if not isinstance(value, dict):
        return False
    return any(
        _is_filled(inner, names) if name in names else has_content(inner, names) for name, inner in value.items()
    )


def _begins_part(value: object) -> bool:
    if isinstance(value, list):
        return any(map(_begins_part, value))
    if not isinstance(value, dict):
        return False
    return any(bool(value.get(name)) for name in _PARTS) or any(map(_begins_part, value.values()))


def _is_filled(value: object, names: frozenset[str]) -> bool:
    if isinstance(value, list):
        return any(_is_filled(inner, names) for inner in value)
    return bool(value) if isinstance(value, str) else has_content(value, names)


def _is_keep_alive(name: object) -> bool:
    return isinstance(name, str) and len(name) <= _LONGEST_NAME and _KEEP_ALIVE.fullmatch(name) is not None


def _is_bare_keep_alive(name: str | None, words: str) -> bool:
    """Whether data that is no object is a keep-alive, by the name of the event or by itself."""
    waits = len(words) <= _LONGEST_NAME and _PATIENCE.fullmatch(words) is not None
    return waits or _is_keep_alive(name) or _is_keep_alive(words)


# --- errors -----------------------------------------------------------------------------------------------------


def error_in(name: str | None, value: Mapping[str, Any]) -> object | None:
    """What tells of a failure in an event or a body with status 200; None if nothing does."""
    if name == "error" or value.get("object") == "error" or value.get("type") == "error" or _has_error(value):
        return value
    choices = value.get("choices")
    if isinstance(choices, list):
        for choice in choices:
            # OpenRouter puts the failure of the server behind it into the choice.
            if isinstance(choice, dict) and (failed := _failed_holder(choice)) is not None:
                return failed.get("error") or failed
    return None


def _failed_holder(choice: JSON) -> JSON | None:
    for holder in (choice, choice.get("delta"), choice.get("message")):
        if isinstance(holder, dict) and not holder.keys().isdisjoint(_ERRORS) and _has_error(holder):
            return holder
    return None


def says_failure(value: Mapping[str, Any]) -> bool:
    """Whether an object that is not understood says by its own members that it is an error."""
    kind, status = value.get("type"), next((value[name] for name in _STATUSES if value.get(name)), None)
    return (
        value.get("success") is False
        or "detail" in value
        or (isinstance(kind, str) and kind.lower().endswith(("error", "exception")))
        or (isinstance(status, str) and status.lower() in _FAILED)
        or (str(status).isdecimal() and int(str(status)) >= _FIRST_OF_ERRORS)
        or _names_error(value)
    )


def _names_error(value: Mapping[str, Any]) -> bool:
    """Whether an object has a sentence and the name of an error, as Qwen's own API has."""
    code = next((value[name] for name in _NAMED_ERRORS if value.get(name)), None)
    said = next((value[name] for name in _SENTENCES if value.get(name)), None)
    return isinstance(code, str) and isinstance(said, str) and _ERROR_NAME.fullmatch(code) is not None


def _has_error(holder: Mapping[str, Any]) -> bool:
    if holder.keys().isdisjoint(_ERRORS):
        return False
    # MiniMax answers every request with `base_resp`; the code 0 is no error.
    base = holder.get("base_resp")
    failed = isinstance(base, dict) and base.get("status_code") not in (None, 0, "0")
    return bool(holder.get("error") or holder.get("errors")) or failed
