"""What turns with tools cost: each exchange by itself, in the row and never at the API."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.relay.tools.conftest import ASK, ToolCase, kinds_of
from tests.tool_servers import ToolServer

JSON = dict[str, Any]


def _row(tool_case: ToolCase, response_id: str) -> JSON:
    return dict(orjson.loads(tool_case.gateway.command("show", response_id, "--json")))


def _cost(usage: JSON) -> int:
    """Micro-units at the price of the tests' table."""
    given, details = usage["input_tokens"], usage["input_tokens_details"]
    cached, written = details["cached_tokens"], details["cache_write_tokens"]
    plain = 4 if given > 100_000 else 2
    total = 10 * ((given - cached - written) * plain + usage["output_tokens"] * 10) + cached * 5 + written * 25
    return (total + 5) // 10


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
def test_every_round_is_priced_by_itself(tool_case: ToolCase, streamed: bool) -> None:
    response = tool_case.ask(streamed)
    row = _row(tool_case, response["id"])
    rounds = [attempt for attempt in row["attempts"] if attempt.get("usage")]
    assert len(rounds) == 2
    assert [attempt["cost_micros"] for attempt in rounds] == [_cost(attempt["usage"]) for attempt in rounds]
    assert row["cost_micros"] == sum(attempt["cost_micros"] for attempt in rounds) > 0
    assert "cost" not in tool_case.gateway.get(f"/responses/{response['id']}").text
    assert "cost" not in orjson.dumps(response).decode()


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
def test_an_ordinary_turn_and_a_compaction_are_priced(tool_case: ToolCase, streamed: bool) -> None:
    first = tool_case.ask(streamed, tools=[], input="Hello to you")
    assert _row(tool_case, first["id"])["cost_micros"] == _cost(first["usage"])
    entry = {"type": "compaction", "compact_threshold": 1, "keep_turns": 0}
    second = tool_case.ask(
        streamed, tools=[], input="And?", previous_response_id=first["id"], context_management=[entry]
    )
    assert kinds_of(second)[0] == "compaction"
    row = _row(tool_case, second["id"])
    passed = row["compaction"]
    assert passed["cost_micros"] == _cost(passed["usage"]) > 0
    # Usage covers both passes, and each of them has its rounding.
    assert abs(row["cost_micros"] - _cost(second["usage"])) <= 1


def test_sums_hold_the_costs_and_the_calls(tool_case: ToolCase, tool_server: ToolServer) -> None:
    gateway = tool_case.gateway
    token = gateway.new_token(f"spender-{tool_case.model}", "--tools", "*")
    answer = gateway.post("/responses", tool_case.body(input=ASK), token=token, headers={"User-Agent": "curl/8"})
    assert answer.status_code == 200, answer.text
    cost = _row(tool_case, answer.json()["id"])["cost_micros"]
    (group,) = [
        one
        for one in orjson.loads(gateway.command("usage", "--by", "token", "--json"))["usage"]
        if one["token"] == f"spender-{tool_case.model}"
    ]
    assert (group["requests"], group["cost_micros"], group["unpriced"]) == (1, cost, 0)
    calls = orjson.loads(gateway.command("usage", "--by", "tool", "--json"))["usage"]
    # One line for each server that has such a tool.
    assert {one["calls"] > 0 for one in calls if one["tool"] == "echo"} == {True}
    clients = orjson.loads(gateway.command("usage", "--by", "client", "--json"))
    assert "curl" in [one["client"] for one in clients["usage"]]
    assert clients["sampled"] is False
