"""Decodes the answer of a Messages upstream, unstreamed or as a stream, into the contract's terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app import sse
from app.contract.turn import Answer, Turn
from app.contract.usage import Usage
from app.errors import UpstreamBroken
from app.formats import _openai
from app.formats._decoding import StreamDecoder, parsed, string, whole
from app.formats._endings import COMPLETED, Ending, ending, reason_of, unexplained
from app.formats._output import Output
from app.formats.messages._blocks import Blocks
from app.formats.messages._errors import failure, failure_in

_REFUSED = "refusal"
_DONE = b"[DONE]"
_COUNTS = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")


def _close(output: Output, stop: Mapping[str, Any], otherwise: Ending) -> Ending:
    """Ends the output by `stop_reason`; `otherwise` without one. The explanation of a content filter becomes a refusal
    part."""
    reason, details = reason_of(stop.get("stop_reason")), stop.get("stop_details")
    end = ending(reason) if reason else otherwise
    if reason == _REFUSED and isinstance(details, dict):
        output.write("refusal", string(details.get("explanation")) or "")
    output.end(end.status)
    return end


def _identity(about: Mapping[str, Any]) -> dict[str, Any]:
    return {"upstream_id": string(about.get("id")), "upstream_model": string(about.get("model"))}


def _usage(counts: Mapping[str, int], reasoning: int) -> Usage | None:
    """Usage in the contract's terms: `input_tokens` includes cached tokens there, but not in this API."""
    if "input_tokens" not in counts or "output_tokens" not in counts:
        return None
    read, written = counts.get("cache_read_input_tokens", 0), counts.get("cache_creation_input_tokens", 0)
    return Usage(counts["input_tokens"] + read + written, read, written, counts["output_tokens"], reasoning)


class _Meter:
    """The larger of each count: counts are cumulative."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._reasoning = 0

    def read(self, usage: object) -> None:
        if not isinstance(usage, dict):
            return
        for name in _COUNTS:
            if _openai.is_count(usage.get(name)):
                self._counts[name] = max(self._counts.get(name, 0), usage[name])
        details = usage.get("output_tokens_details")
        reasoning = details.get("thinking_tokens") if isinstance(details, dict) else None
        if isinstance(reasoning, int) and _openai.is_count(reasoning):
            self._reasoning = max(self._reasoning, reasoning)

    @property
    def usage(self) -> Usage | None:
        return _usage(self._counts, self._reasoning)


# --- in one piece -----------------------------------------------------------------------------------------------


def decode(body: bytes, turn: Turn) -> Answer:
    message = whole(body)
    if not isinstance(message, dict) or message.get("error") or not isinstance(message.get("content"), list):
        raise failure_in(message, "The model's server answered with something that is not a message.")
    output, meter = Output(turn, 0), _Meter()
    blocks = Blocks(turn, output)
    for index, block in enumerate(message["content"]):
        blocks.start(index, block)
        blocks.stop(index)
    meter.read(message.get("usage"))
    end = _close(output, message, unexplained(meter.usage, turn))
    return end.answer(output, meter.usage, _identity(message))


# --- as a stream ------------------------------------------------------------------------------------------------


class MessagesDecoder(StreamDecoder):
    """Translates a message's events into the contract's. Unknown events are skipped, as the API documents."""

    def __init__(self, turn: Turn, sequence: int) -> None:
        super().__init__(turn, sequence)
        self._turn = turn
        self._blocks = Blocks(turn, self._output)
        self._meter = _Meter()
        self._ending: Ending | None = None
        self._about: Mapping[str, Any] = {}

    def _identity(self) -> Mapping[str, Any]:
        return _identity(self._about)

    def _run_out(self, rest: bytes) -> None:
        """The answer has ended with its `stop_reason`, with or without the last event."""
        if self._ending is None:
            event = _last_event(rest)
            if event.get("type") == "error":
                raise failure(event)
            raise UpstreamBroken("The model's server closed the stream before the answer had ended.")
        self._stop()

    # --- events

    def _read(self, raw: bytes) -> bool:
        name, data = sse.parse(raw)
        if data is not None and data.strip() != _DONE:
            event = parsed(data)
            self._take_event(event if isinstance(event.get("type"), str) else {**event, "type": name})
        return data is not None or raw.startswith(b":")

    def _take_event(self, event: Mapping[str, Any]) -> None:
        kind = event["type"]
        if kind == "error":
            raise failure(event)
        if kind == "message_start":
            self._begin(event)
        elif kind == "content_block_start":
            self._blocks.start(event.get("index"), event.get("content_block"))
        elif kind == "content_block_delta":
            self._blocks.extend(event.get("index"), event.get("delta"))
        elif kind == "content_block_stop":
            self._blocks.stop(event.get("index"))
        elif kind == "message_delta":
            self._end(event)
        elif kind == "message_stop":
            self._stop()
        elif kind is None:
            raise UpstreamBroken("The model's server sent an event without a type.")

    def _begin(self, event: Mapping[str, Any]) -> None:
        message = event.get("message")
        if not isinstance(message, dict):
            raise UpstreamBroken("The model's server began an answer without a message.")
        self.accepted, self._about = True, message
        self._meter.read(message.get("usage"))

    def _end(self, event: Mapping[str, Any]) -> None:
        self._meter.read(event.get("usage"))
        delta = event.get("delta")
        if isinstance(delta, dict) and reason_of(delta.get("stop_reason")) and self._ending is None:
            self._ending = _close(self._output, delta, COMPLETED)

    def _stop(self) -> None:
        if self.answer is not None:
            return
        if self._ending is None:
            if not self._spoke:
                raise UpstreamBroken("The model's server ended the stream without an answer.")
            self._ending = _close(self._output, {}, unexplained(self._meter.usage, self._turn))
        self.answer = self._ending.answer(self._output, self._meter.usage, self._identity())


def _last_event(rest: bytes) -> dict[str, Any]:
    """The data of an event that lacks its blank line, if it is readable."""
    try:
        return parsed(sse.parse(rest)[1] or b"{}")
    except UpstreamBroken:
        return {}
