"""What the parts of a process report about their work. Metrics are off here: every report is ignored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from app.contract.records import Draft, Outcome, ToolCall
from app.metrics.sample import Sampled


class Measures:
    """Every method may be called from any thread, returns at once and never raises."""

    on_database_call: Callable[[str, float], None] | None = None
    """Called with `read` or `write` and the seconds that it took; None while metrics are off."""

    def start(self, sampled: Sampled) -> None:
        """Starts in a serving process, after the fork."""

    def close(self) -> None:
        """Writes what has been reported so far."""

    def http_answered(self, route: str, status: int) -> None:
        """An HTTP request has ended. `route`: the name of its view."""

    def response_ended(self, draft: Draft, outcome: Outcome, status: str) -> None:
        """A response has ended, and its row is written or will be. `status` is that of the row."""

    def tool_called(self, call: ToolCall) -> None:
        """The call of a tool has ended."""

    def group_written(self, jobs: int) -> None:
        """The writer has committed a group of so many jobs."""

    def reaped(self, responses: int) -> None:
        """Responses of dead workers were ended as failed."""


class Several(Measures):
    """Hands each report on to several measures."""

    def __init__(self, parts: Sequence[Measures]) -> None:
        self._parts = parts
        self.on_database_call = next((part.on_database_call for part in parts if part.on_database_call), None)

    def start(self, sampled: Sampled) -> None:
        for part in self._parts:
            part.start(sampled)

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def http_answered(self, route: str, status: int) -> None:
        for part in self._parts:
            part.http_answered(route, status)

    def response_ended(self, draft: Draft, outcome: Outcome, status: str) -> None:
        for part in self._parts:
            part.response_ended(draft, outcome, status)

    def tool_called(self, call: ToolCall) -> None:
        for part in self._parts:
            part.tool_called(call)

    def group_written(self, jobs: int) -> None:
        for part in self._parts:
            part.group_written(jobs)

    def reaped(self, responses: int) -> None:
        for part in self._parts:
            part.reaped(responses)


OFF = Measures()
