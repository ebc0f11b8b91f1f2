"""Tools and tool choices that pass, and the sentences that refuse the others."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.schemas.create import read_create
from app.schemas.fields import Violation
from app.schemas.tools import check_tool_choice, check_tools

FUNCTION = {"type": "function", "name": "get_weather"}
MCP = {"type": "mcp", "server_label": "docs"}


def read_tools(value: object, param: str = "tools") -> object:
    """The tools as they came, or the error that a client reads."""
    try:
        check_tools(value)
    except Violation as fault:
        raise fault.at(param) from None
    return value


def read_tool_choice(value: object) -> object:
    try:
        check_tool_choice(value)
    except Violation as fault:
        raise fault.at("tool_choice") from None
    return value


def missing(param: str) -> str:
    return f"Missing required parameter: '{param}'."


def wrong_type(param: str, expected: str, got: str) -> str:
    return f"Invalid type for '{param}': expected {expected}, but got {got} instead."


def namespace(*tools: Any) -> dict[str, Any]:
    return {"type": "namespace", "name": "agents", "description": "d", "tools": list(tools)}


@pytest.mark.parametrize(
    "tools",
    [
        [],
        [FUNCTION],
        [{**FUNCTION, "description": None, "parameters": None, "strict": None}],
        [{**FUNCTION, "description": "d", "parameters": {"type": "object"}, "strict": True, "defer_loading": True}],
        [{"type": "custom", "name": "apply_patch"}],
        [{"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "lark", "definition": "start: A"}}],
        [{"type": "custom", "name": "c", "format": {"type": "text"}}],
        [{"type": "custom", "name": "c", "format": None}],
        [namespace()],
        [namespace(FUNCTION, {"type": "custom", "name": "c"}, {"type": "later"})],
        [{**MCP, "server_url": "https://mcp.example/sse", "headers": {"X": "y"}, "authorization": "t"}],
        [{**MCP, "connector_id": "connector_dropbox"}],
        [{**MCP, "tunnel_id": f"tunnel_{'0a' * 16}"}],
        [MCP],
        [{**MCP, "allowed_tools": ["a"], "require_approval": "never", "server_description": "d"}],
        [{**MCP, "allowed_tools": {"tool_names": ["a"], "read_only": None}, "require_approval": {"never": {}}}],
        [{**MCP, "require_approval": {"always": {"read_only": True}, "never": ["a"], "later": 7}}],
        [{**MCP, "allowed_tools": None, "headers": None, "require_approval": None, "authorization": None}],
        [{**MCP, "defer_loading": True, "allowed_callers": ["direct"]}],
        [{"type": "web_search", "external_web_access": False}],
        [{"type": "invented_next_year", "name": 7}],
    ],
)
def test_tools_that_pass_come_back_as_they_are(tools: list[Any]) -> None:
    before = copy.deepcopy(tools)

    assert read_tools(tools) is tools
    assert tools == before


@pytest.mark.parametrize(
    ("tools", "code", "param", "message"),
    [
        ("x", "invalid_type", "tools", wrong_type("tools", "an array of objects", "a string")),
        ({"type": "function"}, "invalid_type", "tools", wrong_type("tools", "an array of objects", "an object")),
        ([FUNCTION, 7], "invalid_type", "tools[1]", wrong_type("tools[1]", "an object", "an integer")),
        ([{}], "missing_required_parameter", "tools[0].type", missing("tools[0].type")),
        ([{"type": None}], "invalid_type", "tools[0].type", wrong_type("tools[0].type", "a string", "null")),
        (
            [{"type": ["function"]}],
            "invalid_type",
            "tools[0].type",
            wrong_type("tools[0].type", "a string", "an array"),
        ),
        (
            [FUNCTION, FUNCTION, {"type": "function", "function": {"name": "chat_shape"}}],
            "missing_required_parameter",
            "tools[2].name",
            missing("tools[2].name"),
        ),
        (
            [{"type": "function", "name": ""}],
            "empty_string",
            "tools[0].name",
            "Invalid 'tools[0].name': empty string. Expected a string with minimum length 1, "
            "but got an empty string instead.",
        ),
        (
            [{"type": "function", "name": "get weather"}],
            "invalid_value",
            "tools[0].name",
            "Invalid 'tools[0].name': string does not match pattern. "
            "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'.",
        ),
        (
            [{"type": "function", "name": "trailing_newline\n"}],
            "invalid_value",
            "tools[0].name",
            "Invalid 'tools[0].name': string does not match pattern. "
            "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'.",
        ),
        (
            [{"type": "function", "name": "n" * 129}],
            "string_above_max_length",
            "tools[0].name",
            "Invalid 'tools[0].name': string too long. Expected a string with maximum length 128, "
            "but got a string with length 129 instead.",
        ),
        (
            [{**FUNCTION, "description": 1}],
            "invalid_type",
            "tools[0].description",
            wrong_type("tools[0].description", "a string", "an integer"),
        ),
        (
            [{**FUNCTION, "parameters": "{}"}],
            "invalid_type",
            "tools[0].parameters",
            wrong_type("tools[0].parameters", "an object", "a string"),
        ),
        (
            [{**FUNCTION, "strict": "true"}],
            "invalid_type",
            "tools[0].strict",
            wrong_type("tools[0].strict", "a boolean", "a string"),
        ),
        ([{"type": "custom"}], "missing_required_parameter", "tools[0].name", missing("tools[0].name")),
        (
            [{"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "peg", "definition": ""}}],
            "invalid_value",
            "tools[0].format.syntax",
            "Invalid value: 'peg'. Supported values are: 'lark' and 'regex'.",
        ),
        (
            [{"type": "namespace", "name": "n"}],
            "missing_required_parameter",
            "tools[0].tools",
            missing("tools[0].tools"),
        ),
        (
            [namespace(FUNCTION, {"type": "function"})],
            "missing_required_parameter",
            "tools[0].tools[1].name",
            missing("tools[0].tools[1].name"),
        ),
        (
            [{"type": "mcp", "server_url": "https://mcp.example"}],
            "missing_required_parameter",
            "tools[0].server_label",
            missing("tools[0].server_label"),
        ),
        *(
            ([{**MCP, **member}], "invalid_type", f"tools[0].{param}", wrong_type(f"tools[0].{param}", expected, got))
            for member, param, expected, got in [
                ({"server_url": 7}, "server_url", "a string", "an integer"),
                ({"server_description": []}, "server_description", "a string", "an array"),
                ({"authorization": {}}, "authorization", "a string", "an object"),
                ({"headers": ["X: y"]}, "headers", "an object", "an array"),
                ({"headers": {"X": 7}}, "headers.X", "a string", "an integer"),
                ({"allowed_tools": "search"}, "allowed_tools", "one of an array of strings or object", "a string"),
                ({"allowed_tools": ["a", 7]}, "allowed_tools[1]", "a string", "an integer"),
                ({"allowed_tools": {"read_only": 1}}, "allowed_tools.read_only", "a boolean", "an integer"),
                (
                    {"allowed_tools": {"tool_names": "a"}},
                    "allowed_tools.tool_names",
                    "an array of strings",
                    "a string",
                ),
                ({"require_approval": True}, "require_approval", "one of a string or object", "a boolean"),
                (
                    {"require_approval": {"never": "a"}},
                    "require_approval.never",
                    "one of an array of strings or object",
                    "a string",
                ),
                (
                    {"require_approval": {"always": {"tool_names": [None]}}},
                    "require_approval.always.tool_names[0]",
                    "a string",
                    "null",
                ),
                ({"defer_loading": "no"}, "defer_loading", "a boolean", "a string"),
            ]
        ),
        (
            [{**MCP, "require_approval": "sometimes"}],
            "invalid_value",
            "tools[0].require_approval",
            "Invalid value: 'sometimes'. Supported values are: 'always' and 'never'.",
        ),
        (
            [{**MCP, "tunnel_id": "t_1"}],
            "invalid_value",
            "tools[0].tunnel_id",
            "Invalid 'tools[0].tunnel_id': string does not match pattern. "
            "Expected a string that matches the pattern '^tunnel_[a-z0-9]{32}$'.",
        ),
        (
            [{"type": "mcp", "server_label": ""}],
            "empty_string",
            "tools[0].server_label",
            "Invalid 'tools[0].server_label': empty string. Expected a string with minimum length 1, "
            "but got an empty string instead.",
        ),
    ],
)
def test_tools_are_refused_with_the_sentence_of_their_fault(tools: Any, code: str, param: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_tools(tools)

    assert caught.value.error() == {
        "message": message,
        "type": "invalid_request_error",
        "param": param,
        "code": code,
    }


def test_tools_are_named_by_the_place_they_stand_in() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_tools([{"type": "function"}], "input[3].tools")

    assert caught.value.param == "input[3].tools[0].name"


@pytest.mark.parametrize(
    "choice",
    [
        "none",
        "auto",
        "required",
        {"type": "function", "name": "not_among_the_tools"},
        {"type": "custom", "name": "c"},
        {"type": "mcp", "server_label": "docs", "name": None},
        {"type": "allowed_tools", "mode": "auto", "tools": [FUNCTION, {"type": "file_search"}]},
        {"type": "web_search_preview"},
        {"type": "invented_next_year"},
    ],
)
def test_tool_choices_that_pass_come_back_as_they_are(choice: Any) -> None:
    assert read_tool_choice(choice) is choice


@pytest.mark.parametrize(
    ("choice", "code", "param", "message"),
    [
        (
            "any",
            "invalid_value",
            "tool_choice",
            "Invalid value: 'any'. Supported values are: 'none', 'auto', and 'required'.",
        ),
        (["auto"], "invalid_type", "tool_choice", wrong_type("tool_choice", "one of a string or object", "an array")),
        ({}, "missing_required_parameter", "tool_choice.type", missing("tool_choice.type")),
        ({"type": True}, "invalid_type", "tool_choice.type", wrong_type("tool_choice.type", "a string", "a boolean")),
        (
            {"type": "function", "function": {"name": "chat_shape"}},
            "missing_required_parameter",
            "tool_choice.name",
            missing("tool_choice.name"),
        ),
        ({"type": "custom"}, "missing_required_parameter", "tool_choice.name", missing("tool_choice.name")),
        (
            {"type": "mcp"},
            "missing_required_parameter",
            "tool_choice.server_label",
            missing("tool_choice.server_label"),
        ),
        (
            {"type": "allowed_tools", "tools": []},
            "missing_required_parameter",
            "tool_choice.mode",
            missing("tool_choice.mode"),
        ),
        (
            {"type": "allowed_tools", "mode": "none", "tools": []},
            "invalid_value",
            "tool_choice.mode",
            "Invalid value: 'none'. Supported values are: 'auto' and 'required'.",
        ),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"name": "f"}]},
            "missing_required_parameter",
            "tool_choice.tools[0].type",
            missing("tool_choice.tools[0].type"),
        ),
    ],
)
def test_a_tool_choice_is_refused_with_the_sentence_of_its_fault(
    choice: Any, code: str, param: str, message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_tool_choice(choice)

    assert (caught.value.code, caught.value.param, caught.value.message) == (code, param, message)


def test_a_type_that_is_no_string_is_named_beside_a_choice() -> None:
    body = {"model": "demo", "input": "a", "tools": [{"type": ["x"]}], "tool_choice": {"type": "web_search"}}
    with pytest.raises(InvalidRequest) as refused:
        read_create(body)
    assert refused.value.param in ("tools[0].type", "tool_choice")
