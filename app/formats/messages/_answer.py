"""Decodes the answer of a Messages upstream, unstreamed or as a stream, into the contract's terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from app.contract.turn import Answer, Turn
from app.contract.usage import Usage
from app.errors import UpstreamBroken
from app.formats import _openai
from app.formats._decoding import StreamDecoder, string
from app.formats._endings import Ending, ending, reason_of, unexplained
from app.formats._output import Output
from app.formats._reader import error_in, pass_over, says_failure, whole
from app.formats.messages._blocks import Blocks
from app.formats.messages._errors import failure, failure_in

_REFUSED = "refusal"
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
    content = _content(message) if isinstance(message, dict) else None
    if content is None or error_in(None, message) is not None:
        raise failure_in(message, "The model's server answered with something that is not a message.")
    output, meter = Output(turn, 0), _Meter()
    Blocks(turn, output).add(content)
    meter.read(message.get("usage"))
    end = _close(output, message, unexplained(meter.usage, turn))
    return end.answer(output, meter.usage, _identity(message))


def _content(message: Mapping[str, Any]) -> list[Any] | None:
    """The blocks of a message; None if it has none."""
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content if isinstance(content, list) else None


# --- as a stream ------------------------------------------------------------------------------------------------


class MessagesDecoder(StreamDecoder):
    """Translates a message's events into the contract's. Unknown events are skipped, as the API documents, unless they
    have content. A `stop_reason` is not the end: some servers send more blocks after it.
    """

    def __init__(self, turn: Turn, sequence: int) -> None:
        super().__init__(turn, sequence)
        self._turn = turn
        self._blocks = Blocks(turn, self._output)
        self._meter = _Meter()
        self._stopped: Mapping[str, Any] = {}
        """The members of the newest `message_delta` with a reason."""
        self._about: Mapping[str, Any] = {}
        self._takers: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
            "message_start": self._begin,
            "content_block_start": self._start_block,
            "content_block_delta": lambda event: self._blocks.extend(event.get("index"), event.get("delta")),
            "content_block_stop": lambda event: self._blocks.stop(event.get("index")),
            "message_delta": self._end,
            "message_stop": lambda event: self._stop(),
        }

    def _identity(self) -> Mapping[str, Any]:
        return _identity(self._about)

    def _run_out(self) -> None:
        """The answer has ended with its `stop_reason`, with or without the last event."""
        if not self._stopped:
            raise UpstreamBroken("The model's server closed the stream before the answer had ended.")
        self._stop()

    def _done(self) -> None:
        """`[DONE]` is not of this API: it ends an answer that has ended already."""
        if self._stopped:
            self._stop()

    # --- events

    def _take(self, name: str | None, event: Mapping[str, Any]) -> None:
        taker = self._takers.get(str(event.get("type"))) or self._takers.get(name or "")
        if taker is not None:
            taker(event)
            self.accepted = True
            return
        if error_in(name, event) is not None or says_failure(event):
            raise failure(event)
        pass_over(name, event)

    def _begin(self, event: Mapping[str, Any]) -> None:
        message = event.get("message")
        if not isinstance(message, dict):
            raise UpstreamBroken("The model's server began an answer without a message.")
        self._about = message
        self._meter.read(message.get("usage"))
        if _content(message):
            self._read_reason(message)

    def _start_block(self, event: Mapping[str, Any]) -> None:
        self._blocks.start(event.get("index"), event.get("content_block"))

    def _end(self, event: Mapping[str, Any]) -> None:
        self._meter.read(event.get("usage"))
        delta = event.get("delta")
        self._read_reason({**event, **(delta if isinstance(delta, dict) else {})})

    def _read_reason(self, delta: Mapping[str, Any]) -> None:
        if (reason := reason_of(delta.get("stop_reason"))) is None:
            return
        # Without content in between, a stop does not undo that the answer was cut off.
        if not self._stopped or self._blocks.went_on or ending(reason).status != "completed":
            self._stopped, self._blocks.went_on = delta, False

    def _stop(self) -> None:
        if self._blocks.empty and (content := _content(self._about)):
            # Some servers send the whole message at its start.
            self._blocks.add(content)
        if not self._stopped and not self._spoke:
            raise UpstreamBroken("The model's server ended the stream without an answer.")
        end = _close(self._output, self._stopped, unexplained(self._meter.usage, self._turn))
        self.answer = end.answer(self._output, self._meter.usage, self._identity())
