"""What is made of what was measured: the table of ratios, each with the floor that holds and the goal."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.bench.loads import LOADS, Figures


@dataclass(slots=True)
class Measured:
    """The figures of every run, by load and server in the order of the rounds, and what was found without load."""

    runs: dict[tuple[str, str], list[Figures]] = field(default_factory=dict)
    inside: dict[str, Any] = field(default_factory=dict)

    def median(self, load: str, server: str, figure: str) -> float | None:
        values = [run[figure] for run in self.runs.get((load, server), ()) if figure in run]
        return statistics.median(values) if values else None

    def paired(
        self, load: str, figure: str, ours: str, theirs: str, compare: Callable[[float, float], float]
    ) -> float | None:
        """The median over the rounds: what was measured side by side is compared with each other."""
        rounds = zip(self.runs.get((load, ours), ()), self.runs.get((load, theirs), ()), strict=False)
        values = [compare(a[figure], b[figure]) for a, b in rounds if a.get(figure) is not None and b.get(figure)]
        return statistics.median(values) if values else None


Value = Callable[[Measured], float | None]
Better = Literal["more", "less"]


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    value: Value
    floor: float
    goal: float
    unit: str
    better: Better

    def verdict(self, value: float) -> str:
        if self._reaches(value, self.goal):
            return "goal"
        return "floor" if self._reaches(value, self.floor) else "MISSED"

    def _reaches(self, value: float, mark: float) -> bool:
        return value >= mark if self.better == "more" else value <= mark


def times(load: str, figure: str, ours: str, theirs: str) -> Value:
    return lambda measured: measured.paired(load, figure, ours, theirs, lambda a, b: a / b)


def added(load: str, figure: str, ours: str) -> Value:
    """More than without anybody in between."""
    return lambda measured: measured.paired(load, figure, ours, "direct", lambda a, b: a - b)


def added_by_a_round(load: str, ours: str) -> Value:
    """More than two exchanges and the tool itself take. The upstream answers each of the three equally fast."""
    return lambda measured: measured.paired(load, "latency_p50", ours, "direct", lambda a, b: a - 3 * b)


def alone(load: str, figure: str, server: str) -> Value:
    return lambda measured: measured.median(load, server, figure)


def found(*path: str | int) -> Value:
    def value(measured: Measured) -> float | None:
        here: Any = measured.inside
        for name in path:
            here = here[name] if isinstance(name, int) else here.get(name)
            if here is None:
                return None
        return float(here)

    return value


def worst(load: str, server: str, *figures: str) -> Value:
    """The sum of what must not be, in the worst round."""

    def value(measured: Measured) -> float | None:
        runs = measured.runs.get((load, server))
        return max(sum(run.get(figure, 0) for figure in figures) for run in runs) if runs else None

    return value


def delivered(load: str, server: str) -> Value:
    offered = next(one.offered for one in LOADS if one.name == load)

    def value(measured: Measured) -> float | None:
        rate = measured.median(load, server, "event_rate")
        return None if rate is None else 100 * rate / offered

    return value


_FAULTS = ("failed", "refused", "late", "lost", "unended")


def _row(title: str, value: Value, floor: float, goal: float, unit: str) -> Row:
    return Row(title, value, floor, goal, unit, "more" if goal > floor else "less")


ROWS = (
    _row("JSON requests/s, 32 connections, of LiteLLM's", times("json32", "rate", "gateway", "litellm"), 10, 20, "×"),
    _row("CPU a JSON request, of an empty Flask route's", times("json32", "cpu", "gateway", "flask"), 3.5, 2.5, "×"),
    _row("CPU with all limits, of that without", times("limits32", "cpu", "limited", "unlimited"), 1.15, 1.15, "×"),
    _row("CPU with the console, of that without", times("console32", "cpu", "gateway", "no-console"), 1.05, 1.02, "×"),
    _row("JSON p50 added, 1 connection", added("json1", "latency_p50", "gateway"), 2, 1.2, "ms"),
    _row("JSON p50 added, 100 ms upstream, 2 workers", added("slow32", "latency_p50", "gateway-2"), 6, 4, "ms"),
    _row("events/s, firehose, of nginx's", times("fire8", "event_rate", "gateway", "nginx"), 0.5, 0.8, "×"),
    _row("events/s, firehose, of LiteLLM's", times("fire8", "event_rate", "gateway", "litellm"), 25, 45, "×"),
    _row("events/s, bridged firehose, of LiteLLM's", times("bridge8", "event_rate", "gateway", "litellm"), 15, 30, "×"),
    _row("first token p50 added, 50 streams", added("paced50", "first_p50", "gateway"), 4, 2.5, "ms"),
    _row("event delay p50, 500 streams", alone("paced500", "delay_p50", "gateway"), 0.3, 0.2, "ms"),
    _row("event delay p99, 500 streams", alone("paced500", "delay_p99", "gateway"), 10, 5, "ms"),
    _row("events lost or failed, 500 streams", worst("paced500", "gateway", *_FAULTS), 0, 0, ""),
    _row("CPU an event, of nginx's, 500 streams", times("paced500", "cpu", "gateway", "nginx"), 3, 2.2, "×"),
    _row("events delivered, 1,000 streams, 2 workers", delivered("paced1000", "gateway-2"), 90, 98, "%"),
    _row("event delay p99, 1,000 streams, 2 workers", alone("paced1000", "delay_p99", "gateway-2"), 300, 100, "ms"),
    _row("events lost or failed, 1,000 streams", worst("paced1000", "gateway-2", *_FAULTS), 0, 0, ""),
    _row("turn with one tool round, p50 added", added_by_a_round("tool1", "gateway-tools"), 10, 5, "ms"),
    _row("first token p50, 100 streams, a tool round", alone("tools100", "first_p50", "gateway-tools"), 60, 30, "ms"),
    _row("events lost or failed, these 100 streams", worst("tools100", "gateway-tools", *_FAULTS), 0, 0, ""),
    _row("memory (PSS) of 2 idle workers", found("memory", "idle"), 120, 90, "MiB"),
    _row("the same with a tool server", found("memory", "idle_tools"), 200, 170, "MiB"),
    _row("memory of an open stream", found("memory", "stream"), 80, 60, "KiB"),
    _row("memory of an open stream, TLS upstream", found("memory", "tls_stream"), 160, 130, "KiB"),
    _row("start to the first answered request", found("start"), 1.5, 0.8, "s"),
    _row("loading a chain of 100 turns, SQLite", found("storage", "sqlite", "load_100", 1), 0.5, 0.25, "ms"),
    _row("loading a chain of 1,000 turns, SQLite", found("storage", "sqlite", "load_1000", 1), 8, 4, "ms"),
    _row("loading a chain of 100 turns, MariaDB", found("storage", "mariadb", "load_100", 1), 2, 1, "ms"),
    _row("loading a chain of 1,000 turns, MariaDB", found("storage", "mariadb", "load_1000", 1), 15, 7.5, "ms"),
    _row("database bytes a turn, of its payload, SQLite", found("storage", "sqlite", "overhead"), 1.6, 1.3, "×"),
    _row("usage of 1,000,000 responses, by token", found("usage", "token"), 300, 150, "ms"),
    _row("usage of 1,000,000 responses, by a filter", found("usage", "filtered"), 300, 200, "ms"),
    _row("slowest console page, 1,000,000 responses", found("console", "slowest"), 400, 200, "ms"),
    _row("most statements of a console page", found("console", "statements"), 4, 3, ""),
    _row("/metrics with 50 tokens and 20 channels", found("metrics", "1"), 20, 20, "ms"),
    _row("the same with 3 models a channel", found("metrics", "3"), 40, 20, "ms"),
    _row("checking 200 items (64 KB)", found("validation"), 400, 150, "µs"),
)  # fmt: skip


_TITLES = {
    "rate": "requests/s",
    "latency_p50": "p50 ms",
    "latency_p99": "p99 ms",
    "events": "events/s",
    "first_p50": "first p50 ms",
    "delay_p50": "delay p50 ms",
    "delay_p99": "delay p99 ms",
    "cpu": "CPU µs",
}


def load_tables(measured: Measured, servers: Sequence[str]) -> list[str]:
    """A paragraph a load: who did what."""
    lines: list[str] = []
    for load in LOADS:
        present = [name for name in servers if (load.name, name) in measured.runs]
        if not present:
            continue
        lines += ["", f"{load.name}: {load.title}"]
        lines.append(" " * 16 + "".join(f"{_TITLES[column]:>14}" for column in load.columns) + "  faults")
        for name in present:
            figures = [measured.median(load.name, name, "event_rate" if c == "events" else c) for c in load.columns]
            faults = worst(load.name, name, *_FAULTS)(measured) or 0
            cells = "".join(f"{'' if value is None else _number(value):>14}" for value in figures)
            lines.append(f"  {name:<14}{cells}{faults:>8g}")
    return lines


def judge(measured: Measured) -> list[dict[str, Any]]:
    """The rows that could be measured, in their order."""
    values = ((row, row.value(measured)) for row in ROWS)
    return [
        {
            "title": row.title,
            "value": value,
            "unit": row.unit,
            "floor": row.floor,
            "goal": row.goal,
            "verdict": row.verdict(value),
        }
        for row, value in values
        if value is not None
    ]


def ratio_table(judged: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["", f"{'':<50}{'measured':>12}{'floor':>10}{'goal':>10}"]
    for row in judged:
        cell = f"{_number(row['value'])} {row['unit']}".strip()
        marks = f"{_number(row['floor']):>10}{_number(row['goal']):>10}"
        lines.append(f"{row['title']:<50}{cell:>12}{marks}  {row['verdict']}")
    if missing := len(ROWS) - len(judged):
        lines.append(f"{missing} more with `make bench-compare`, and what they are compared with installed")
    return lines


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
