"""Credentials of tools are removed wherever a tool can stand, and nothing else is removed."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.redaction import redacted_item, redacted_items, redacted_request, redacted_tool
from tests.tools_with_credentials import CANARY, WITHOUT_CREDENTIALS, items, tools

JSON = dict[str, Any]


@given(tools())
def test_no_credential_of_a_tool_stays(tool: JSON) -> None:
    before = orjson.dumps(tool)
    assert CANARY.encode() not in orjson.dumps(redacted_tool(tool))
    assert orjson.dumps(tool) == before


@given(items())
def test_no_credential_of_an_item_stays(item: JSON) -> None:
    assert CANARY.encode() not in orjson.dumps(redacted_item(item))


@given(st.fixed_dictionaries({"tools": st.lists(tools()), "tool_choice": tools(), "input": st.lists(items())}))
def test_no_credential_of_a_request_stays(request: JSON) -> None:
    assert CANARY.encode() not in orjson.dumps(redacted_request(request))


@pytest.mark.parametrize("tool", WITHOUT_CREDENTIALS)
def test_text_that_is_no_credential_stays(tool: JSON) -> None:
    assert redacted_tool(tool) == tool
    item = {"type": "additional_tools", "role": "developer", "tools": [tool]}
    assert redacted_item(item) is item


def test_items_without_tools_are_left_as_they_are() -> None:
    spoken = [{"type": "message", "role": "user", "content": "authorization"}, {"type": "reasoning", "summary": []}]
    assert redacted_items(spoken) is spoken


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.org/mcp", "https://example.org/mcp"),
        ("https://user:key@example.org:8443/mcp?key=1&x=2#part", "https://example.org:8443/mcp"),
        ("https://key@[::1]:80/", "https://[::1]:80/"),
        ("https://example.org?key=1", "https://example.org"),
        ("https://[", ""),
        ("", ""),
    ],
)
def test_an_address_keeps_its_host_and_path_alone(url: str, shown: str) -> None:
    assert redacted_tool({"type": "mcp", "server_label": "s", "server_url": url})["server_url"] == shown
