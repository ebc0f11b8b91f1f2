"""What a chat upstream answers, in one piece or as a stream, as an answer in the contract's terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from app import sse
from app.errors import UpstreamBroken, UpstreamError, UpstreamFailed
from app.formats import _openai
from app.formats.chat_completions import _errors
from app.formats.chat_completions._output import Output
from app.records import Usage
from app.turn import Answer, Item, Turn

_DONE = b"[DONE]"
_CUT = frozenset({"length", "max_tokens", "model_length"})
_FILTERED = frozenset({"content_filter"})
_BROKE_OFF = frozenset({"abort", "error", "insufficient_system_resource"})

#: Bytes without one valid chunk: this is no event stream.
MAX_NONSENSE = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Ending:
    """How an answer ended, by what the upstream gave as its reason."""

    status: str
    reason: str | None = None

    @classmethod
    def of(cls, finish_reason: str) -> _Ending:
        if finish_reason in _CUT:
            return cls("incomplete", "max_output_tokens")
        if finish_reason in _FILTERED:
            return cls("incomplete", "content_filter")
        if finish_reason in _BROKE_OFF:
            raise UpstreamFailed("The model's server broke off the answer.", code="server_error")
        return cls("completed")

    @classmethod
    def unexplained(cls, usage: Usage | None, turn: Turn) -> _Ending:
        """The end of a stream that gives no reason: cut off where the limit has been reached."""
        limit = turn.request.get("max_output_tokens")
        cut = limit is not None and usage is not None and usage.output_tokens >= limit
        return cls.of("length" if cut else "stop")

    def answer(self, output: Output, usage: Usage | None, about: Mapping[str, Any]) -> Answer:
        return Answer(
            status=self.status,
            output=list(output.items),
            usage=usage,
            incomplete_details={"reason": self.reason} if self.reason else None,
            **_identity(about),
        )


def _identity(about: Mapping[str, Any]) -> dict[str, Any]:
    """What the upstream says of itself."""
    return {
        "defaults": _defaults(about),
        "upstream_id": _string(about.get("id")),
        "upstream_model": _string(about.get("model")),
    }


def _defaults(about: Mapping[str, Any]) -> dict[str, Any]:
    tier = _string(about.get("service_tier"))
    return {"service_tier": tier} if tier else {}


def _string(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _usage(value: object) -> Usage | None:
    """A chat's usage; None where nothing was counted."""
    if not isinstance(value, dict):
        return None
    read, written = value.get("prompt_tokens_details"), value.get("completion_tokens_details")
    details = dict(read) if isinstance(read, dict) else {}
    if not details.get("cached_tokens"):
        details["cached_tokens"] = value.get("prompt_cache_hit_tokens")
    return _openai.usage(
        {
            "input_tokens": value.get("prompt_tokens"),
            "input_tokens_details": details,
            "output_tokens": value.get("completion_tokens"),
            "output_tokens_details": written,
        }
    )


# --- in one piece -----------------------------------------------------------------------------------------------


def decode(body: bytes, turn: Turn) -> Answer:
    try:
        completion = orjson.loads(body)
    except ValueError:
        raise UpstreamBroken("The model's server answered with something that is not JSON.") from None
    if not isinstance(completion, dict):
        raise UpstreamBroken("The model's server answered with something that is not a chat completion.")
    if error := _errors.error_of(completion):
        raise error
    choice = _choice(completion.get("choices"))
    message = choice.get("message") if choice else None
    if choice is None or not isinstance(message, dict):
        raise UpstreamBroken("The model's server answered with something that is not a chat completion.")
    usage = _usage(completion.get("usage"))
    reason = _string(choice.get("finish_reason"))
    ending = _Ending.of(reason) if reason else _Ending.unexplained(usage, turn)
    output = Output(turn, 0)
    output.take(_as_delta(message), choice.get("logprobs"))
    output.end(ending.status)
    return ending.answer(output, usage, completion)


