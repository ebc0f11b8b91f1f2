"""Compactions of conversations with tools that the gateway runs."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.relay.tools.conftest import ToolCase, kinds_of, mcp
from tests.upstream_formats import lines

JSON = dict[str, Any]
FILLER = " and there was much more about it" * 100
DUE = [{"type": "compaction", "compact_threshold": 100}]
either = pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])


def no_upstream_has_heard_of_servers(tool_case: ToolCase) -> bool:
    return not any(b'"mcp"' in orjson.dumps(body) or b"server_label" in orjson.dumps(body) for body in tool_case.bodies)


@either
def test_a_due_compaction_comes_before_the_calls(tool_case: ToolCase, streamed: bool) -> None:
    first = tool_case.ask(streamed, input=f"What is the weather?{FILLER}")
    second = tool_case.ask(streamed, previous_response_id=first["id"], context_management=DUE)
    assert kinds_of(second) == ["compaction", "mcp_call", "message"]
    assert no_upstream_has_heard_of_servers(tool_case)
    tool_case.upstream.reset()
    third = tool_case.ask(streamed, previous_response_id=second["id"], input="And now?")
    assert kinds_of(third) == ["message"]
    assert ("output", "Oslo") in lines(tool_case.bodies[-1])


@either
def test_a_compaction_that_is_asked_for_knows_the_calls(tool_case: ToolCase, streamed: bool) -> None:
    first = tool_case.ask(streamed)
    trigger = [{"type": "compaction_trigger"}]
    compacted = tool_case.ask(streamed, previous_response_id=first["id"], input=trigger)
    assert kinds_of(compacted) == ["compaction"]
    assert ("output", "Oslo") in lines(tool_case.bodies[-1])
    assert no_upstream_has_heard_of_servers(tool_case)


def test_a_compaction_does_without_a_server_that_is_gone(tool_case: ToolCase) -> None:
    first = tool_case.create()
    keys: JSON = {"previous_response_id": first["id"], "tools": [mcp(label="gone")]}
    assert kinds_of(tool_case.create(**keys, input=[{"type": "compaction_trigger"}])) == ["compaction"]
    window = tool_case.gateway.post("/responses/compact", {"model": tool_case.model, **keys})
    assert window.status_code == 200, window.text
    assert no_upstream_has_heard_of_servers(tool_case)


@either
def test_a_compaction_is_answered_with_tools(tool_case: ToolCase, streamed: bool) -> None:
    first = tool_case.create()
    tool_case.upstream.reset()
    tool_case.upstream.always(*tool_case.dialect)
    body = tool_case.body(previous_response_id=first["id"], input="What is the weather?", stream=streamed)
    answer = tool_case.gateway.post("/responses/compact", body)
    assert answer.status_code == 200, answer.text
    assert b'"mcp_call"' in answer.content
    assert b'"compaction"' in answer.content
