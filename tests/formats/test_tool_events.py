"""The events of items whose tools the client does not run, as the contract orders them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app.formats import Emitter
from tests.sse_reader import Reader

JSON = dict[str, Any]
CALL: JSON = {
    "id": "mcp_1",
    "type": "mcp_call",
    "status": "completed",
    "approval_request_id": None,
    "arguments": '{"q": "x"}',
    "error": None,
    "name": "search",
    "output": "found",
    "server_label": "docs",
}
ERROR = {"type": "http_error", "code": 502, "message": "no"}
LIST: JSON = {"id": "mcpl_1", "type": "mcp_list_tools", "server_label": "docs", "tools": [{"name": "search"}]}
SEARCH: JSON = {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"type": "search"}}
FILES: JSON = {"id": "fs_1", "type": "file_search_call", "status": "completed", "queries": ["q"], "results": []}
REQUEST: JSON = {"id": "mcpr_1", "type": "mcp_approval_request", "arguments": "{}", "name": "a", "server_label": "b"}
ARGUMENTS = ["mcp_call_arguments.delta", "mcp_call_arguments.delta", "mcp_call_arguments.done"]


@pytest.mark.parametrize(
    ("item", "announced", "steps"),
    [
        (
            CALL,
            {**CALL, "status": "in_progress", "arguments": "", "output": None},
            ["mcp_call.in_progress", *ARGUMENTS, "mcp_call.completed"],
        ),
        (
            {**CALL, "status": "failed", "output": None, "error": ERROR},
            {**CALL, "status": "in_progress", "arguments": "", "output": None},
            ["mcp_call.in_progress", *ARGUMENTS, "mcp_call.failed"],
        ),
        (LIST, {**LIST, "tools": []}, ["mcp_list_tools.in_progress", "mcp_list_tools.completed"]),
        (
            {**LIST, "tools": [], "error": "gone"},
            {**LIST, "tools": []},
            ["mcp_list_tools.in_progress", "mcp_list_tools.failed"],
        ),
        (
            SEARCH,
            {"id": "ws_1", "type": "web_search_call", "status": "in_progress"},
            [f"web_search_call.{step}" for step in ("in_progress", "searching", "completed")],
        ),
        (
            {**FILES, "status": "failed"},
            {**FILES, "status": "in_progress", "queries": [], "results": None},
            ["file_search_call.in_progress", "file_search_call.searching"],
        ),
        (REQUEST, REQUEST, []),
    ],
)
def test_an_item_of_a_tool_has_the_steps_of_its_tool(item: JSON, announced: JSON, steps: list[str]) -> None:
    emitter = Emitter(7, 3)
    added, *between, done = (orjson.loads(event.data) for event in Reader().feed(b"".join(emitter.item(item))))
    assert (added["item"], done["item"]) == (announced, item)
    assert [event["type"] for event in between] == [f"response.{step}" for step in steps]
    assert all(event["item_id"] == item["id"] for event in between)
    assert {event["output_index"] for event in (added, *between, done)} == {3}
    assert (emitter.output_index, emitter.sequence) == (4, 7 + 2 + len(steps))
