"""A token's budget that is spent while a turn runs its tools."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from app.store.token_counters import Counters
from tests.gateway import Gateway
from tests.relay.tools.conftest import ToolCase, kinds_of
from tests.relay.tools.test_rounds import either, forgetful, offers_none
from tests.store import rows
from tests.store.admitting import use_without_end

LIMIT, LEFT = 1000, 200


@pytest.fixture(scope="session")
def with_budget(_tool_cases: dict[str, ToolCase]) -> tuple[str, int]:
    """The secret and the key of a token with a budget."""
    gateway = next(iter(_tool_cases.values())).gateway
    options = ("--tools", "*", "--budget", f"{LIMIT}tok/day", "--json")
    made = orjson.loads(gateway.command("tokens", "create", "with-budget", *options))
    return made["token"], made["id"]


def spend(gateway: Gateway, key: int, tokens: int) -> None:
    """Makes the token's counters what it has used so far."""
    rows.execute(gateway.database_url, f"DELETE FROM token_use WHERE token = {key}")
    use_without_end(gateway.database_url, key, Counters(day_tokens=tokens))


@either
def test_a_turn_whose_budget_is_spent_is_asked_once_more_without_tools(
    tool_case: ToolCase, with_budget: tuple[str, int], streamed: bool
) -> None:
    secret, key = with_budget
    spend(tool_case.gateway, key, LIMIT - LEFT)
    tool_case.upstream.always(forgetful(), *tool_case.dialect)
    response = replace(tool_case, token=secret).ask(streamed)
    assert response["status"] == "completed"
    exchanges = len(tool_case.upstream.bodies)
    assert 2 <= exchanges < 33
    assert kinds_of(response).count("mcp_call") == exchanges - 1
    assert offers_none(tool_case.upstream.bodies[-1])
    assert tool_case.upstream.bodies[-2]["tools"]
    query = f"SELECT day_tokens, running FROM token_use WHERE token = {key}"
    used = LIMIT - LEFT + response["usage"]["total_tokens"]
    assert used >= LIMIT
    assert rows.execute(tool_case.gateway.database_url, query) == [(used, 0)]
