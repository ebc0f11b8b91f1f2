"""The body of a create request as a whole: what passes, what is refused and how, and that nothing else can happen."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.schemas.create import CREATE, read_create, read_include
from app.schemas.items import read_input

BASE = {"model": "m", "input": "hello"}


def refusal(body: object) -> dict[str, Any]:
    with pytest.raises(InvalidRequest) as caught:
        read_create(body)
    assert caught.value.status == 400
    return caught.value.error()


def fault(code: str, param: str | None, message: str) -> dict[str, Any]:
    return {"message": message, "type": "invalid_request_error", "param": param, "code": code}


def missing(param: str) -> dict[str, Any]:
    return fault("missing_required_parameter", param, f"Missing required parameter: '{param}'.")


def wrong_type(param: str, expected: str, got: str) -> dict[str, Any]:
    return fault("invalid_type", param, f"Invalid type for '{param}': expected {expected}, but got {got} instead.")


def out_of_range(param: str, kind: str, side: str, expected: str, got: str) -> dict[str, Any]:
    limit = {"below": "minimum", "above": "maximum"}[side]
    return fault(
        f"{kind}_{side}_{limit[:3]}_value",
        param,
        f"Invalid '{param}': {kind} {side} {limit} value. Expected a value {expected}, but got {got} instead.",
    )


def unsupported(param: str, value: str, values: str) -> dict[str, Any]:
    return fault("invalid_value", param, f"Invalid value: '{value}'. Supported values are: {values}.")


# --- what passes ------------------------------------------------------------------------------------------------


def test_values_come_back_unchanged_but_for_input_and_nulls() -> None:
    body = {**BASE, "zeta": 1, "temperature": 1, "alpha": None, "user": None, "beta": {"nested": None}}
    before = copy.deepcopy(body)

    read = read_create(body)

    assert read == {
        "model": "m",
        "input": read_input("hello"),
        "zeta": 1,
        "temperature": 1,
        "beta": {"nested": None},
    }
    assert list(read) == ["model", "input", "zeta", "temperature", "beta"]
    assert body == before


@pytest.mark.parametrize(
    "state", [{"previous_response_id": "resp_1"}, {"conversation": "conv_1"}, {"prompt": {"id": "p"}}]
)
def test_input_may_be_left_out_where_something_else_says_what_to_answer(state: dict[str, Any]) -> None:
    assert read_create({"model": "m", **state}) == {"model": "m", **state}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("instructions", ""),
        ("instructions", {"content": "a"}),
        ("instructions", {"role": "developer", "content": [{"type": "input_text", "text": "a"}]}),
        ("instructions", {"type": "input_text", "text": "a"}),
        ("previous_response_id", "not-ours_1"),
        ("conversation", {"id": "conv_1"}),
        ("stream", True),
        ("stream_options", {"include_obfuscation": None, "reasoning_summary_delivery": "sequential_cutoff"}),
        ("temperature", 0),
        ("temperature", 2.0),
        ("top_p", 1),
        ("presence_penalty", -2),
        ("frequency_penalty", 2),
        ("max_output_tokens", 1),
        ("max_tool_calls", 1),
        ("top_logprobs", 20),
        ("reasoning", {}),
        ("reasoning", {"effort": None, "summary": None, "generate_summary": "concise", "context": "all_turns"}),
        ("reasoning", {"effort": "max", "mode": "pro", "invented": 1}),
        ("truncation", "auto"),
        ("truncation", {"type": "disabled", "last": 3}),
        ("context_management", []),
        ("context_management", [{"type": "compaction", "compact_threshold": None}]),
        ("context_management", {"compact_threshold": 1, "strategy": "trim", "keep_turns": 0, "max_tokens": 1}),
        ("context_management", [{"instructions": "short", "answer": False, "invented": 1}]),
        ("context_management", [{"type": "invented", "compact_threshold": "none"}]),
        ("metadata", {}),
        ("metadata", {f"{n:064}": "v" * 512 for n in range(16)}),
        ("text", {"format": {"type": "text"}, "verbosity": "low"}),
        ("text", {"format": {"type": "json_object"}, "verbosity": None}),
        ("text", {"format": {"type": "json_schema", "name": "n" * 64, "schema": {}, "strict": None}}),
        ("include", []),
        ("include", ["reasoning.encrypted_content", "message.output_text.logprobs"]),
        ("store", False),
        ("background", True),
        ("service_tier", "ultrafast"),
        ("safety_identifier", "s" * 128),
        ("prompt_cache_key", "k" * 500),
        ("prompt", {"id": "p", "version": None, "variables": {"a": "b"}}),
        ("user", ""),
        ("tools", []),
        ("tool_choice", "none"),
        ("parallel_tool_calls", False),
    ],
)
def test_good_values_pass(name: str, value: Any) -> None:
    assert read_create({**BASE, name: value})[name] == value


def codex_body() -> dict[str, Any]:
    """Shaped as Codex sends it: everything in items, nothing but its own memory, keys no specification has."""
    shell = {
        "type": "function",
        "name": "exec_command",
        "description": "Runs a command",
        "strict": False,
        "parameters": {"type": "object", "properties": {"cmd": {"type": "string"}}, "required": ["cmd"]},
    }
    passthrough = {"internal_chat_message_metadata_passthrough": {"turn_id": "t", "create_time": 1.5}}
    return {
        "model": "stub-model",
        "stream": True,
        "input": [
            {"type": "additional_tools", "id": None, "role": "developer", "tools": [shell, {"type": "web_search"}]},
            {"type": "message", "id": "msg_1", "role": "developer", "content": [{"type": "input_text", "text": "be"}]},
            {
                "type": "message",
                "id": "msg_2",
                "role": "user",
                "content": [{"type": "input_text", "text": "env"}, {"type": "input_text", "text": "go"}],
                **passthrough,
            },
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": None, "encrypted_content": "gAAAA"},
            {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "exec_command", "arguments": "{}"},
            {"type": "function_call_output", "id": "fco_1", "call_id": "call_1", "output": "ok", **passthrough},
            {"type": "custom_tool_call", "status": "completed", "call_id": "call_2", "name": "patch", "input": "***"},
            {"type": "custom_tool_call_output", "call_id": "call_2", "output": "done"},
            {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hm"}], "phase": "x"},
            {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAA"},
            {"type": "compaction_trigger"},
        ],
        "tools": [
            shell,
            {"type": "namespace", "name": "multi_agent_v1", "description": "agents", "tools": [shell]},
            {
                "type": "custom",
                "name": "apply_patch",
                "description": "patches",
                "format": {"type": "grammar", "syntax": "lark", "definition": "start: line"},
            },
            {"type": "web_search", "external_web_access": False},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "01a2039e",
        "client_metadata": {"session_id": "01a2039e", "x-codex-installation-id": "b1b3fd59"},
    }


def test_a_codex_request_passes_untouched() -> None:
    body = codex_body()
    before = orjson.dumps(body)

    read = read_create(body)

    assert orjson.dumps(read) == before
    assert orjson.dumps(body) == before


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "got"),
    [
        (None, "null"),
        ([], "an array"),
        ("{}", "a string"),
        (1, "an integer"),
        (1.0, "a decimal number"),
        (False, "a boolean"),
    ],
)
def test_a_body_that_is_no_object_is_refused(body: object, got: str) -> None:
    message = f"Invalid type for the request body: expected an object, but got {got} instead."
    assert refusal(body) == fault("invalid_type", None, message)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "model"),
        ({"input": "x"}, "model"),
        ({"model": None, "input": "x"}, "model"),
        ({"model": "m"}, "input"),
        ({"model": "m", "input": None, "previous_response_id": None}, "input"),
    ],
)
def test_a_missing_parameter_is_named(body: dict[str, Any], param: str) -> None:
    assert refusal(body) == missing(param)


def test_two_kinds_of_state_are_refused_before_either_is_looked_at() -> None:
    assert refusal({"previous_response_id": 7, "conversation": ["?"]}) == fault(
        "mutually_exclusive_parameters",
        None,
        "Mutually exclusive parameters. Ensure you are only providing one of: "
        "'previous_response_id' or 'conversation'.",
    )
    assert read_create({**BASE, "previous_response_id": "resp_1", "conversation": None})


EMPTY = "empty {0}. Expected {1} {0} with minimum length 1, but got an empty {0} instead."
JSON_SCHEMA = {"type": "json_schema", "name": "n", "schema": {}}
EFFORTS = "'none', 'minimal', 'low', 'medium', 'high', 'xhigh', and 'max'"
TIERS = "'auto', 'default', 'flex', 'scale', 'priority', 'fast', and 'ultrafast'"


def malformed_id(value: str) -> dict[str, Any]:
    return fault(
        "invalid_value",
        "previous_response_id",
        f"Invalid 'previous_response_id': '{value}'. Expected an ID that contains letters, numbers, underscores, "
        "or dashes, but this value contained additional characters.",
    )


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("model", "", fault("empty_string", "model", "Invalid 'model': " + EMPTY.format("string", "a"))),
        ("model", 7, wrong_type("model", "a string", "an integer")),
        ("input", "", fault("empty_string", "input", "Invalid 'input': " + EMPTY.format("string", "a"))),
        ("input", [], fault("empty_array", "input", "Invalid 'input': " + EMPTY.format("array", "an"))),
        ("input", [{"role": "user", "content": [{"type": "input_text"}]}], missing("input[0].content[0].text")),
        ("instructions", ["a"], wrong_type("instructions", "one of a string or object", "an array")),
        ("instructions", {"role": "system"}, missing("instructions.content")),
        ("instructions", {"text": 7}, wrong_type("instructions.text", "a string", "an integer")),
        ("instructions", {"content": [{"type": "input_text"}]}, missing("instructions.content[0].text")),
        (
            "previous_response_id",
            "resp_1/2",
            malformed_id("resp_1/2"),
        ),
        (
            "previous_response_id",
            "resp_é",
            malformed_id("resp_é"),
        ),
        ("previous_response_id", 7, wrong_type("previous_response_id", "a string", "an integer")),
        (
            "conversation",
            "x",
            fault(
                "invalid_value",
                "conversation",
                "Invalid 'conversation': 'x'. Expected an ID that begins with 'conv_'.",
            ),
        ),
        ("conversation", {}, missing("conversation.id")),
        ("conversation", [], wrong_type("conversation", "one of a string or object", "an array")),
        ("prompt", "p", wrong_type("prompt", "an object", "a string")),
        ("prompt", {"version": "1"}, missing("prompt.id")),
        ("stream", "true", wrong_type("stream", "a boolean", "a string")),
        ("stream", 1, wrong_type("stream", "a boolean", "an integer")),
        ("stream_options", [], wrong_type("stream_options", "an object", "an array")),
        (
            "stream_options",
            {"include_obfuscation": 0},
            wrong_type("stream_options.include_obfuscation", "a boolean", "an integer"),
        ),
        ("store", "false", wrong_type("store", "a boolean", "a string")),
        ("background", 0, wrong_type("background", "a boolean", "an integer")),
        ("parallel_tool_calls", {}, wrong_type("parallel_tool_calls", "a boolean", "an object")),
        ("include", "reasoning.encrypted_content", wrong_type("include", "an array of strings", "a string")),
        ("tools", [{"type": "function"}], missing("tools[0].name")),
        ("tool_choice", 7, wrong_type("tool_choice", "one of a string or object", "an integer")),
        ("max_output_tokens", "10", wrong_type("max_output_tokens", "an integer", "a string")),
        ("max_output_tokens", True, wrong_type("max_output_tokens", "an integer", "a boolean")),
        ("max_output_tokens", 1.0, wrong_type("max_output_tokens", "an integer", "a decimal number")),
        ("max_output_tokens", 0, out_of_range("max_output_tokens", "integer", "below", ">= 1", "0")),
        ("max_tool_calls", -1, out_of_range("max_tool_calls", "integer", "below", ">= 1", "-1")),
        ("top_logprobs", 21, out_of_range("top_logprobs", "integer", "above", "<= 20", "21")),
        ("temperature", "1", wrong_type("temperature", "a decimal", "a string")),
        ("temperature", False, wrong_type("temperature", "a decimal", "a boolean")),
        ("temperature", float("nan"), wrong_type("temperature", "a decimal", "a number that is not finite")),
        ("temperature", 2.5, out_of_range("temperature", "decimal", "above", "<= 2", "2.5")),
        ("temperature", -1, out_of_range("temperature", "decimal", "below", ">= 0", "-1")),
        ("top_p", 1.01, out_of_range("top_p", "decimal", "above", "<= 1", "1.01")),
        ("presence_penalty", -3, out_of_range("presence_penalty", "decimal", "below", ">= -2", "-3")),
        ("reasoning", "high", wrong_type("reasoning", "an object", "a string")),
        ("reasoning", {"effort": "huge"}, unsupported("reasoning.effort", "huge", EFFORTS)),
        (
            "reasoning",
            {"summary": 1},
            wrong_type("reasoning.summary", "one of 'auto', 'concise', or 'detailed'", "an integer"),
        ),
        (
            "reasoning",
            {"context": "x"},
            unsupported("reasoning.context", "x", "'auto', 'current_turn', and 'all_turns'"),
        ),
        ("text", {"verbosity": "x"}, unsupported("text.verbosity", "x", "'low', 'medium', and 'high'")),
        ("text", {"format": {}}, missing("text.format.type")),
        (
            "text",
            {"format": {"type": "xml"}},
            unsupported("text.format.type", "xml", "'text', 'json_object', and 'json_schema'"),
        ),
        (
            "text",
            {"format": {"type": "json_schema", "json_schema": {"name": "chat shape"}}},
            missing("text.format.name"),
        ),
        ("text", {"format": {"type": "json_schema", "name": "n"}}, missing("text.format.schema")),
        (
            "text",
            {"format": {**JSON_SCHEMA, "schema": "{}"}},
            wrong_type("text.format.schema", "an object", "a string"),
        ),
        (
            "text",
            {"format": {**JSON_SCHEMA, "name": "a b"}},
            fault(
                "invalid_value",
                "text.format.name",
                "Invalid 'text.format.name': string does not match pattern. "
                "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'.",
            ),
        ),
        ("truncation", "x", unsupported("truncation", "x", "'auto' and 'disabled'")),
        ("truncation", 1, wrong_type("truncation", "one of 'auto' or 'disabled'", "an integer")),
        ("truncation", {}, missing("truncation.type")),
        ("truncation", {"type": "x"}, unsupported("truncation.type", "x", "'auto' and 'disabled'")),
        ("context_management", "compaction", wrong_type("context_management", "an array of objects", "a string")),
        ("context_management", [7], wrong_type("context_management[0]", "an object", "an integer")),
        ("context_management", {"type": 7}, wrong_type("context_management.type", "a string", "an integer")),
        (
            "context_management",
            [{}, {"type": "compaction", "compact_threshold": 0}],
            out_of_range("context_management[1].compact_threshold", "integer", "below", ">= 1", "0"),
        ),
        (
            "context_management",
            {"keep_turns": -1},
            out_of_range("context_management.keep_turns", "integer", "below", ">= 0", "-1"),
        ),
        (
            "context_management",
            {"strategy": "x"},
            unsupported("context_management.strategy", "x", "'auto', 'native', 'summary', and 'trim'"),
        ),
        ("context_management", {"answer": "yes"}, wrong_type("context_management.answer", "a boolean", "a string")),
        ("metadata", "x", wrong_type("metadata", "an object", "a string")),
        ("metadata", {"k": 7}, wrong_type("metadata.k", "a string", "an integer")),
        ("metadata", {"k": None}, wrong_type("metadata.k", "a string", "null")),
        (
            "metadata",
            {"k": "v" * 600},
            fault(
                "string_above_max_length",
                "metadata.k",
                "Invalid 'metadata.k': string too long. Expected a string with maximum length 512, "
                "but got a string with length 600 instead.",
            ),
        ),
        (
            "metadata",
            {"k" * 70: "v"},
            fault(
                "property_name_above_max_length",
                "metadata",
                f"Invalid property name in 'metadata': '{'k' * 64}...' is too long. "
                "Expected a string with maximum length 64, but got a string with length 70 instead.",
            ),
        ),
        (
            "metadata",
            {str(n): "v" for n in range(17)},
            fault(
                "object_above_max_properties",
                "metadata",
                "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, "
                "but got an object with 17 properties instead.",
            ),
        ),
        ("service_tier", "x", unsupported("service_tier", "x", TIERS)),
        (
            "safety_identifier",
            "s" * 129,
            fault(
                "string_above_max_length",
                "safety_identifier",
                "Invalid 'safety_identifier': string too long. Expected a string with maximum length 128, "
                "but got a string with length 129 instead.",
            ),
        ),
        ("prompt_cache_key", 7, wrong_type("prompt_cache_key", "a string", "an integer")),
        ("prompt_cache_options", "x", wrong_type("prompt_cache_options", "an object", "a string")),
        ("prompt_cache_options", {"ttl": 30}, wrong_type("prompt_cache_options.ttl", "a string", "an integer")),
        ("prompt_cache_retention", 24, wrong_type("prompt_cache_retention", "a string", "an integer")),
        ("user", {}, wrong_type("user", "a string", "an object")),
    ],
)
def test_a_bad_value_is_refused_with_the_sentence_of_its_fault(name: str, value: Any, error: dict[str, Any]) -> None:
    assert refusal({**BASE, name: value}) == error


def test_an_unknown_include_is_refused_by_its_place() -> None:
    error = refusal({**BASE, "include": ["reasoning.encrypted_content", "everything"]})

    assert (error["code"], error["param"]) == ("invalid_value", "include[1]")
    assert error["message"].startswith(
        "Invalid value: 'everything'. Supported values are: 'file_search_call.results', "
    )


def test_include_is_read_by_itself_as_it_is_in_a_body() -> None:
    assert read_include(["reasoning.encrypted_content"]) == ["reasoning.encrypted_content"]

    with pytest.raises(InvalidRequest) as caught:
        read_include(["everything"])
    assert (caught.value.code, caught.value.param) == ("invalid_value", "include[0]")


def test_a_number_too_long_to_print_is_out_of_range_like_any_other() -> None:
    got = "a number beyond 64 bits"
    for name, kind, bound in (("top_logprobs", "integer", "<= 20"), ("temperature", "decimal", "<= 2")):
        assert refusal({**BASE, name: 10**5000}) == out_of_range(name, kind, "above", bound, got)


def test_a_message_repeats_only_the_beginning_of_what_it_refuses() -> None:
    error = refusal({**BASE, "service_tier": "x" * 100_000})

    assert error["message"].startswith(f"Invalid value: '{'x' * 64}...'. ")


def test_the_first_error_is_reported() -> None:
    assert refusal({"model": "m", "user": 7, "input": [], "temperature": 9})["param"] == "input"


# --- anything at all --------------------------------------------------------------------------------------------

NAMES = [*CREATE.fields, "type", "role", "content", "id", "call_id", "name", "output", "format", "summary", "mode"]
KINDS = ["message", "function_call_output", "reasoning", "shell_call", "mcp", "mcp_call", "input_image", "output_text"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(KINDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2) | st.sampled_from(NAMES), inner),
    max_leaves=10,
)
MEMBERS = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=6)
BODIES = st.builds(lambda members: {**BASE, **members}, MEMBERS)
ITEMS = st.lists(JSON | st.builds(lambda members, kind: {**members, "type": kind}, MEMBERS, st.sampled_from(KINDS)))


@settings(deadline=None)
@given(JSON | BODIES)
def test_any_json_value_is_read_or_refused_and_left_alone(body: Any) -> None:
    before = copy.deepcopy(body)

    try:
        read = read_create(body)
    except InvalidRequest as error:
        refused = error.error()
        assert refused["message"].startswith(("Invalid", "Missing", "Mutually exclusive"))
    else:
        assert read.keys() == {name for name, value in body.items() if value is not None}
    assert repr(body) == repr(before)


@settings(deadline=None)
@given(ITEMS)
def test_any_list_is_read_or_refused_as_input(items: list[Any]) -> None:
    try:
        read = read_input(items)
    except InvalidRequest as error:
        refused = error.error()
        assert str(refused["param"]).startswith("input")
    else:
        assert all(isinstance(item["type"], str) for item in read)


def test_namespaces_without_end_do_not_exhaust_the_stack() -> None:
    tool: dict[str, Any] = {"type": "function", "name": "f"}
    for _ in range(2_000):
        tool = {"type": "namespace", "name": "n", "tools": [tool]}

    assert read_create({**BASE, "tools": [tool]})["tools"] == [tool]


# --- a choice and its tools -------------------------------------------------------------------------------------

F = {"type": "function", "name": "f"}
PATCH = {"type": "custom", "name": "patch"}
CRM = {"type": "namespace", "name": "crm", "description": "d", "tools": [{"type": "function", "name": "find"}]}
DOCS = {"type": "mcp", "server_label": "docs", "server_url": "https://example.org"}
TOOLS = [F, PATCH, CRM, DOCS, {"type": "web_search"}, {"type": "computer_use_preview"}]
BROKEN: list[Any] = [{"type": "function"}, {"type": "mcp"}, {}, 7, {"type": "namespace", "tools": [7]}]


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "name": name}


def allowed(*choices: Any) -> dict[str, Any]:
    return {"type": "allowed_tools", "mode": "auto", "tools": list(choices)}


@pytest.mark.parametrize(
    "choice",
    [
        F,
        PATCH,
        named("find"),
        named("crm__find"),
        named("crm.find"),
        {**named("find"), "namespace": "crm"},
        {"type": "mcp", "server_label": "docs"},
        {"type": "mcp", "server_label": "docs", "name": "search"},
        {"type": "web_search"},
        {"type": "web_search_preview_2025_03_11"},
        {"type": "computer"},
        {"type": "invented_next_year"},
        allowed(F, named("g")),
        allowed(),
        "required",
        "none",
    ],
)
def test_a_choice_of_a_tool_that_exists_passes(choice: Any) -> None:
    assert read_create({**BASE, "tools": TOOLS, "tool_choice": choice})["tool_choice"] == choice


MISSING: list[tuple[Any, str]] = [
    (named("g"), "g"),
    (named("crm"), "crm"),
    ({"type": "custom", "name": "p"}, "p"),
    ({"type": "mcp", "server_label": "doc"}, "doc"),
    ({"type": "file_search"}, "file_search"),
    (allowed(named("g"), {"type": "file_search"}), "g"),
    (named("g" * 100), "g" * 64 + "..."),
]


@pytest.mark.parametrize(("choice", "shown"), MISSING)
@pytest.mark.parametrize("tools", [[], TOOLS[:2] + TOOLS[3:], [*BROKEN, F], None], ids=["none", "some", "broken", "-"])
def test_a_choice_of_no_tool_is_the_first_error(choice: Any, shown: str, tools: Any) -> None:
    sentence = f"Tool choice '{shown}' not found in 'tools' parameter."
    expected = fault("invalid_value", "tool_choice", sentence)
    assert refusal({**BASE, "tools": tools, "tool_choice": choice}) == expected
    assert refusal({**BASE, "tool_choice": choice, "tools": tools, "max_output_tokens": 0}) == expected


@pytest.mark.parametrize(
    "more",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"prompt": {"id": "pmpt_1"}},
        {"input": [{"type": "additional_tools", "role": "developer", "tools": [F]}]},
        {"input": [{"type": "tool_search_output", "tools": [F]}]},
        {"input": [{"type": "item_reference", "id": "at_1"}]},
        {"input": [{"type": "compaction", "encrypted_content": "x"}]},
        {"tools": [{"type": "tool_search"}]},
    ],
)
def test_a_choice_of_a_tool_that_something_else_may_bring_passes(more: dict[str, Any]) -> None:
    assert read_create({**BASE, "tool_choice": named("g"), **more})


def test_of_a_choice_that_is_itself_wrong_the_tools_come_first() -> None:
    body = {**BASE, "tools": [{"type": "function"}], "tool_choice": {"type": "function"}}
    assert refusal(body) == missing("tools[0].name")


@settings(deadline=None)
@given(
    tools=st.lists(st.sampled_from([*TOOLS, *BROKEN]), max_size=3),
    choice=st.sampled_from([choice for choice, _ in MISSING] + [F, allowed(7), allowed(F), {"type": ["f"]}, [], {}]),
)
def test_any_choice_of_any_tools_passes_or_names_its_error(tools: list[Any], choice: Any) -> None:
    body = {**BASE, "tools": tools, "tool_choice": choice}
    try:
        read_create(body)
    except InvalidRequest:
        assert str(refusal(body)["param"]).startswith("tool")
