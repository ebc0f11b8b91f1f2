"""Counts what the parts report, and writes the sums into the files of this process once a second.

A report is one entry in a queue: adding it to the metrics at once would cost a request more than its validation. A
thread adds up the entries of a second and writes each sum once.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from app.contract.records import Attempt, Draft, Outcome, ToolCall
from app.contract.usage import Usage
from app.errors import StoreUnavailable
from app.metrics import families
from app.metrics.measures import Measures
from app.metrics.results import OTHER, failure_of
from app.metrics.sample import Sample, Sampled

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
#: Flushes between two queries about the queue.
_QUEUE_EVERY = 5
#: Flushes for which a token that the database did not know is not looked up again.
_NAMES_EVERY = 10
#: Names of models, or of tools, that become labels. A glob of the table matches names without end.
MOST_NAMES = 200
#: Micro-units of one unit of money.
_MICRO = 1_000_000
#: Views are registered with and without the prefix of the API.
_PREFIX = " v1"
NONE = "none"

T = TypeVar("T")


class _Response(NamedTuple):
    token: int | None
    model: str
    channel: str | None
    status: str
    usage: Usage | None
    first_byte_ms: int | None
    total_ms: int
    attempts: tuple[Attempt, ...]


class Tally(Measures):
    """The measures of one process."""

    def __init__(self) -> None:
        self._http: deque[tuple[str, int]] = deque()
        self._responses: deque[_Response] = deque()
        self._calls: deque[ToolCall] = deque()
        self._groups: deque[int] = deque()
        self._database: deque[tuple[str, float]] = deque()
        self._reaped: deque[int] = deque()
        self.on_database_call = self._database_called
        self._sampled: Sampled | None = None
        self._sums = _Sums()
        self._tokens: Mapping[int, str] = {}
        self._nameless: set[int] = set()
        self._names_age = 0
        self._flushes = 0
        self._models, self._tools = _Names(), _Names()
        self._channels: set[str] = set()
        self._dropped = 0
        self._ended = threading.Event()
        self._flushing = threading.Lock()
        self._thread: threading.Thread | None = None

    # --- reports

    def http_answered(self, route: str, status: int) -> None:
        self._http.append((route, status))

    def response_ended(self, draft: Draft, outcome: Outcome, status: str) -> None:
        # Not the records themselves, which hold the content.
        self._responses.append(
            _Response(
                draft.token,
                draft.model,
                outcome.channel,
                status,
                outcome.usage,
                outcome.first_byte_ms,
                outcome.total_ms,
                outcome.attempts,
            )
        )

    def tool_called(self, call: ToolCall) -> None:
        self._calls.append(call)

    def group_written(self, jobs: int) -> None:
        self._groups.append(jobs)

    def reaped(self, responses: int) -> None:
        self._reaped.append(responses)

    def _database_called(self, operation: str, seconds: float) -> None:
        self._database.append((operation, seconds))

    # --- the thread

    def start(self, sampled: Sampled) -> None:
        self._sampled = sampled
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._thread is not None:
            self._ended.set()
            self._thread.join(FLUSH_SECONDS)
            self._flush()

    def _run(self) -> None:
        while not self._ended.wait(FLUSH_SECONDS):
            self._flush()

    def _flush(self) -> None:
        try:
            with self._flushing:
                self._add_up()
                self._sums.write()
                self._set_gauges()
        except Exception:
            # The border that must not die: metrics with a fault are no reason for anything else to fail.
            log.exception("the metrics of this second are lost")

    def _add_up(self) -> None:
        sums = self._sums
        for route, code in _drained(self._http):
            sums.add(families.HTTP_REQUESTS, (route.replace(_PREFIX, "") or NONE, str(code)))
        for response in _drained(self._responses):
            self._add_response(response)
        for call in _drained(self._calls):
            self._add_call(call)
        for jobs in _drained(self._groups):
            sums.observe(families.GROUPS, (), jobs)
        for operation, seconds in _drained(self._database):
            sums.observe(families.DATABASE_CALLS, (operation,), seconds)
        for responses in _drained(self._reaped):
            sums.add(families.REAPED, (), responses)

    def _add_response(self, response: _Response) -> None:
        sums = self._sums
        labels = self._model(response.model), response.channel or NONE
        token = self._token(response.token)
        sums.add(families.RESPONSES, (*labels, response.status))
        sums.add(families.TOKEN_RESPONSES, (token,))
        for kind, tokens in _by_type(response.usage):
            sums.add(families.TOKENS, (*labels, kind), tokens)
            if kind in ("input", "output"):
                sums.add(families.TOKEN_TOKENS, (token, kind), tokens)
        if response.usage is not None and response.usage.cost is not None:
            cost = response.usage.cost / _MICRO
            sums.add(families.COST, labels, cost)
            sums.add(families.TOKEN_COST, (token,), cost)
        if response.first_byte_ms is not None:
            sums.observe(families.FIRST_TOKEN, labels, response.first_byte_ms / 1000)
        sums.observe(families.RESPONSE_SECONDS, labels, response.total_ms / 1000)
        for attempt in response.attempts:
            sums.add(families.ATTEMPTS, (attempt.channel, _result(attempt)))
        for attempt, following in zip(response.attempts, response.attempts[1:], strict=False):
            if (reason := _result(attempt)) != "ok" and following.channel != attempt.channel:
                sums.add(families.FAILOVERS, (attempt.channel, reason))

    def _add_call(self, call: ToolCall) -> None:
        result = "ok" if call.error is None else call.error
        server, tool = OTHER, OTHER
        if self._state.has_tool_server(call.server):
            server, tool = call.server, self._tools.bounded(call.tool)
        self._sums.add(families.TOOL_CALLS, (server, tool, result))
        if call.milliseconds is not None:
            self._sums.observe(families.TOOL_SECONDS, (server,), call.milliseconds / 1000)

    @property
    def _state(self) -> Sampled:
        assert self._sampled is not None, "only a started thread adds up"
        return self._sampled

    # --- labels

    def _model(self, model: str) -> str:
        return self._models.bounded(model) if self._state.serves(model) else OTHER

    def _token(self, key: int | None) -> str:
        if key is None:
            return NONE
        if key not in self._tokens and (key not in self._nameless or self._names_age >= _NAMES_EVERY):
            self._names_age = 0
            self._nameless.add(key)
            with suppress(StoreUnavailable):
                self._tokens = self._state.token_names()
        return self._tokens.get(key, OTHER)

    # --- gauges

    def _set_gauges(self) -> None:
        self._names_age += 1
        sample = self._state.sample()
        families.WORKERS.labels(sample.kind).set(1)
        families.IN_FLIGHT.set(sample.in_flight)
        families.WEBSOCKETS.set(sample.websockets)
        families.WAITING.set(sample.waiting)
        families.TABLE_REJECTED.set(int(sample.table_rejected))
        families.DATABASE_WAITING.set(sample.writer_waiting)
        families.DATABASE_DROPPED.inc(sample.rows_dropped - self._dropped)
        self._dropped = sample.rows_dropped
        families.PUMP_LAG.set(sample.pump_lag)
        if sample.disk_free is not None:
            families.DISK_FREE.labels("database").set(sample.disk_free)
        self._set_channels(sample)
        if self._flushes % _QUEUE_EVERY == 0:
            with suppress(StoreUnavailable):
                families.QUEUED.set(self._state.queued())
        self._flushes += 1

    def _set_channels(self, sample: Sample) -> None:
        for status in sample.channels:
            families.CHANNEL_UP.labels(status.name).set(int(status.cooldown_left == 0))
            families.CHANNEL_COOLDOWN.labels(status.name).set(status.cooldown_left)
            families.CHANNEL_PAUSED.labels(status.name).set(int(bool(status.paused)))
            families.CHANNEL_IN_FLIGHT.labels(status.name).set(status.in_flight)
        present = {status.name for status in sample.channels}
        for name in self._channels - present:
            # A row that was removed from the table is not down.
            families.CHANNEL_UP.labels(name).set(1)
            families.CHANNEL_COOLDOWN.labels(name).set(0)
            families.CHANNEL_PAUSED.labels(name).set(0)
            families.CHANNEL_IN_FLIGHT.labels(name).set(0)
        self._channels |= present


class _Sums:
    """Sums by metric and labels that are not written yet."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[Any, tuple[str, ...]]] = Counter()
        self._observations: dict[tuple[Any, tuple[str, ...]], list[float]] = defaultdict(list)

    def add(self, family: Any, labels: tuple[str, ...], amount: float = 1) -> None:
        self._counts[family, labels] += amount  # type: ignore[assignment]

    def observe(self, family: families.BatchHistogram, labels: tuple[str, ...], value: float) -> None:
        self._observations[family, labels].append(value)

    def write(self) -> None:
        counts, self._counts = self._counts, Counter()
        observations, self._observations = self._observations, defaultdict(list)
        for (family, labels), amount in counts.items():
            _child(family, labels).inc(amount)
        for (family, labels), values in observations.items():
            _child(family, labels).add(_buckets(family.bounds, values), sum(values))


class _Names:
    """The first names that came, as many as may be labels."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def bounded(self, name: str) -> str:
        if name not in self._names:
            if len(self._names) >= MOST_NAMES:
                return OTHER
            self._names.add(name)
        return name


def _drained(queue: deque[T]) -> Iterator[T]:
    """The entries that are there now; more may come meanwhile."""
    for _ in range(len(queue)):
        yield queue.popleft()


def _child(family: Any, labels: tuple[str, ...]) -> Any:
    return family.labels(*labels) if labels else family


def _buckets(bounds: Sequence[float], values: Sequence[float]) -> list[int]:
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[bisect_left(bounds, value)] += 1
    return counts


def _by_type(usage: Usage | None) -> Iterator[tuple[str, int]]:
    if usage is not None:
        yield "input", usage.input_tokens
        yield "cached", usage.cached_tokens
        yield "cache_write", usage.cache_write_tokens
        yield "output", usage.output_tokens
        yield "reasoning", usage.reasoning_tokens


def _result(attempt: Attempt) -> str:
    return "ok" if attempt.error is None else failure_of(attempt.error)