def _as_delta(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A whole message as one delta, its calls told apart by their places."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [{**call, "index": at} for at, call in enumerate(calls) if isinstance(call, dict)]}


def _choice(choices: object) -> dict[str, Any] | None:
    """The first choice. There are others only where nobody asked for them."""
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("index") in (0, None):
            return choice
    return None


# --- as a stream ------------------------------------------------------------------------------------------------


class ChatDecoder:
    """Makes the contract's events of a chat's chunks."""

    path = "translated"

    def __init__(self, turn: Turn, sequence: int) -> None:
        self.accepted = False
        self.started = False
        self.answer: Answer | None = None
        self.defaults: Mapping[str, Any] = {}
        self._turn = turn
        self._output = Output(turn, sequence)
        self._splitter = sse.Splitter()
        self._ending: _Ending | None = None
        self._usage: Usage | None = None
        self._about: Mapping[str, Any] = {}
        self._nonsense = 0

    @property
    def sequence(self) -> int:
        return self._output.sequence

    def feed(self, data: bytes) -> bytes:
        if self.answer is not None:
            return b""
        try:
            self._take(data)
        except UpstreamError as error:
            self._break(error)
        self.started = self.started or self._output.waiting
        return self._output.drain()

    def finish(self) -> None:
        """Some servers never say [DONE]: an answer has ended when a reason was given. What comes later is too late."""
        if self.answer is not None:
            return
        try:
            chunk = _last_chunk(self._splitter.rest)
            if self._ending is None:
                raise _errors.error_of(chunk) or UpstreamBroken(
                    "The model's server closed the stream before the answer had ended."
                )
            self._usage = _usage(chunk.get("usage")) or self._usage
            self._conclude(self._ending)
        except UpstreamError as error:
            self._break(error)

    def partial(self) -> list[Item]:
        return self._output.partial()

    # --- chunks

    def _take(self, data: bytes) -> None:
        try:
            block = self._splitter.feed(data)
        except sse.EventTooLong:
            raise UpstreamBroken("The model's server sent an event without an end.") from None
        for raw in block.split(b"\n\n"):
            if raw and self.answer is None:
                self._read(raw.strip(b"\n"))
        if not self.accepted:
            self._refuse_nonsense()

    def _read(self, raw: bytes) -> None:
        name, data = _data(raw)
        if data == _DONE:
            self._done()
        elif data is not None:
            chunk = _parsed(data)
            if error := _errors.error_of({"error": chunk} if name == "error" and "error" not in chunk else chunk):
                raise error
            self._take_chunk(chunk)
        elif not raw.startswith(b":"):
            self._nonsense += len(raw)

    def _take_chunk(self, chunk: Mapping[str, Any]) -> None:
        if not isinstance(chunk.get("choices"), list) and not isinstance(chunk.get("usage"), dict):
            raise UpstreamBroken("The model's server sent an event that is not a piece of a chat completion.")
        if not self.accepted:
            self.accepted, self._about, self.defaults = True, chunk, _defaults(chunk)
        choice = _choice(chunk.get("choices")) or {}
        self._usage = _usage(chunk.get("usage")) or _usage(choice.get("usage")) or self._usage
        if self._ending is None:
            self._take_choice(choice)

    def _take_choice(self, choice: Mapping[str, Any]) -> None:
        delta, reason = choice.get("delta"), _string(choice.get("finish_reason"))
        if isinstance(delta, dict):
            self._output.take(delta, choice.get("logprobs"))
        if reason:
            self._end(_Ending.of(reason))

    def _done(self) -> None:
        if self._ending is None:
            if not (self.started or self._output.waiting):
                raise UpstreamBroken("The model's server ended the stream without an answer.")
            self._end(_Ending.unexplained(self._usage, self._turn))
        assert self._ending is not None
        self._conclude(self._ending)

    def _end(self, ending: _Ending) -> None:
        self._output.end(ending.status)
        self._ending = ending

    def _conclude(self, ending: _Ending) -> None:
        self.answer = ending.answer(self._output, self._usage, self._about)

    def _break(self, error: UpstreamError) -> None:
        """Before the first output a failure is an error, so that another channel may be asked; later an answer."""
        if not (self.started or self._output.waiting):
            raise error
        self.answer = Answer(
            status="failed",
            output=self.partial(),
            error={"code": error.code or "server_error", "message": error.message},
            **_identity(self._about),
        )

    def _refuse_nonsense(self) -> None:
        rest = self._splitter.rest
        unknown = 0 if rest.startswith((b"event:", b"data:", b":")) else len(rest)
        if self._nonsense + unknown > MAX_NONSENSE:
            raise UpstreamBroken("The model's server answered with something that is not an event stream.")


def _data(raw: bytes) -> tuple[str | None, bytes | None]:
    name, data = sse.parse(raw)
    if data is None and raw.startswith(b"error:"):
        # Older llama.cpp has a field of its own for it.
        return "error", raw.removeprefix(b"error:").strip()
    return name, data.strip() if data is not None else None


def _parsed(data: bytes) -> dict[str, Any]:
    """The chunk in `data`. One that cannot be read ends the stream: a lost delta would corrupt the text silently."""
    try:
        chunk = orjson.loads(data)
    except ValueError:
        raise UpstreamBroken("The model's server sent an event that is not JSON.") from None
    if not isinstance(chunk, dict):
        raise UpstreamBroken("The model's server sent an event that is not an object.")
    return chunk


def _last_chunk(rest: bytes) -> dict[str, Any]:
    """An event that lacks its blank line, as far as it can be read."""
    try:
        return _parsed(_data(rest.strip(b"\n"))[1] or b"{}")
    except UpstreamBroken:
        return {}
