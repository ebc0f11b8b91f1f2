"""Decodes the answer of a Messages upstream, unstreamed or as a stream, into the contract's terms."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
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
_THINKING = ("thinking_tokens",)
#: The names of this API, then those of other APIs, which some servers use here.
_INPUT, _OUTPUT = (("input_tokens",), ("prompt_tokens",)), (("output_tokens",), ("completion_tokens",))
#: Members of this API that count tokens beside `input_tokens`. Under the names of other APIs they are part of it.
_BESIDE = ("cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation")


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


class _Meter:
    """The larger of each count: counts are cumulative."""

    def __init__(self) -> None:
        self._input: int | None = None
        self._output: int | None = None
        self._read = self._written = self._reasoning = 0
        self._reports_cache = False
        self._beside = False
        """`input_tokens` leaves out the cached tokens, as it does in this API, but not in the contract."""

    def read(self, usage: object) -> None:
        if not isinstance(usage, dict):
            return
        self._input, self._output = _larger(self._input, usage, _INPUT), _larger(self._output, usage, _OUTPUT)
        read, written, reported = _openai.cached(usage)
        self._read, self._written = max(self._read, read), max(self._written, written)
        self._reports_cache = self._reports_cache or reported
        # The count under the other name is that of the OpenAI API, with all its tokens.
        beside = "prompt_tokens" not in usage and not usage.keys().isdisjoint(_BESIDE)
        self._beside = self._beside or beside
        details = usage.get("output_tokens_details")
        if isinstance(details, dict):
            self._reasoning = _larger(self._reasoning, details, (_THINKING,)) or 0

    @property
    def usage(self) -> Usage | None:
        if self._input is None or self._output is None:
            return None
        cached = self._read + self._written
        total = self._input + cached if self._beside or cached > self._input else self._input
        counts = (total, self._read, self._written, self._output, self._reasoning)
        return Usage(*counts, reports_cache=self._reports_cache)


def _larger(known: int | None, usage: Mapping[str, Any], groups: Sequence[Collection[str]]) -> int | None:
    """The larger of a known count and that of the first group with a name that is counted here."""
    counts = (_openai.largest(usage, names) for names in groups)
    found = next((count for count in counts if count is not None), None)
    return found if known is None else max(known, found or 0)


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
