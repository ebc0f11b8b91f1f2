"""A streamed turn whose tools the gateway runs: one stream for all its exchanges and calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

from app.channels.selection import SelectedChannel
from app.contract.events import ARGUMENT_EVENTS
from app.contract.items import Item
from app.contract.turn import Answer
from app.formats import Decoder
from app.relay.attempts import TurnAttempt, TurnAttempts
from app.relay.streaming.client_connection import ClientConnection
from app.relay.streaming.event_stream import AfterRefusal, EventStream, StreamStart
from app.relay.streaming.transport import Flow, ThreadTransport
from app.relay.tools.decoder import ToolDecoder
from app.relay.tools.loop import ToolLoop, measured
from app.relay.tools.model_calls import ToolCall
from app.request_watch import Watch

#: Makes the attempts of the next exchange.
MakeAttempts = Callable[[], TurnAttempts]


class ToolStream(EventStream):
    """The events of all exchanges and calls. Before the first output event of each exchange, another channel may take
    it over."""

    def __init__(
        self,
        loop: ToolLoop,
        next_attempts: MakeAttempts,
        stream_start: StreamStart,
        watch: Watch,
        connection: ClientConnection | None,
        transport: ThreadTransport,
        after_refusal: AfterRefusal,
    ) -> None:
        """The stream closes the loop."""
        super().__init__(loop.turn, next_attempts(), stream_start, watch, connection, transport, after_refusal)
        self._loop = loop
        self._next_attempts = next_attempts
        self._places: dict[ToolCall, int] = {}
        """The places of calls that have not ended, in the output."""

    def open(self) -> EventStream:
        self._loop.__enter__()
        return super().open()

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._loop.close()

    # --- the steps

    def _begin(self) -> None:
        """Approved calls come before the first exchange: the head leaves at once."""
        self._loop.claim_approvals(self._recorder)
        if not self._loop.approved:
            super()._begin()

    def _output_events(self) -> Iterator[bytes]:
        """The events of each exchange, and those of the calls behind it."""
        if self._loop.approved:
            yield from self._approved_calls()
            yield from self._next_exchange()
        while True:
            yield from super()._output_events()
            self._take_answer()
            for call in self._loop.run_calls():
                yield self._finished(call)
            if self._loop.ended:
                return
            yield from self._next_exchange()

    def _next_exchange(self) -> Iterator[bytes]:
        self._attempts = self._next_attempts()
        yield from self._go_on()
        if ready := self._ready():
            yield ready

    def _approved_calls(self) -> Iterator[bytes]:
        for call in self._loop.approved:
            yield b"".join(self._announced(call))
        for call in self._loop.run_approved():
            yield self._finished(call)

    def _announced(self, call: ToolCall) -> Iterator[bytes]:
        """The events of a call before it runs."""
        emitter, item = self._numbers, call.item()
        self._places[call] = emitter.output_index
        yield from emitter.begin(item)
        if item["type"] in ARGUMENT_EVENTS:
            yield emitter.argument(item, item["arguments"])
            yield emitter.close_arguments(item)
        emitter.output_index += 1

    def _finished(self, call: ToolCall) -> bytes:
        """The last events of a call that has ended."""
        emitter, following = self._numbers, self._numbers.output_index
        emitter.output_index = self._places.pop(call)
        events = b"".join(emitter.finish(dict(self._turn.echo.shown(call.item()))))
        emitter.output_index = following
        return events

    def _opened(self, attempt: TurnAttempt) -> tuple[Flow[Decoder], bytes]:
        flow, ready = super()._opened(attempt)
        flow.deadline = min(flow.deadline, self._loop.deadline)
        numbers = self._numbers
        decoder = ToolDecoder(
            flow.decoder, self._loop.calls(), numbers.sequence, numbers.output_index, self._loop.sources
        )
        flow.decoder = decoder
        return flow, decoder.translated(ready)

    def _take_answer(self) -> None:
        """Ends an exchange: its channel is free while the calls run. Raises UpstreamError for a failed answer."""
        active = self._active_attempt()
        decoder, attempt = cast(ToolDecoder, active.decoder), active.attempt
        answer = measured(self._answer_of(active), attempt)
        attempt.succeeded()
        self._loop.take(answer, decoder.calls, decoder.shown([*answer.output], "incomplete"), attempt)
        self._recorder.spent = self._loop.usage
        self._numbers.sequence, self._numbers.output_index = decoder.sequence, decoder.output_index
        self._places = decoder.places()
        self._close_active()

    def _answered(self) -> tuple[Answer, SelectedChannel, int]:
        assert self._loop.selected is not None
        self._recorder.has_family = self._loop.has_family
        return self._loop.answer, self._loop.selected, self._numbers.sequence

    def _partial(self) -> Callable[[], Sequence[Item]]:
        exchange = super()._partial()
        return lambda: [*self._turn.leading_items, *self._loop.output, *exchange()]

    def _selected(self) -> SelectedChannel | None:
        return super()._selected() or self._loop.selected
