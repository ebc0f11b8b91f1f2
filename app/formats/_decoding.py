"""The common part of decoders that translate: split a stream into events, detect garbage, end or fail the answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from app import nesting, sse
from app.contract.items import Item
from app.contract.turn import Answer, Turn
from app.errors import UpstreamBroken, UpstreamError
from app.formats._endings import TRANSLATED
from app.formats._failures import error_in_body, unreadable
from app.formats._output import Output

#: Bytes without a valid event after which the answer is not an event stream.
MAX_UNREADABLE = 64 * 1024

_NOT_JSON = "The model's server answered with something that is not JSON."


class StreamDecoder(ABC):
    """Translates another format's events into the contract's. Subclasses read single events."""

    path = TRANSLATED

    def __init__(self, turn: Turn, sequence: int) -> None:
        self.accepted = False
        self.started = False
        self.answer: Answer | None = None
        self.defaults: Mapping[str, Any] = {}
        self._output = Output(turn, sequence)
        self._splitter = sse.Splitter()
        self._unreadable = 0

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
        """After the terminal event, the end of the bytes is ignored; before it, it is a failure."""
        if self.answer is not None:
            return
        rest = self._splitter.rest.strip(b"\n")
        try:
            if not self.accepted and (error := error_in_body(rest)):
                raise error
            self._run_out(rest)
        except UpstreamError as error:
            self._break(error)

    def partial(self) -> list[Item]:
        return self._output.partial()

    # --- the format's own

    @abstractmethod
    def _read(self, raw: bytes) -> bool:
        """Reads one event; False if it is not an event. Raises UpstreamError."""

    @abstractmethod
    def _run_out(self, rest: bytes) -> None:
        """The bytes have ended within this event. Raises UpstreamError if the answer had not ended."""

    @abstractmethod
    def _identity(self) -> Mapping[str, Any]:
        """The upstream's id, model and defaults, as fields of an answer."""

    # --- events

    def _take(self, data: bytes) -> None:
        try:
            block = self._splitter.feed(data)
        except sse.EventTooLong:
            raise UpstreamBroken("The model's server sent an event without an end.") from None
        for raw in block.split(b"\n\n"):
            if raw and self.answer is None and not self._read(raw.strip(b"\n")):
                self._unreadable += len(raw)
        if not self.accepted:
            self._check_unreadable()

    @property
    def _spoke(self) -> bool:
        """Output has been sent, or is about to be."""
        return self.started or self._output.waiting

    def _break(self, error: UpstreamError) -> None:
        """Before the first output a failure is raised and failover follows; afterwards the answer has failed."""
        if not self._spoke:
            raise error
        self.answer = Answer(
            status="failed",
            output=self.partial(),
            error={"code": error.name, "message": error.message},
            failure=error,
            **self._identity(),
        )

    def _check_unreadable(self) -> None:
        rest = self._splitter.rest
        unknown = 0 if rest.startswith((b"event:", b"data:", b":")) else len(rest)
        if self._unreadable + unknown > MAX_UNREADABLE:
            raise UpstreamBroken("The model's server answered with something that is not an event stream.")


def whole(body: bytes) -> Any:
    """The JSON of an unstreamed answer. Raises UpstreamBroken, with the words of a body that is a text or a page."""
    try:
        return _read(body, _NOT_JSON)
    except UpstreamBroken as error:
        if error.message != _NOT_JSON:
            raise
        raise unreadable(_NOT_JSON, body) from None


def _read(data: bytes, otherwise: str) -> Any:
    """`otherwise`: the error message for data that is not JSON."""
    try:
        return nesting.from_upstream(data)
    except nesting.TooDeep:
        raise UpstreamBroken("The model's server sent JSON that is nested too deep.") from None
    except ValueError:
        raise UpstreamBroken(otherwise) from None


def parsed(data: bytes) -> dict[str, Any]:
    """The object in `data`. Raises UpstreamBroken if it is unreadable: a lost delta would corrupt the text silently."""
    event = _read(data, "The model's server sent an event that is not JSON.")
    if not isinstance(event, dict):
        raise UpstreamBroken("The model's server sent an event that is not an object.")
    return event


def string(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
