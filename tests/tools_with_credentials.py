"""Tools with credentials, in all places where a client can put them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

JSON = dict[str, Any]

CANARY = "canary-credential"

_URL = f"https://user:{CANARY}@example.org/mcp?key={CANARY}#{CANARY}"
MCP: JSON = {
    "type": "mcp",
    "server_label": "docs",
    "server_url": _URL,
    "authorization": CANARY,
    "headers": {"Authorization": f"Bearer {CANARY}", "X-Key": CANARY},
}
_POLICY = {"type": "allowlist", "domain_secrets": [{"domain": "example.org", "name": "n", "value": CANARY}]}
_CONTAINER = {"type": "container_auto", "network_policy": _POLICY}
_WITH_CREDENTIALS: list[JSON] = [
    MCP,
    {"type": "something_new", "authorization": CANARY, "headers": {"a": CANARY}},
    {"type": "shell", "environment": _CONTAINER},
    {"type": "code_interpreter", "container": {"type": "auto", "network_policy": _POLICY}},
]
_SCHEMA = {"type": "object", "properties": {"headers": {"type": "object"}, "authorization": {"type": "string"}}}
#: Tools without credentials that look as if they had some.
WITHOUT_CREDENTIALS: list[JSON] = [
    {"type": "function", "name": "fetch", "parameters": _SCHEMA},
    {"type": "namespace", "name": "web", "tools": [{"type": "function", "name": "fetch", "parameters": _SCHEMA}]},
    {"type": "mcp", "server_label": "docs", "server_url": "https://example.org/mcp", "allowed_tools": ["headers"]},
]


def tools() -> st.SearchStrategy[JSON]:
    """One tool, or one with others inside it."""
    return st.recursive(st.sampled_from([*_WITH_CREDENTIALS, *WITHOUT_CREDENTIALS]), _inside, max_leaves=4)


def _inside(inner: st.SearchStrategy[JSON]) -> st.SearchStrategy[JSON]:
    within = st.lists(inner, min_size=1, max_size=2)
    return st.one_of(
        within.map(lambda found: {"type": "namespace", "name": "n", "description": "d", "tools": found}),
        within.map(lambda found: {"type": "toolkit", "parts": {"tools": found}}),
    )


_ITEMS: list[Callable[[list[JSON]], JSON]] = [
    lambda found: {"type": "additional_tools", "role": "developer", "tools": found},
    lambda found: {"type": "tool_search_output", "tools": found},
    lambda found: {"type": "something_new", "id": "new_1", "tools": found},
    lambda found: {"type": "something_new", "found": [{"within": {"tools": found}}, MCP]},
]


def items() -> st.SearchStrategy[JSON]:
    """One item that brings tools."""
    return st.builds(lambda make, found: make(found), st.sampled_from(_ITEMS), st.lists(tools(), max_size=2))


def choices() -> st.SearchStrategy[JSON]:
    """A `tool_choice` with more in it than a choice needs."""
    allowed = st.lists(tools(), min_size=1, max_size=2)
    return st.one_of(st.just(MCP), allowed.map(lambda found: {"type": "allowed_tools", "mode": "auto", "tools": found}))
