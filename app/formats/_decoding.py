"""The common part of decoders that translate: read the events of a stream, end or fail the answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from app.contract.items import Item
from app.contract.turn import Answer, Turn
from app.errors import UpstreamError
from app.formats._endings import TRANSLATED
from app.formats._failures import error_in_body
from app.formats._output import Output
from app.formats._reader import JSON, EventReader


class StreamDecoder(ABC):
    """Translates another format's events into the contract's. Subclasses take single events."""

    path = TRANSLATED

    def __init__(self, turn: Turn, sequence: int) -> None:
        self.accepted = False
        self.started = False
        self.answer: Answer | None = None
        self.defaults: Mapping[str, Any] = {}
        self._output = Output(turn, sequence)
        self._reader = EventReader()

    @property
    def sequence(self) -> int:
        return self._output.sequence

    def feed(self, data: bytes) -> bytes:
        if self.answer is not None:
            return b""
        try:
            self._take_all(self._reader.feed(data))
            if not self.accepted:
                self._reader.check()
        except UpstreamError as error:
            self._break(error)
        return self._drain()

    def finish(self) -> bytes:
        """After the terminal event, the end of the bytes is ignored; before it, it is a failure."""
        if self.answer is not None:
            return b""
        try:
            if not self.accepted and (error := error_in_body(self._reader.rest)):
                raise error
            self._take_all(self._reader.finish())
            if self.answer is None:
                self._run_out()
        except UpstreamError as error:
            if not self.started:
                # What the last event brought is not sent, so that another channel can go on.
                raise
            self._break(error)
        return self._drain()

    def partial(self) -> list[Item]:
        return self._output.partial()

    # --- the format's own

    @abstractmethod
    def _take(self, name: str | None, event: Mapping[str, Any]) -> None:
        """Takes one event. Raises UpstreamError."""

    @abstractmethod
    def _done(self) -> None:
        """Takes `[DONE]`. Raises UpstreamError if there is no answer."""

    @abstractmethod
    def _run_out(self) -> None:
        """The bytes have ended. Raises UpstreamError if the answer had not ended."""

    @abstractmethod
    def _identity(self) -> Mapping[str, Any]:
        """The upstream's id, model and defaults, as fields of an answer."""

    # --- events

    def _take_all(self, events: Iterable[tuple[str | None, JSON | None]]) -> None:
        for name, value in events:
            if self.answer is not None:
                return
            if value is None:
                self._done()
            else:
                self._take(name, value)

    def _drain(self) -> bytes:
        self.started = self.started or self._output.waiting
        return self._output.drain()

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


def string(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
