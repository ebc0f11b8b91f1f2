"""The sums that grow with each response and call."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from app.contract.records import ToolCall
from app.contract.usage import Usage
from app.store.store import Store
from app.store.sums import FIRST_TOKEN_BOUNDS, SLOT_SECONDS, TOTAL_BOUNDS
from tests.store import rows
from tests.store.turns import draft, outcome

DAY = "2000-01-01"


def _finish(store: Store, *, client: str = "curl", model: str = "small", **fields: Any) -> None:
    store.responses.finish(draft(client=client, model=model), outcome(**fields))


def test_costs_are_summed_and_unknown_ones_are_counted(store: Store) -> None:
    _finish(store, usage=Usage(10, output_tokens=1, cost=70))
    _finish(store, usage=Usage(10, output_tokens=1, cost=0))
    _finish(store, usage=Usage(10, output_tokens=1))
    _finish(store, status="failed", usage=None)
    (row,) = store.usage.since(DAY, ["model"])
    assert [row[name] for name in ("requests", "failed", "cost", "priced", "unused")] == [4, 1, 70, 2, 1]


def test_the_cost_is_stored_with_the_response(store: Store) -> None:
    begun = draft(client="codex")
    store.responses.finish(begun, outcome(usage=Usage(10, cost=70)))
    (node,) = store.trees.load("ada", begun.id).nodes  # type: ignore[union-attr]
    assert node.usage is not None
    assert (node.usage.cost, node.client, node.wire()["cost_micros"]) == (70, "codex", 70)
    stored = store.responses.read("ada", begun.id)
    assert stored is not None
    assert stored.usage is not None
    assert "cost" not in str(stored.usage.wire())


def test_clients_have_sums_of_their_own(store: Store) -> None:
    for client in ("curl", "codex", "curl", ""):
        _finish(store, client=client, usage=Usage(10, output_tokens=2))
    found = {row["client"]: (row["requests"], row["output_tokens"]) for row in store.usage.clients(DAY)}
    assert found == {"curl": (2, 4), "codex": (1, 2), "": (1, 2)}


def test_a_cancelled_background_response_counts_for_the_client_of_its_row(store: Store) -> None:
    begun = draft(client="codex")
    store.responses.begin(begun)
    store.responses.cancel("ada", begun.id)
    store.responses.finish(draft(id=begun.id), outcome("cancelled", usage=Usage(7, cost=5)))
    (row,) = store.usage.clients(DAY)
    assert (row["client"], row["requests"], row["input_tokens"], row["cost"]) == ("codex", 1, 7, 5)


def _buckets(row: Mapping[str, int], kind: str) -> dict[int, int]:
    """The counts of the buckets that are not empty."""
    return {number: row[f"{kind}_{number}"] for number in range(16) if row[f"{kind}_{number}"]}


def test_times_fall_into_fixed_buckets(store: Store) -> None:
    assert (TOTAL_BOUNDS[0], TOTAL_BOUNDS[-1], FIRST_TOKEN_BOUNDS[0]) == (100, 300_000, 50)
    for ms in (0, 100, 101, 300_000, 300_001):
        _finish(store, total_ms=ms)
    (row,) = store.usage.since(DAY, ["channel"])
    assert (_buckets(row, "total"), _buckets(row, "first")) == ({0: 2, 1: 1, 14: 1, 15: 1}, {})


def test_times_are_summed_by_every_key(store: Store) -> None:
    for model, channel, first in (("small", "a", 40), ("small", "b", 40), ("large", "b", 70_000)):
        _finish(store, model=model, channel=channel, first_byte_ms=first)
    by_model = {row["model"]: _buckets(row, "first") for row in store.usage.since(DAY, ["model"])}
    assert by_model == {"small": {0: 2}, "large": {15: 1}}
    by_channel = {row["channel"]: _buckets(row, "first") for row in store.usage.since(DAY, ["channel"])}
    assert by_channel == {"a": {0: 1}, "b": {0: 1, 15: 1}}
    (row,) = store.usage.clients(DAY)
    assert _buckets(row, "first") == {0: 2, 15: 1}


def test_a_channel_has_sums_of_five_minutes_for_two_days(store: Store, database_url: str) -> None:
    now = int(time.time()) // SLOT_SECONDS * SLOT_SECONDS
    for when in (now, now, now - SLOT_SECONDS, now - 49 * 3600):
        _finish(store, completed_at=when, usage=Usage(3, output_tokens=5, cost=2), first_byte_ms=400)
    found = [(row["slot"], row["requests"], row["cost"]) for row in store.usage.slots(now - 3600)]
    assert found == [(now // SLOT_SECONDS - 1, 1, 2), (now // SLOT_SECONDS, 2, 4)]
    assert [_buckets(row, "first") for row in store.usage.slots(now)] == [{4: 2}]
    assert len(store.usage.slots(0)) == 3
    store.reaper.reap()
    assert len(store.usage.slots(0)) == 2
    assert rows.execute(database_url, "SELECT SUM(requests) FROM usage_day")[0][0] == 4


def test_calls_of_tools_have_sums(store: Store) -> None:
    started = int(time.time() * 1000)
    calls = [ToolCall(f"mcp_{number}", "docs", "search", started) for number in range(2)]
    store.tool_calls.begin("ada", "resp_1", calls)
    ended = [
        ToolCall("mcp_0", "docs", "search", started, milliseconds=30, size=100),
        ToolCall("mcp_1", "docs", "search", started, milliseconds=50, error="http_error 500"),
    ]
    store.tool_calls.end("ada", "resp_1", ended)
    store.responses.finish(draft(), outcome())
    (row,) = store.usage.tools(DAY)
    assert _buckets(row, "took") == {0: 2}
    assert {name: int(row[name]) for name in ("calls", "failed", "ms", "bytes")} == {
        "calls": 2,
        "failed": 1,
        "ms": 80,
        "bytes": 100,
    }
