"""A forced call together with `text.format`: the request to the upstream has the call alone."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app import formats
from tests.formats.conversations import TRANSLATING, message_item, row, turn

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "name": "City", "parameters": SCHEMA, "strict": True},
    {"type": "custom", "name": "patch"},
    {"type": "namespace", "name": "geo", "description": "d", "tools": [{"type": "function", "name": "find"}]},
    {"type": "web_search"},
]
FORMS: list[dict[str, Any]] = [
    {"type": "json_schema", "name": "x", "schema": {**SCHEMA, "title": "wanted"}, "strict": True},
    {"type": "json_schema", "name": "x", "schema": {**SCHEMA, "title": "wanted"}},
    {"type": "json_object"},
]
CITY = {"type": "function", "name": "City"}
FORCED: list[Any] = [
    CITY,
    {"type": "custom", "name": "patch"},
    {"type": "function", "name": "find", "namespace": "geo"},
    "required",
    {"type": "allowed_tools", "mode": "required", "tools": [CITY]},
]
FREE: list[Any] = [
    None,
    "auto",
    "none",
    {"type": "allowed_tools", "mode": "auto", "tools": [CITY]},
    {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]},
]

everywhere = pytest.mark.parametrize("name", TRANSLATING)
every_form = pytest.mark.parametrize("form", FORMS)


def sent(name: str, form: dict[str, Any], choice: Any, *items: Any) -> dict[str, Any]:
    request = {"tools": TOOLS, "text": {"format": form}} | ({"tool_choice": choice} if choice else {})
    return dict(
        orjson.loads(formats.load(name).encode(turn(*items, message_item("user", "U"), **request), row(), "up"))
    )


def wants_form(body: dict[str, Any]) -> bool:
    enforced = "response_format" in body or "format" in body.get("output_config", {})
    return enforced or "JSON" in orjson.dumps(body.get("system", "")).decode()


@everywhere
@every_form
@pytest.mark.parametrize("choice", FORCED)
def test_a_forced_call_goes_without_the_form(name: str, form: dict[str, Any], choice: Any) -> None:
    body = sent(name, form, choice)
    assert body["tools"]
    assert body["tool_choice"]
    assert not wants_form(body)


@everywhere
@every_form
@pytest.mark.parametrize("choice", FREE)
def test_a_call_that_may_be_made_goes_with_it(name: str, form: dict[str, Any], choice: Any) -> None:
    assert wants_form(sent(name, form, choice))


@everywhere
def test_a_form_that_the_context_has_set_is_left_out_as_well(name: str) -> None:
    update = {"type": "configuration_update", "text": {"format": FORMS[0]}}
    for choice in (CITY, None):
        request = {"tools": TOOLS} | ({"tool_choice": choice} if choice else {})
        whole = turn(update, message_item("user", "U"), **request)
        body = orjson.loads(formats.load(name).encode(whole, row(), "up"))
        assert wants_form(body) == (choice is None)
