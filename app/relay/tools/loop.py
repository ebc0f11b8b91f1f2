"""The exchanges and calls of one turn whose tools the gateway runs. It knows no transport: a run or a stream asks for
the next exchange, hands over its answer, and has the calls run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from time import monotonic, time
from types import TracebackType
from typing import Self

from app import trace_context
from app.channels.selection import SelectedChannel
from app.contract import records
from app.contract.items import Item, is_call
from app.contract.tools import ToolOutcome
from app.contract.turn import Answer, Turn
from app.contract.usage import NOTHING_USED
from app.errors import TurnTimedOut
from app.limits.admission import Admission
from app.relay.attempts import TurnAttempt
from app.relay.recorder import Recorder, estimated_usage
from app.relay.tools.approvals import Approvals, start
from app.relay.tools.citations import Sources
from app.relay.tools.found import found_titles
from app.relay.tools.model_calls import AnswerCalls, Fate, ToolCall, model_items
from app.relay.tools.result_memory import ResultMemory
from app.relay.tools.rounds import Round, with_cut_results
from app.relay.tools.toolset import MCP_CALL, Toolset
from app.request_watch import Watch, wait_ready
from app.store.store import Store
from app.tools.servers import RunningCall, ToolServers, ToolSessions

#: Exchanges of one turn that may call tools. One more follows without them.
MAX_ROUNDS = 32
#: Calls that run at once.
MAX_AT_ONCE = 16
#: Seconds that the exchanges and calls of a turn may take together: nginx gives a request 960.
TURN_SECONDS = 900.0

#: What the row says of an exchange that read shortened results.
CUT_RESULTS = "cut tool results"

_FOREVER = float("inf")


class ToolLoop:
    """Entered, it has the sessions of its turn, and its time runs. They and all calls end with the `with` block."""

    def __init__(
        self,
        turn: Turn,
        toolset: Toolset,
        approvals: Approvals,
        servers: ToolServers,
        store: Store,
        watch: Watch,
        admission: Admission,
        memory: ResultMemory,
    ) -> None:
        self.turn = turn
        """The client's turn. A compaction may replace it."""
        self.output: list[Item] = []
        """The items of the response so far, without the leading ones of the turn."""
        self.usage = NOTHING_USED
        """Of all exchanges so far."""
        self.sources = Sources({})
        """What the hosted calls have found so far."""
        self.selected: SelectedChannel | None = None
        """The channel that has answered last."""
        self.ended = False
        self.deadline = monotonic() + TURN_SECONDS
        self._toolset = toolset
        self._approvals = approvals
        self._servers = servers
        self._store = store
        self._watch = watch
        self._admission = admission
        self._memory = memory
        self._sessions: ToolSessions | None = None
        self._open = ExitStack()
        self._rounds: list[Round] = []
        self._cut: Sequence[str] = ()
        self._refused_tools: tuple[str, ...] = ()
        """Names of tools that an upstream has refused in this turn."""
        self._exchanges = 0
        self._number = len(approvals.calls)
        self._left: int | None = turn.request.get("max_tool_calls")
        self._last: Answer | None = None
        self._answered: tuple[Sequence[Item], AnswerCalls, SelectedChannel] | None = None

    def __enter__(self) -> Self:
        late = TurnTimedOut(f"The turn was not finished within {TURN_SECONDS:.0f} seconds.")
        self._open.enter_context(self._watch.limited(TURN_SECONDS, late))
        self._sessions = self._open.enter_context(self._servers.sessions())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()

    # --- exchanges

    def exchange_turn(self) -> Turn:
        """What the model gets in the next exchange."""
        turn = self._toolset.exchange_turn(
            self.turn,
            self._rounds,
            first=self._exchanges == 0,
            offered=self._offers_tools,
            without=self._refused_tools,
        )
        # The id of an item that a decoder makes depends on the item's place in the output.
        return replace(
            turn,
            leading_items=(*self.turn.leading_items, *self.output),
            changes=(*turn.changes, *self._cut, *(f"drop tool {name}" for name in self._refused_tools)),
        )

    def calls(self) -> AnswerCalls:
        """The calls of an answer that is about to come."""
        return AnswerCalls(
            self._toolset,
            self.turn.id,
            self._number,
            self._left if self._offers_tools else 0,
            self._toolset.has_strangers,
        )

    def cut_results(self) -> bool:
        """Shortens what the next exchange reads of this turn's results. False if that is not possible."""
        cut = with_cut_results(self._rounds)
        if cut is None:
            return False
        self._rounds = cut
        self._cut = (CUT_RESULTS,)
        return True

    def take(self, answer: Answer, calls: AnswerCalls, output: Sequence[Item], attempt: TurnAttempt) -> None:
        """Takes a whole answer. `output`: its items as the response has them, with the calls that have not run
        as `incomplete`."""
        self._exchanges += 1
        self._number, self._left = calls.next_number, calls.left if self._offers_tools else 0
        self._last = answer
        self.usage += answer.usage or NOTHING_USED
        self.output += output
        self.selected = attempt.selected
        self._refused_tools = tuple(dict.fromkeys((*self._refused_tools, *attempt.left_out)))
        self._answered = (answer.output, calls, attempt.selected)
        self.ended = not self._goes_on(answer, calls)

    @property
    def answer(self) -> Answer:
        """The answer of the whole turn."""
        assert self._last is not None
        return replace(self._last, output=self.output, usage=self.usage)

    @property
    def has_family(self) -> bool:
        """Whether the last channel's family can read all of the answer. Reasoning of another one is lost to it, but a
        compaction of its own, which stands for the history, counts for more."""
        assert self.selected is not None
        family = self.selected.channel.family
        others = (item for one in self._rounds if one.family != family for item in one.items)
        kept = any(item["type"] == "compaction" for item in self.output)
        return kept or not any(item["type"] == "reasoning" and "encrypted_content" in item for item in others)

    @property
    def _offers_tools(self) -> bool:
        return self._exchanges < MAX_ROUNDS and self._left != 0

    def _goes_on(self, answer: Answer, calls: AnswerCalls) -> bool:
        """Whether another exchange follows once the calls have run."""
        if answer.status != "completed" or not calls.offered:
            return False
        clients = any(is_call(item) and calls.of(item) is None for item in answer.output)
        return not clients and not calls.with_fate(Fate.ASK) and calls.any

    # --- calls

    @property
    def approved(self) -> Sequence[ToolCall]:
        """The calls that the client has approved. They run before the first exchange."""
        return self._approvals.calls

    def claim_approvals(self, recorder: Recorder) -> None:
        """Commits that the approval requests are answered now. Raises InvalidRequest if one was answered before."""
        self._approvals.claim(self._store, self.turn)
        recorder.answers_approvals = bool(self.approved)
        if self._left is not None:
            self._left = max(0, self._left - len(self.approved))

    def run_approved(self) -> Iterator[ToolCall]:
        """Runs the approved calls; yields each when it has ended."""
        if not self.approved:
            return
        self.output += [call.item("incomplete") for call in self.approved]
        yield from self._run(self.approved, partial(start, self._store, self.turn))
        items = [call.item() for call in self.approved]
        self._rounds.append(Round(items, results={call.item_id: call.result() for call in self.approved}))

    def run_calls(self) -> Iterator[ToolCall]:
        """Runs the calls of the last answer; yields each in the model's order once it has ended."""
        assert self._answered is not None
        items, calls, selected = self._answered
        running = calls.with_fate(Fate.RUN) if self._last is not None and self._last.status == "completed" else []
        yield from self._run(running, self._begin)
        self._note_sources(running)
        results = {call.item_id: call.result() for call in running}
        if not self.ended and self._admission.is_exhausted(self.usage):
            # The model is asked once more, without tools.
            self._left = 0
        channel = selected.channel
        self._rounds.append(Round(model_items(items, calls), channel.family, results, channel.name))

    def _note_sources(self, calls: Sequence[ToolCall]) -> None:
        titles = dict(self.sources.titles)
        for call in calls:
            if call.offered.item_type == "web_search_call":
                titles.update(found_titles(call.outcome))
        if len(titles) > len(self.sources.titles):
            self.sources = Sources(titles)

    def _begin(self, calls: Sequence[ToolCall]) -> None:
        self._store.tool_calls.begin(self.turn.owner, self.turn.id, [_mark(call) for call in calls])

    def _run(self, calls: Sequence[ToolCall], mark: Callable[[Sequence[ToolCall]], None]) -> Iterator[ToolCall]:
        """`mark`: commits that calls are about to leave."""
        assert self._sessions is not None
        waiting, running = deque(calls), dict[ToolCall, RunningCall]()
        began: dict[ToolCall, float] = {}
        try:
            for call in calls:
                while call.outcome is None:
                    leaving = [waiting.popleft() for _ in range(min(len(waiting), MAX_AT_ONCE - len(running)))]
                    if leaving:
                        mark(leaving)
                    for next_call in leaving:
                        began[next_call] = monotonic()
                        running[next_call] = self._started(self._sessions, next_call)
                    self._settle(running)
                    if call.outcome is None:
                        self._await_end(self._sessions)
                        self._settle(running)
                self._show(call)
                yield call
        finally:
            for one in running.values():
                one.cancel()
            if calls:
                self._store.tool_calls.end(self.turn.owner, self.turn.id, [self._record(call, began) for call in calls])

    def _show(self, call: ToolCall) -> None:
        """Puts the ended call into the output."""
        place = next(place for place, item in enumerate(self.output) if item.get("id") == call.item_id)
        self.output[place] = call.item()

    def _started(self, sessions: ToolSessions, call: ToolCall) -> RunningCall:
        tool = call.offered
        arguments = call.arguments if tool.search is None else tool.search.arguments(call.arguments)
        with trace_context.within(call.item_id):
            return sessions.start(tool.server, tool.tool, arguments)

    def _settle(self, running: dict[ToolCall, RunningCall]) -> None:
        for call, one in [*running.items()]:
            if one.outcome is not None:
                call.outcome = self._memory.held(one.outcome)
                del running[call]

    def _await_end(self, sessions: ToolSessions) -> None:
        """Waits until a call has ended. Raises ClientGone, and what the watch raises."""
        wait_ready(sessions.fileno(), self._watch, _FOREVER)
        sessions.clear()

    def _record(self, call: ToolCall, began: Mapping[ToolCall, float]) -> records.ToolCall:
        """How a call ended, for the operator."""
        outcome = call.outcome
        if outcome is None:
            milliseconds = round((monotonic() - began[call]) * 1000) if call in began else 0
            return replace(_mark(call), milliseconds=milliseconds, error="cancelled")
        hidden = call.offered.item_type != MCP_CALL
        return replace(
            _mark(call),
            milliseconds=outcome.milliseconds,
            size=outcome.size,
            error=_kind(outcome),
            result=call.result().stored() if hidden else None,
            stored=self.turn.store,
        )


def measured(answer: Answer, attempt: TurnAttempt) -> Answer:
    """The answer with its usage, which the attempt's entry in the row gets as well."""
    used = answer.usage or estimated_usage(attempt.turn, answer.output)
    attempt.usage = attempt.selected.priced(attempt.turn.model, used)
    return replace(answer, usage=attempt.usage)


def _mark(call: ToolCall) -> records.ToolCall:
    tool = call.offered
    return records.ToolCall(
        call.item_id, tool.server.label, tool.tool.name, round(time() * 1000), call.approval_request_id
    )


def _kind(outcome: ToolOutcome) -> str | None:
    """The error without the server's words."""
    if outcome.error is None:
        return None
    kind, code = outcome.error.get("type"), outcome.error.get("code")
    return f"{kind} {code}" if code is not None else str(kind)
