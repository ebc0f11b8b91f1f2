"""The run of a turn whose tools the gateway runs: list the tools, compact the history, then exchanges and calls until
the model answers without a call."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from app.channels.affinity import Affinity
from app.contract.records import Token
from app.contract.tools import ListedTool
from app.contract.turn import Answer, Turn
from app.errors import ContextTooLong, ToolListFailed
from app.relay.attempts import TurnAttempt, TurnAttempts, Unstreamed
from app.relay.recorder import Recorder
from app.relay.request_context import RequestContext
from app.relay.streaming.event_stream import StreamStart
from app.relay.tools.approvals import Approvals, answers, served
from app.relay.tools.brought import brought_tools
from app.relay.tools.listings import list_failed, list_items, listed_tools
from app.relay.tools.loop import ToolLoop, measured
from app.relay.tools.result_memory import ResultMemory
from app.relay.tools.stream import ToolStream
from app.relay.tools.toolset import NamedServer, Toolset
from app.relay.turn_run import CompactedRun, CompactionRun, TurnParts, TurnRun, WindowRun

log = logging.getLogger(__name__)


class ToolRun(TurnRun):
    """A turn that names tool servers of the gateway."""

    def __init__(
        self,
        parts: TurnParts,
        token: Token,
        turn: Turn,
        context: RequestContext,
        servers: Sequence[NamedServer],
        recorder: Recorder | None = None,
    ) -> None:
        """Raises InvalidRequest for an answer to an unknown approval request."""
        super().__init__(parts, token, turn, context, recorder)
        labels = {server.label for server in servers if server.hosted is None}
        self._servers = servers
        self._brought = brought_tools(turn)
        self._answers = served(answers(parts.store, turn), labels)
        self._loop: ToolLoop | None = None

    # --- steps

    def _respond(self) -> dict[str, Any]:
        with self._prepared() as loop:
            loop.claim_approvals(self.recorder)
            _exhaust(loop.run_approved())
            while not loop.ended:
                self._exchange(loop)
                _exhaust(loop.run_calls())
        assert loop.selected is not None
        self.recorder.has_family = loop.has_family
        return self.recorder.finish(loop.answer, loop.selected)

    def _events(self, stream_start: StreamStart) -> Iterable[bytes]:
        try:
            loop = self._prepared()
        except ToolListFailed as error:
            if not stream_start.sent:
                raise
            return self._failed_list(stream_start, error)
        stream = ToolStream(
            loop,
            self._attempts,
            stream_start,
            self._watch,
            self._context.connection,
            self._parts.transport,
            self._after_refusal,
        )
        stream.open()
        self._context.note_dropped_tools(stream.dropped)
        self._context.note_adapted(stream.adapted)
        return stream

    def _prepared(self) -> ToolLoop:
        """The loop of a turn whose tools are known and whose history fits. Raises GatewayError, ClientGone."""
        self._check_servers()
        parts = self._parts
        toolset = self._toolset
        approvals = Approvals.of(self._answers, toolset, self.turn.id)
        self._shorten()
        lists = list_items(self.turn, self._servers, toolset)
        self._replace_turn(replace(self.turn, leading_items=(*self.turn.leading_items, *lists)))
        self._loop = ToolLoop(
            self.turn,
            toolset,
            approvals,
            parts.tool_servers,
            parts.store,
            self._watch,
            self.recorder.admission,
            ResultMemory(self._context.hold_bytes),
        )
        return self._loop

    @cached_property
    def _toolset(self) -> Toolset:
        """The tools of the turn. Raises ToolListFailed, InvalidRequest and ClientGone."""
        turn = self.turn
        return Toolset.of(turn.request, self._servers, self._listings(), self._brought, partial(listed_tools, turn))

    def _listings(self) -> Mapping[str, Sequence[ListedTool]]:
        """The tools of each server, by its label. Raises ToolListFailed for a server that the client names."""
        listings: dict[str, Sequence[ListedTool]] = {}
        named = self._needed_labels()
        for server in self._servers:
            if server.label in listings:
                continue
            try:
                listings[server.label] = self._parts.tool_servers.listed(server.server, self._watch)
            except ToolListFailed as error:
                if error.was_asked:
                    self._note_unlisted(server)
                if server.label in named:
                    raise
                log.warning("the tools of server %s are left out: it cannot be listed", server.label)
        return listings

    def _note_unlisted(self, server: NamedServer) -> None:
        """Shows the operator that a server of the table is down. Labels of other servers are the clients' words."""
        if self._parts.channels.table.tools.servers.get(server.label) is server.server:
            self._parts.store.recent_errors.note_unlisted(self.turn.owner, server.label)

    def _needed_labels(self) -> set[str]:
        """The servers that the turn cannot do without. Of one behind a hosted tool the client does not know: the tool
        is left out, as on channels that do not have it."""
        return {server.label for server in self._servers if server.hosted is None}

    def _exchange(self, loop: ToolLoop) -> None:
        answer, attempt = self._answered(_Measured(self._watch))
        self._context.note_dropped_tools(attempt.dropped)
        self._context.note_adapted(attempt.adapted)
        calls = loop.calls()
        loop.take(answer, calls, loop.sources.cited(calls.output(answer.output, "incomplete")), attempt)
        self.recorder.spent = loop.usage

    def _answered(self, step: _Measured) -> tuple[Answer, TurnAttempt]:
        """The answer of the next exchange. Each time that its context is too long, it gets shorter."""
        attempts = self._attempts()
        while True:
            try:
                return attempts.first(step)
            except ContextTooLong as refusal:
                attempts = self._after_refusal(refusal)[1]

    def _after_refusal(self, refusal: ContextTooLong) -> tuple[Turn, TurnAttempts]:
        """In a later exchange, the results of this turn are what else can be shorter than the history."""
        loop = self._loop
        try:
            return super()._after_refusal(refusal)
        except ContextTooLong:
            if loop is None or not self._parts.compaction.may_shorten(self.turn) or not loop.cut_results():
                raise
        return self.turn, self._attempts()

    def _expects_compactions(self) -> bool:
        """An item behind what this turn has said would stand for that as well, so it is stored and not shown."""
        begun = self._loop is not None and bool(self._loop.output)
        return not begun and super()._expects_compactions()

    def _failed_list(self, stream_start: StreamStart, error: ToolListFailed) -> Iterable[bytes]:
        """The events of a list that failed after the head had left."""
        try:
            item = list_failed(self.turn, error)
            events, number = stream_start.items([item])
            ending = events + stream_start.failure(error, number, lambda: [item])
        finally:
            stream_start.end()
        return (piece for piece in (ending,))

    # --- shared by the steps

    def _exchange_turn(self) -> Turn:
        assert self._loop is not None
        return self._loop.exchange_turn()

    @cached_property
    def _upstream_servers(self) -> Sequence[str]:
        """The table may have changed since the turn began, so that only its own servers count."""
        called = {server.position for server in self._servers}
        tools = enumerate(self.turn.request.get("tools", ()))
        return [
            tool["server_label"] for position, tool in tools if tool.get("type") == "mcp" and position not in called
        ]

    def _affinity(self) -> Affinity:
        """The channel that has answered last comes first: it has the turn in its cache."""
        affinity, loop = super()._affinity(), self._loop
        if loop is None or loop.selected is None:
            return affinity
        return replace(affinity, channel=loop.selected.channel.name)

    def _readable_turn(self) -> Turn:
        return self._toolset.exchange_turn(self.turn, first=False)

    def _replace_turn(self, turn: Turn) -> None:
        super()._replace_turn(turn)
        if self._loop is not None:
            self._loop.turn = turn


class CompactedToolRun(CompactedRun, ToolRun):
    """A turn with tools of the gateway whose history is always compacted first."""


class CompactionToolRun(CompactionRun, ToolRun):
    """A compaction of a turn with tools of the gateway. Its request repeats them, for the upstream's cache."""

    def _needed_labels(self) -> set[str]:
        """Nothing is called."""
        return set()


class WindowToolRun(WindowRun, CompactionToolRun):
    """OpenAI's compaction window, as above."""


class _Measured(Unstreamed):
    """The step for an unstreamed answer that is one of several."""

    def run(self, attempt: TurnAttempt) -> tuple[Answer, TurnAttempt]:
        answer, attempt = super().run(attempt)
        return measured(answer, attempt), attempt


def _exhaust(steps: Iterable[object]) -> None:
    deque(steps, maxlen=0)
