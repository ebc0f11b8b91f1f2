"""Turns whose tools the gateway runs: one response, however many exchanges."""

from __future__ import annotations

import pytest

from tests.relay.tools.conftest import ToolCase


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
def test_a_call_runs_and_the_model_answers_with_its_result(tool_case: ToolCase, streamed: bool) -> None:
    response = tool_case.ask(streamed)
    kinds = [item["type"] for item in response["output"] if item["type"] != "reasoning"]
    assert kinds == ["mcp_list_tools", "mcp_call", "message"], response
