"""Schemas without references accept what the references named."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.formats._schema_references import has_references, inlined, make_inlined

JSON = dict[str, Any]
TEXT: JSON = {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (
            {"$defs": {"a": TEXT}, "type": "object", "properties": {"x": {"$ref": "#/$defs/a", "description": "d"}}},
            {"type": "object", "properties": {"x": {"type": "string", "description": "d"}}},
        ),
        (
            {"definitions": {"a": {"items": {"$ref": "#/definitions/b"}}, "b": TEXT}, "$ref": "#/definitions/a"},
            {"items": TEXT},
        ),
        (
            {"properties": {"a": TEXT, "b": {"anyOf": [{"$ref": "#/properties/a"}, 7]}}},
            {"properties": {"a": TEXT, "b": {"anyOf": [TEXT, 7]}}},
        ),
        (
            {
                "$defs": {"n": {"properties": {"next": {"$ref": "#/$defs/n"}}}},
                "properties": {"n": {"$ref": "#/$defs/n"}},
            },
            {"properties": {"n": {"properties": {"next": {}}}}},
        ),
        (
            {"properties": {"a": {"$ref": "#/none"}, "b": {"$ref": "https://x.test/s"}}},
            {"properties": {"a": {}, "b": {}}},
        ),
        ({"properties": {"$ref": TEXT}}, {"properties": {"$ref": TEXT}}),
    ],
)
def test_what_a_reference_names_stands_in_its_place(schema: JSON, expected: JSON) -> None:
    before = copy.deepcopy(schema)

    assert inlined(schema) == expected
    assert schema == before


def test_definitions_that_name_each_other_do_not_grow_without_end() -> None:
    names = [f"d{number}" for number in range(20)]
    definitions = {
        name: {"properties": {other: {"$ref": f"#/$defs/{other}"} for other in names if other != name}}
        for name in names
    }
    schema = inlined({"$defs": definitions, "properties": {"a": {"$ref": "#/$defs/d0"}}})

    assert len(orjson.dumps(schema)) < 1_000_000
    assert not has_references({"tools": [{"parameters": schema}]})


NODES = st.recursive(
    st.sampled_from([TEXT, {"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}, {"$ref": "#"}, {"$ref": "#/$defs/none/x"}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["items", "anyOf", "x"]), inner),
    max_leaves=6,
)


@given(NODES, NODES, NODES)
def test_no_reference_is_left(a: Any, b: Any, value: Any) -> None:
    schema = {"$defs": {"a": a, "b": b}, "type": "object", "properties": {"value": value}}
    request: JSON = {"tools": [{"type": "function", "name": "f", "parameters": schema}]}
    had = has_references(request)

    assert make_inlined(request) == had or not had
    assert not has_references(request)
    assert not make_inlined(request)
