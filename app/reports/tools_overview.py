"""The tool servers of the table: what was called of them today, their newest failures, and who may use them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import time
from typing import Any
from urllib.parse import urlsplit

from app.contract.records import Token
from app.contract.tools import Approval, ToolFilter, ToolServer, ToolTable
from app.reports.usage import Percentiles, call_times
from app.store.recent_errors import UNLISTED, RecentError
from app.store.store import Store
from app.store.sums import DAY_SECONDS, day_of


@dataclass(frozen=True, slots=True)
class ToolCalls:
    """The calls of one tool today, in UTC."""

    tool: str
    calls: int
    failed: int
    times: Percentiles
    """Of a call."""
    bytes: int
    """All results."""


@dataclass(frozen=True, slots=True)
class ToolServerOverview:
    label: str
    server: ToolServer | None
    """None for one that is left out, and for one that is no longer in the table."""
    left_out: str
    """Why; empty otherwise."""
    fulfils: Sequence[str]
    """Types of hosted tools."""
    tools: Sequence[ToolCalls] = ()
    """Most calls first."""
    times: Percentiles = field(default_factory=Percentiles)
    """Of a call of any of them."""
    errors: Sequence[RecentError] = ()
    """Newest first."""
    tokens: Sequence[str] = ()
    """Names of those that may use it."""

    @property
    def calls(self) -> int:
        return sum(tool.calls for tool in self.tools)

    @property
    def failed(self) -> int:
        return sum(tool.failed for tool in self.tools)

    @property
    def unlisted_at(self) -> int | None:
        """When a turn did not get the list of its tools today, if that is its newest failure."""
        newest = self.errors[0] if self.errors else None
        today = int(time()) // DAY_SECONDS * DAY_SECONDS
        return newest.at if newest is not None and newest.code == UNLISTED and newest.at >= today else None

    @property
    def host(self) -> str:
        """Host and port, without a path that may hold a key."""
        return "" if self.server is None else urlsplit(self.server.url).netloc.rpartition("@")[2]

    @property
    def offers(self) -> str:
        """Which of its tools it offers, in words."""
        allowed = None if self.server is None else self.server.allowed
        return "all of its tools" if allowed is None else _filter_words(allowed)

    @property
    def approval(self) -> str:
        """Which calls need one, when a request says nothing about it."""
        return "" if self.server is None else approval_words(self.server.approval)


def tools_overview(table: ToolTable, store: Store) -> list[ToolServerOverview]:
    """For an operator. Reads the database three times."""
    calls: dict[str, list[Mapping[str, Any]]] = {}
    for row in store.usage.tools(day_of(int(time()) // DAY_SECONDS)):
        calls.setdefault(row["server"], []).append(row)
    errors = store.recent_errors.tool_servers()
    tokens = [token for token in store.tokens.all() if token.is_valid]
    labels = dict.fromkeys((*table.servers, *table.left_out, *calls))
    return [
        ToolServerOverview(
            label,
            table.servers.get(label),
            table.left_out.get(label, ""),
            _fulfils(table, label),
            [*map(_calls, calls.get(label, ()))],
            call_times(calls.get(label, ())),
            errors.get(label, ()),
            sorted(token.name for token in tokens if token.may_use_tools(label)),
        )
        for label in labels
    ]


def tools_of(table: ToolTable, token: Token) -> list[ToolServerOverview]:
    """The servers that a token may use, without what others do with them."""
    return [
        ToolServerOverview(label, table.servers[label], "", _fulfils(table, label))
        for label in table.servers
        if token.may_use_tools(label)
    ]


def _calls(row: Mapping[str, Any]) -> ToolCalls:
    return ToolCalls(row["tool"], int(row["calls"]), int(row["failed"]), call_times([row]), int(row["bytes"]))


def _fulfils(table: ToolTable, label: str) -> list[str]:
    return [f"{type} by {hosted.tool}" for type, hosted in table.hosted.items() if hosted.server == label]


def approval_words(approval: Approval) -> str:
    if not approval.never:
        return "always"
    words = [f"always for {_filter_words(one)}" for one in approval.always]
    exempt = [one for one in approval.never if one != ToolFilter()]
    words += [f"never for {_filter_words(one)}, else always" for one in exempt]
    return "; ".join(words) or "never"


def _filter_words(tools: ToolFilter) -> str:
    return ", ".join(_parts(tools)) or "all"


def _parts(tools: ToolFilter) -> Iterator[str]:
    if tools.read_only is not None:
        yield "those that only read" if tools.read_only else "those that change something"
    if tools.names is not None:
        yield from sorted(tools.names)
