"""A pass of the gateway, whose answer must call no tool: how a format says so without losing the upstream's cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from app import formats
from tests.formats.conversations import message_item, row, turn

TOOLS = [{"type": "function", "name": name, "parameters": {"type": "object"}} for name in ("look", "find")]
LOOK = {"type": "function", "name": "look"}
ALLOWED = {"type": "allowed_tools", "mode": "auto", "tools": [LOOK]}
REQUIRED = {"type": "allowed_tools", "mode": "required", "tools": [LOOK]}
SAYING_NONE: list[tuple[str, dict[str, Any]]] = [
    ("responses", {}),
    ("responses", {"tools": "functions"}),
    ("chat_completions", {}),
]


def sent(format_: str, choice: Any, *, forbids: bool, **keys: Any) -> dict[str, Any]:
    chosen = {} if choice is None else {"tool_choice": choice}
    request = replace(turn(message_item("user", "U"), tools=TOOLS, **chosen), forbids_calls=forbids)
    body: dict[str, Any] = orjson.loads(formats.load(format_).encode(request, row(**keys), "m"))
    return body


@pytest.mark.parametrize("choice", [None, "auto", "none", "required", LOOK, ALLOWED, REQUIRED])
@pytest.mark.parametrize(("format_", "keys"), SAYING_NONE)
def test_the_choice_is_none_and_nothing_else_changes(format_: str, keys: dict[str, Any], choice: Any) -> None:
    asked, forbidden = (sent(format_, choice, forbids=forbids, **keys) for forbids in (False, True))
    assert forbidden.pop("tool_choice") == "none"
    asked.pop("tool_choice", None)
    assert forbidden == asked


@pytest.mark.parametrize("choice", [None, "auto", "none", ALLOWED])
def test_a_choice_that_an_upstream_caches_stays(choice: Any) -> None:
    assert sent("messages", choice, forbids=True) == sent("messages", choice, forbids=False)


@pytest.mark.parametrize("choice", ["required", LOOK, REQUIRED])
def test_a_choice_that_demands_a_call_is_replaced(choice: Any) -> None:
    assert sent("messages", choice, forbids=True)["tool_choice"] == {"type": "none"}


@pytest.mark.parametrize("format_", ["responses", "chat_completions", "messages"])
def test_the_choice_of_one_turn_only_stays_in_it(format_: str) -> None:
    assert sent(format_, LOOK, forbids=False)["tool_choice"] != sent(format_, None, forbids=False).get("tool_choice")
