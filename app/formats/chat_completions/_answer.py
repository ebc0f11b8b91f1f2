"""Decodes the answer of a chat upstream, unstreamed or as a stream, into the contract's terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.contract.turn import Answer, Turn
from app.contract.usage import Usage
from app.errors import UpstreamBroken
from app.formats import _openai
from app.formats._decoding import StreamDecoder, string
from app.formats._endings import Ending, ending, unexplained
from app.formats._output import Output
from app.formats._reader import has_content, pass_over
from app.formats.chat_completions._chunks import HOLDERS, choice_of, completion_of, reason_in, refuse_error, usage_of
from app.formats.chat_completions._deltas import Deltas


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
    choice = choice_of(completion)
    if choice is None or not (choice.keys() & HOLDERS or has_content(choice)):
        raise UpstreamBroken("The model's server answered with something that is not a chat completion.")
    usage = _openai.later(usage_of(choice), usage_of(completion))
    output = Output(turn, 0)
    deltas = Deltas(turn, output)
    deltas.take(choice)
    deltas.cite(completion)
    reason = reason_in(choice)
    end = ending(reason) if reason else unexplained(usage, turn)
    deltas.end(end.status)
    return end.answer(output, usage, _identity(completion))


# --- as a stream ------------------------------------------------------------------------------------------------


class ChatDecoder(StreamDecoder):
    """Translates chunks into the contract's events.

    A reason for the end is not the end: some servers send one with every call, or with every chunk.
    """

    def __init__(self, turn: Turn, sequence: int) -> None:
        super().__init__(turn, sequence)
        self._turn = turn
        self._deltas = Deltas(turn, self._output)
        self._ending: Ending | None = None
        self._went_on = False
        """Content has come after the newest reason."""
        self._usage: Usage | None = None
        self._about: Mapping[str, Any] = {}
        self._index: object = None

    def _identity(self) -> Mapping[str, Any]:
        return _identity(self._about)

    def _take(self, name: str | None, event: Mapping[str, Any]) -> None:
        refuse_error(name, event)
        choice, usage = choice_of(event, self._index), usage_of(event)
        if choice is None and usage is None:
            # Choices besides ours were not requested.
            if not event.get("choices"):
                pass_over(name, event)
            return
        if not self.accepted:
            self.accepted, self._about, self.defaults = True, event, _defaults(event)
        if usage is not None:
            self._usage = _openai.later(self._usage, usage)
        if choice is not None:
            self._index = choice.get("index") if self._index is None else self._index
            self._take_choice(choice)
        self._deltas.cite(event)

    def _take_choice(self, choice: Mapping[str, Any]) -> None:
        if (usage := usage_of(choice)) is not None:
            self._usage = _openai.later(self._usage, usage)
        reason = reason_in(choice)
        if self._deltas.take(choice, has_finished=bool(self._ending or reason)):
            self._went_on = True
        if reason:
            self._end(ending(reason))

    def _end(self, new: Ending) -> None:
        """Keeps a reason. Without content in between, a stop does not undo that the answer was cut off."""
        if self._ending is None or self._went_on or self._ending.status == "completed":
            self._ending = new
        self._went_on = False

    def _done(self) -> None:
        if self._ending is None and not self._spoke:
            raise UpstreamBroken("The model's server ended the stream without an answer.")
        self._conclude(self._ending or unexplained(self._usage, self._turn))

    def _run_out(self) -> None:
        """Some servers never send [DONE]: the answer has ended with its reason."""
        if self._ending is None:
            raise UpstreamBroken("The model's server closed the stream before the answer had ended.")
        self._conclude(self._ending)

    def _conclude(self, end: Ending) -> None:
        self._deltas.end(end.status)
        self.answer = end.answer(self._output, self._usage, self._identity())
