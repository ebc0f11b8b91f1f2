"""Decodes the answer of a chat upstream, unstreamed or as a stream, into the contract's terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.contract.turn import Answer, Turn
from app.contract.usage import Usage
from app.errors import UpstreamBroken
from app.formats._decoding import StreamDecoder, parsed, string
from app.formats._endings import Ending, ending, reason_of, unexplained
from app.formats._output import Output
from app.formats.chat_completions._chunks import (
    DONE,
    completion_of,
    data_of,
    error_in,
    usage_of,
)
from app.formats.chat_completions._deltas import Deltas
from app.formats.chat_completions._errors import error_of


def _identity(about: Mapping[str, Any]) -> dict[str, Any]:
    """The upstream's id, model and defaults."""
    return {
        "defaults": _defaults(about),
        "upstream_id": string(about.get("id")),
        "upstream_model": string(about.get("model")),
    }


def _defaults(about: Mapping[str, Any]) -> dict[str, Any]:
    tier = string(about.get("service_tier"))
    return {"service_tier": tier} if tier else {}


# --- in one piece -----------------------------------------------------------------------------------------------


def decode(body: bytes, turn: Turn) -> Answer:
    completion = completion_of(body)
    choice = _choice(completion.get("choices"))
    message = choice.get("message") if choice else None
    if choice is None or not isinstance(message, dict):
        raise UpstreamBroken("The model's server answered with something that is not a chat completion.")
    usage = usage_of(completion.get("usage"))
    reason = reason_of(choice.get("finish_reason"))
    end = ending(reason) if reason else unexplained(usage, turn)
    output = Output(turn, 0)
    Deltas(turn, output).take(_as_delta(message), choice.get("logprobs"))
    output.end(end.status)
    return end.answer(output, usage, _identity(completion))


def _as_delta(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A whole message as one delta, its calls numbered by position."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [{**call, "index": at} for at, call in enumerate(calls) if isinstance(call, dict)]}


def _choice(choices: object) -> dict[str, Any] | None:
    """The first choice: the gateway never requests more than one."""
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("index") in (0, None):
            return choice
    return None


# --- as a stream ------------------------------------------------------------------------------------------------


class ChatDecoder(StreamDecoder):
    """Translates chunks into the contract's events."""

    def __init__(self, turn: Turn, sequence: int) -> None:
        super().__init__(turn, sequence)
        self._turn = turn
        self._deltas = Deltas(turn, self._output)
        self._ending: Ending | None = None
        self._usage: Usage | None = None
        self._about: Mapping[str, Any] = {}

    def _identity(self) -> Mapping[str, Any]:
        return _identity(self._about)

    def _run_out(self, rest: bytes) -> None:
        """Some servers never send [DONE]: the answer has ended with its `finish_reason`."""
        chunk = _last_chunk(rest)
        if self._ending is None:
            raise error_of(chunk) or UpstreamBroken("The model's server closed the stream before the answer had ended.")
        self._usage = usage_of(chunk.get("usage")) or self._usage
        self._conclude(self._ending)

    # --- chunks

    def _read(self, raw: bytes) -> bool:
        name, data = data_of(raw)
        if data == DONE:
            self._done()
        elif data is not None:
            chunk = parsed(data)
            if error := error_in(name, chunk):
                raise error
            self._take_chunk(chunk)
        return data is not None or raw.startswith(b":")

    def _take_chunk(self, chunk: Mapping[str, Any]) -> None:
        if not isinstance(chunk.get("choices"), list) and not isinstance(chunk.get("usage"), dict):
            raise UpstreamBroken("The model's server sent an event that is not a piece of a chat completion.")
        if not self.accepted:
            self.accepted, self._about, self.defaults = True, chunk, _defaults(chunk)
        choice = _choice(chunk.get("choices")) or {}
        self._usage = usage_of(chunk.get("usage")) or usage_of(choice.get("usage")) or self._usage
        if self._ending is None:
            self._take_choice(choice)

    def _take_choice(self, choice: Mapping[str, Any]) -> None:
        delta, reason = choice.get("delta"), reason_of(choice.get("finish_reason"))
        if isinstance(delta, dict):
            self._deltas.take(delta, choice.get("logprobs"))
        if reason:
            self._end(ending(reason))

    def _done(self) -> None:
        if self._ending is None:
            if not self._spoke:
                raise UpstreamBroken("The model's server ended the stream without an answer.")
            self._end(unexplained(self._usage, self._turn))
        assert self._ending is not None
        self._conclude(self._ending)

    def _end(self, ending: Ending) -> None:
        self._output.end(ending.status)
        self._ending = ending

    def _conclude(self, ending: Ending) -> None:
        self.answer = ending.answer(self._output, self._usage, self._identity())


def _last_chunk(rest: bytes) -> dict[str, Any]:
    """The data of an event that lacks its blank line, if it is readable."""
    try:
        return parsed(data_of(rest)[1] or b"{}")
    except UpstreamBroken:
        return {}
