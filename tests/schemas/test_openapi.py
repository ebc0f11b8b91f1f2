"""The description of the API and the checks of requests say the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Any

import jsonschema
import orjson
import pytest
from openapi_spec_validator import validate

from app import __version__
from app.contract.items import TYPES
from app.errors import InvalidRequest
from app.schemas.chat import read_chat
from app.schemas.conversations import read_added_items, read_conversation
from app.schemas.create import read_create
from app.schemas.items import ITEMS as CHECKED_ITEMS
from app.schemas.items import read_input
from app.schemas.openapi import OPERATIONS, document, encoded
from tests.endpoints.vocabulary import ITEMS, PIXEL, WEATHER
from tests.gateway import ROOT

JSON = dict[str, Any]

#: What clients send: one item of every type in every form.
EXAMPLES = [pytest.param(items, id=name) for name, items in ITEMS.items()]

#: Every parameter of the SDK's method at once.
EVERYTHING: JSON = {
    "background": True,
    "context_management": [{"type": "compaction", "compact_threshold": 1000}],
    "conversation": {"id": "conv_1"},
    "include": ["file_search_call.results", "message.output_text.logprobs"],
    "input": "Hello",
    "instructions": "Be brief.",
    "max_output_tokens": 16,
    "max_tool_calls": 3,
    "metadata": {"topic": "demo"},
    "model": "demo",
    "parallel_tool_calls": True,
    "prompt": {"id": "pmpt_1", "variables": {"name": "Ada"}, "version": "1"},
    "prompt_cache_key": "key",
    "prompt_cache_retention": "24h",
    "reasoning": {"effort": "low", "generate_summary": "auto", "summary": "auto"},
    "safety_identifier": "id",
    "service_tier": "auto",
    "store": True,
    "stream": False,
    "stream_options": {"include_obfuscation": True},
    "temperature": 1,
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": None}, "verbosity": "low"},
    "tool_choice": {"type": "function", "name": "get_weather"},
    "tools": [WEATHER, {"type": "web_search"}, {"type": "custom", "name": "c", "format": {"type": "text"}}],
    "top_logprobs": 0,
    "top_p": 1,
    "truncation": "auto",
    "user": "ada",
}

#: Each parameter in its other forms.
FORMS: list[JSON] = [
    {"input": [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": PIXEL}]},
    {"instructions": {"text": "Be brief."}},
    {"instructions": {"content": [{"type": "input_text", "text": "Be brief."}]}},
    {"conversation": "conv_1"},
    {"previous_response_id": "resp_1"},
    {"truncation": {"type": "disabled"}},
    {"context_management": {"compact_threshold": 5, "strategy": "trim"}},
    {"context_management": [{"type": "something_new", "compact_threshold": "many"}]},
    {"text": {"format": {"type": "json_object"}}},
    {"tool_choice": "required", "tools": [WEATHER]},
    {"tool_choice": {"type": "web_search"}, "tools": [{"type": "web_search"}]},
    {
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        "tools": [{"type": "function", "name": "f"}],
    },
    {"tools": [{"type": "namespace", "name": "n", "tools": [WEATHER]}]},
    {"tools": [{"type": "mcp", "server_label": "docs", "server_url": "https://example.com/mcp"}]},
    {"temperature": None, "input": "a", "metadata": None, "new_parameter": [1]},
]

WRONG: list[JSON] = [
    {"model": ""},
    {"input": []},
    {"input": ""},
    {"input": [{"type": "message", "role": "robot", "content": "a"}]},
    {"input": [{"type": "message", "role": "user", "content": [{"type": "input_text"}]}]},
    {"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]},
    {"temperature": 3},
    {"temperature": "1"},
    {"top_logprobs": 21},
    {"store": "yes"},
    {"metadata": {"a": 1}},
    {"metadata": {"a" * 65: "b"}},
    {"include": ["everything"]},
    {"tools": [{"name": "f"}]},
    {"tools": [{"type": "function", "name": "a b"}]},
    {"text": {"format": {"type": "json_schema", "name": "n"}}},
    {"conversation": "resp_1"},
    {"max_output_tokens": 0},
    {"context_management": [{"type": "compaction", "compact_threshold": 0}]},
]


@cache
def described() -> JSON:
    parsed: JSON = orjson.loads(encoded(__version__))
    return parsed


@cache
def schema(name: str) -> jsonschema.Draft202012Validator:
    whole = {"$ref": f"#/components/schemas/{name}", "components": described()["components"]}
    return jsonschema.Draft202012Validator(whole)


def is_accepted(check: Callable[[Any], Any], value: Any) -> bool:
    try:
        check(copy.deepcopy(value))
    except InvalidRequest:
        return False
    return True


def test_the_document_is_valid_openapi() -> None:
    validate(document(__version__))


def test_the_served_file_is_current() -> None:
    """`make openapi` writes it."""
    assert (ROOT / "app" / "web" / "static" / "openapi.json").read_bytes() == encoded(__version__)


def test_every_item_of_the_contract_that_has_a_check_is_described_by_name() -> None:
    names = described()["components"]["schemas"]
    for kind in CHECKED_ITEMS:
        assert "".join(word.capitalize() for word in kind.split("_")) + "Item" in names
    unchecked = {kind for kind in TYPES if kind not in CHECKED_ITEMS}
    assert unchecked == {"compaction_trigger"}


@pytest.mark.parametrize("operation", [pytest.param(one, id=f"{one.method} {one.path}") for one in OPERATIONS])
def test_the_examples_fit_their_schemas(operation: Any) -> None:
    if operation.body:
        schema(operation.body).validate(dict(operation.example))


@pytest.mark.parametrize("items", EXAMPLES)
def test_items_of_clients_fit_the_description(items: list[JSON]) -> None:
    read_input(copy.deepcopy(items))
    for item in items:
        schema("InputItem").validate(item)
    schema("CreateResponse").validate({"model": "demo", "input": items})


def test_every_parameter_of_the_sdk_fits_the_description() -> None:
    read_create(copy.deepcopy(EVERYTHING))
    schema("CreateResponse").validate(EVERYTHING)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: orjson.dumps(form).decode()[:60])
def test_other_forms_of_parameters_fit_the_description(form: JSON) -> None:
    body = {"model": "demo", "input": "a", **form}
    read_create(copy.deepcopy(body))
    schema("CreateResponse").validate(body)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: orjson.dumps(wrong).decode()[:60])
def test_what_is_refused_does_not_fit_the_description(wrong: JSON) -> None:
    body = {"model": "demo", "input": "a", **wrong}
    assert not is_accepted(read_create, body)
    assert not schema("CreateResponse").is_valid(body)


# --- any change of what is valid --------------------------------------------------------------------------------

VALUES: list[Any] = [None, True, 0, -1, 0.5, "", "x", [], ["a"], [{}], {}, {"a": "b"}, {"type": ["x"]}]

#: Members of which one of several must be there: such a rule is no part of the description.
ALTERNATIVES = {"image_url", "file_id", "file_data", "call_id", "server_url"}


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of all members within a value."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from places(inner, (*path, key))


def changed(value: Any, path: tuple[str | int, ...], replacement: Any) -> Any:
    copied = copy.deepcopy(value)
    owner = copied
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = replacement
    return copied


@pytest.mark.parametrize("items", EXAMPLES)
def test_a_changed_member_is_accepted_by_both_or_by_none(items: list[JSON]) -> None:
    for path, value in product(places(items), VALUES):
        mutated = changed(items, path, value)
        accepted = is_accepted(read_input, mutated)
        fits = schema("CreateResponse").is_valid({"model": "demo", "input": mutated})
        assert accepted == fits or (fits and value is None and path[-1] in ALTERNATIVES), (path, value)


@pytest.mark.parametrize("form", [EVERYTHING, *FORMS], ids=lambda form: orjson.dumps(form).decode()[:60])
def test_a_changed_parameter_is_accepted_by_both_or_by_none(form: JSON) -> None:
    body = {"model": "demo", "input": "a", **form}
    for path, value in product(places(body), VALUES):
        mutated = changed(body, path, value)
        accepted = is_accepted(read_create, mutated)
        fits = schema("CreateResponse").is_valid(mutated)
        # That a choice names one of the tools, and that there is an input, are rules between parameters.
        between = path[0] in ("tools", "tool_choice", "input", "model") or path[-1] in ALTERNATIVES
        assert accepted == fits or (fits and between), (path, value)


@pytest.mark.parametrize(
    ("name", "read", "body"),
    [
        ("CreateConversation", read_conversation, {"items": [{"role": "user", "content": "a"}], "metadata": {}}),
        ("CreateConversation", read_conversation, {"items": None, "metadata": None}),
        ("AddItems", read_added_items, {"items": [{"role": "user", "content": "a"}]}),
        ("CreateChatCompletion", read_chat, {"model": "demo", "messages": [{"role": "user", "content": "a"}]}),
    ],
)
def test_other_bodies_fit_the_description(name: str, read: Callable[[Any], Any], body: JSON) -> None:
    read(copy.deepcopy(body))
    schema(name).validate(body)
