"""Schemas without a union at their top accept what the union accepted."""

from __future__ import annotations

from typing import Any

import pytest

from app.formats._tool_schemas import follows_strict_rules, has_unions, make_plain, without_union

JSON = dict[str, Any]
TEXT: JSON = {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "plain"),
    [
        (
            {"type": "object", "properties": {"a": TEXT}, "anyOf": [{"required": ["a"]}, {"required": []}]},
            {"type": "object", "properties": {"a": TEXT}},
        ),
        (
            {
                "oneOf": [
                    {"properties": {"a": TEXT}, "required": ["a", "b"]},
                    {"properties": {"b": {}}, "required": ["b"]},
                ]
            },
            {"type": "object", "properties": {"a": TEXT, "b": {}}, "required": ["b"]},
        ),
        (
            {"required": ["a"], "allOf": [{"properties": {"a": TEXT}}, {"properties": {"b": {}}, "required": ["b"]}]},
            {"type": "object", "properties": {"a": TEXT, "b": {}}, "required": ["a", "b"]},
        ),
        (
            {"$defs": {"x": {"properties": {"a": TEXT}, "required": ["a"]}}, "anyOf": [{"$ref": "#/$defs/x"}]},
            {
                "$defs": {"x": {"properties": {"a": TEXT}, "required": ["a"]}},
                "type": "object",
                "properties": {"a": TEXT},
                "required": ["a"],
            },
        ),
        (
            {"anyOf": [{"oneOf": [{"properties": {"a": TEXT}}, {"properties": {"b": {}}}]}, {"properties": {"c": {}}}]},
            {"type": "object", "properties": {"a": TEXT, "b": {}, "c": {}}},
        ),
        ({"anyOf": [{"$ref": "#"}, {"$ref": "#/none"}, True, 1], "not": {}}, {"type": "object", "properties": {}}),
    ],
)
def test_the_branches_come_together(schema: JSON, plain: JSON) -> None:
    assert without_union(schema) == plain


def test_every_shape_of_a_tool_is_found() -> None:
    union: JSON = {"anyOf": [{"required": []}]}
    request: JSON = {
        "tools": [
            {"type": "function", "function": {"name": "chat", "parameters": dict(union)}},
            {"type": "function", "name": "responses", "parameters": dict(union), "description": "Looks."},
            {"name": "messages", "input_schema": dict(union)},
            {"type": "namespace", "tools": [{"type": "function", "name": "inner", "parameters": dict(union)}]},
            {"type": "web_search"},
        ]
    }
    assert has_unions(request)
    assert make_plain(request)
    assert not has_unions(request)
    assert not make_plain(request)
    assert request["tools"][1]["description"].startswith("Looks.\n\nThe arguments must also match")


@pytest.mark.parametrize(
    "request_", [{}, {"tools": None}, {"tools": [None, {}, {"function": None}, {"parameters": []}]}]
)
def test_a_request_without_schemas_stays(request_: JSON) -> None:
    assert not has_unions(request_)
    assert not make_plain(request_)


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "object", "properties": {"a": TEXT}, "required": ["a"], "additionalProperties": False}, True),
        ({"type": "object", "properties": {}, "additionalProperties": False}, True),
        ({"type": "object", "properties": {"a": TEXT}, "additionalProperties": False}, False),
        ({"type": "object", "properties": {"a": TEXT}, "required": ["a"]}, False),
        ({"type": "array", "items": {"type": "object"}}, False),
        (TEXT, True),
    ],
)
def test_strict_rules(schema: JSON, strict: bool) -> None:
    assert follows_strict_rules(schema) is strict
