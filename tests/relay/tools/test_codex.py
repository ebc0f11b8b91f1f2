"""Requests as Codex sends them, with `web_search` in each: the search runs where the operator has mapped it and the
token may use it; elsewhere an upstream that knows it gets it, and no other. The client keeps the conversation and sends
back what it was given.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.codex import EXEC
from tests.relay.tools.conftest import ToolCase, kinds_of
from tests.response_contract import check_stream
from tests.upstream_formats import lines

JSON = dict[str, Any]
SEARCH: JSON = {"type": "web_search", "external_web_access": False}
FOUND = "1 page about Oslo: https://docs.example/antiphon"


def turn(case: ToolCase, history: list[JSON], tools: list[JSON], token: str | None = None) -> tuple[JSON, Any]:
    """The response to the history, and the headers."""
    body: JSON = {
        "model": case.model,
        "instructions": "Be brief.",
        "input": history,
        "tools": tools,
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "client_metadata": {"session_id": "s"},
    }
    answer = case.gateway.stream(body, token=token)
    assert answer.status_code == 200, answer.text
    return dict(check_stream(answer.content)[-1]["response"]), answer.headers


def said(text: str) -> JSON:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def test_a_mapped_search_runs_and_the_next_turn_knows_it(tool_case: ToolCase) -> None:
    history = [said("What is the weather?")]
    response, _ = turn(tool_case, history, [SEARCH, EXEC])
    assert kinds_of(response) == ["web_search_call", "message"]
    assert ("output", FOUND) in lines(tool_case.bodies[-1])
    offered = str([body["tools"] for body in tool_case.bodies])
    assert "exec_command" in offered
    assert "external_web_access" not in offered
    # The client sends the item back; it holds no result, and nothing is stored.
    history += [*response["output"], said("And now?")]
    again, _ = turn(tool_case, history, [SEARCH, EXEC])
    assert again["status"] == "completed"
    assert ("user", "And now?") in lines(tool_case.bodies[-1])


@pytest.fixture
def without_tools(tool_case: ToolCase) -> str:
    return tool_case.gateway.new_token(f"plain-{tool_case.model}")


def test_the_gateway_runs_no_search_for_a_token_without_tools(tool_case: ToolCase, without_tools: str) -> None:
    before = len(tool_case.server.calls)
    response, headers = turn(tool_case, [said("Hello")], [SEARCH], without_tools)
    assert kinds_of(response) == ["message"]
    assert [tool["type"] for tool in response["tools"]] == ["web_search"]
    assert len(tool_case.server.calls) == before
    if tool_case.model in ("chat", "messages"):
        assert headers["X-Antiphon-Dropped-Tools"] == "web_search"
