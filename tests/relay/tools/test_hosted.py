"""A hosted tool that a tool of a server fulfils: what the model writes, and what the server is sent."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app.contract.tools import ListedTool
from app.relay.tools.hosted import HostedSearch

JSON = dict[str, Any]
TEXT = {"type": "string"}
NUMBER = {"type": "integer"}
SIMPLE = {"type": "object", "properties": {"query": TEXT}, "required": ["query"]}


def search(properties: JSON, required: list[str] | None = None, **settings: Any) -> HostedSearch:
    schema = {"type": "object", "properties": properties} | ({"required": required} if required else {})
    return HostedSearch("web_search", ListedTool("find", "", schema), {"type": "web_search", **settings})


@pytest.mark.parametrize(
    ("properties", "required", "sent"),
    [
        ({"query": TEXT}, ["query"], {"query": "cats"}),
        ({}, None, {"query": "cats"}),
        ({"limit": NUMBER, "q": TEXT}, ["q"], {"q": "cats"}),
        ({"queries": {"type": "array", "items": TEXT}}, ["queries"], {"queries": ["cats"]}),
        ({"limit": NUMBER, "phrase": TEXT, "site": TEXT}, ["phrase"], {"phrase": "cats"}),
        ({"limit": NUMBER, "words": TEXT}, None, {"words": "cats"}),
    ],
)
def test_the_model_writes_a_query_and_the_server_gets_it_under_its_own_name(
    properties: JSON, required: list[str] | None, sent: JSON
) -> None:
    tool = search(properties, required)

    assert tool.parameters["properties"].keys() == {"query"}
    assert tool.parameters["required"] == ["query"]
    assert orjson.loads(tool.arguments('{"query": "cats"}')) == sent
    assert tool.query('{"query": "cats"}') == "cats"


def test_a_tool_that_requires_more_is_offered_whole() -> None:
    properties = {"query": TEXT, "index": TEXT}
    tool = search(properties, ["query", "index"])

    assert tool.parameters["properties"] == properties
    written = '{"query": "cats", "index": "animals"}'
    assert orjson.loads(tool.arguments(written)) == {"query": "cats", "index": "animals"}
    assert tool.query(written) == "cats"


def test_the_clients_settings_go_along_where_the_tool_has_such_parameters() -> None:
    place = {"type": "approximate", "city": "Oslo"}
    tool = search(
        {"query": TEXT, "user_location": {"type": "object"}, "allowed_domains": {"type": "array"}},
        ["query", "allowed_domains"],
        user_location=place,
        search_context_size="low",
        filters={"allowed_domains": ["a.no"], "blocked_domains": ["b.no"]},
    )

    assert tool.parameters["properties"].keys() == {"query"}
    assert orjson.loads(tool.arguments('{"query":"cats"}')) == {
        "query": "cats",
        "user_location": place,
        "allowed_domains": ["a.no"],
    }
    assert tool.dropped == ("blocked_domains", "search_context_size")


@pytest.mark.parametrize("written", ["cats", "[]", "", '{"query": "ca'])
def test_arguments_that_are_no_object_stay_as_they_are(written: str) -> None:
    tool = HostedSearch("web_search", ListedTool("find", "", SIMPLE), {})

    assert tool.arguments(written) == written
    assert tool.query(written) == written


@pytest.mark.parametrize(
    "schema",
    [{}, {"properties": None}, {"properties": [1], "required": "query"}, {"required": [], "properties": {"a": 1}}],
)
def test_a_schema_of_any_shape_is_survived(schema: JSON) -> None:
    tool = HostedSearch("file_search", ListedTool("find", "", schema), {"type": "file_search"})

    assert tool.parameters["properties"].keys() == {"query"}
    assert orjson.loads(tool.arguments('{"query":"cats"}')) == {"query": "cats"}
