"""Every shape `input` comes in, what becomes of it, and the sentences that refuse the others."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.schemas.items import MAX_BLOB, MAX_ITEMS, MAX_TEXT, read_input

MESSAGE = {"type": "message", "role": "user", "content": "hello"}
CALL = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "42"}


def text(value: str) -> dict[str, Any]:
    return {"type": "input_text", "text": value}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": list(parts)}


def missing(param: str) -> str:
    return f"Missing required parameter: '{param}'."


def wrong_type(param: str, expected: str, got: str) -> str:
    return f"Invalid type for '{param}': expected {expected}, but got {got} instead."


def too_long(param: str, maximum: int, length: int) -> str:
    return (
        f"Invalid '{param}': string too long. Expected a string with maximum length {maximum}, "
        f"but got a string with length {length} instead."
    )


# --- the shape it leaves in -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "items"),
    [
        ("hello", [user(text("hello"))]),
        ([{"role": "user", "content": "hello"}], [MESSAGE]),
        ([{"role": "user", "content": "hello", "type": None, "id": None}], [{**MESSAGE, "id": None}]),
        (
            [{"role": "assistant", "content": [], "id": "msg_1"}],
            [{"type": "message", "role": "assistant", "content": [], "id": "msg_1"}],
        ),
        ([{"id": "msg_1"}], [{"type": "item_reference", "id": "msg_1"}]),
        ([{"id": "msg_1", "type": None}], [{"type": "item_reference", "id": "msg_1"}]),
        ([text("a"), text("b")], [user(text("a"), text("b"))]),
        (
            [
                text("a"),
                {"type": "input_image", "image_url": "data:,"},
                MESSAGE,
                text("b"),
                {"type": "compaction_trigger"},
            ],
            [
                user(text("a"), {"type": "input_image", "image_url": "data:,"}),
                MESSAGE,
                user(text("b")),
                {"type": "compaction_trigger"},
            ],
        ),
        ([{"type": "input_file", "file_id": "file_1"}], [user({"type": "input_file", "file_id": "file_1"})]),
        # The names that Codex gives to a compaction, and its mark where it has compacted by itself.
        (
            [
                {"type": "compaction_summary", "encrypted_content": "gAAAA"},
                {"type": "context_compaction"},
                {"type": "context_compaction", "encrypted_content": "gAAAB", "id": "cmp_1"},
                MESSAGE,
            ],
            [
                {"type": "compaction", "encrypted_content": "gAAAA"},
                {"type": "compaction", "encrypted_content": "gAAAB", "id": "cmp_1"},
                MESSAGE,
            ],
        ),
    ],
)
def test_every_short_form_becomes_items(value: Any, items: list[Any]) -> None:
    before = copy.deepcopy(value)

    assert read_input(value) == items
    assert value == before


OWN_OUTPUT: list[dict[str, Any]] = [
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "phase": "final_answer",
        "created_by": None,
        "content": [
            {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []},
            {"type": "output_text", "text": "", "annotations": None, "logprobs": None},
            {"type": "refusal", "refusal": "no"},
        ],
    },
    {**CALL, "id": "fc_1", "status": "completed", "namespace": None, "created_by": "x"},
    {**OUTPUT, "id": "fco_1", "status": None},
    {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "s"}],
        "content": [{"type": "reasoning_text", "text": "t"}],
        "encrypted_content": None,
        "status": None,
    },
    {"type": "reasoning", "id": None, "summary": [], "content": None, "encrypted_content": "gAAAA"},
    {"id": "ctc_1", "type": "custom_tool_call", "call_id": "call_2", "name": "apply_patch", "input": "*** Begin"},
    {"id": "ctco_1", "type": "custom_tool_call_output", "call_id": "call_2", "output": [text("done")]},
    {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}},
    {"id": "ws_2", "type": "web_search_call", "status": "failed", "action": None},
    {"id": "fs_1", "type": "file_search_call", "queries": ["q"], "status": "completed", "results": None},
    {"id": "ci_1", "type": "code_interpreter_call", "code": None, "container_id": "c", "outputs": None, "status": "x"},
    {"id": "ig_1", "type": "image_generation_call", "result": None, "status": "failed"},
    {"id": "mcpl_1", "type": "mcp_list_tools", "server_label": "l", "tools": [{"name": "t"}], "error": None},
    {
        "id": "mcp_1",
        "type": "mcp_call",
        "server_label": "l",
        "name": "t",
        "arguments": "{}",
        "output": None,
        "error": {"type": "http_error", "code": 500},
        "approval_request_id": None,
    },
    {"id": "mcpr_1", "type": "mcp_approval_request", "server_label": "l", "name": "t", "arguments": "{}"},
    {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": False, "reason": None},
    {"id": "tsc_1", "type": "tool_search_call", "call_id": None, "arguments": {"q": 1}, "execution": "server"},
    {"id": "tso_1", "type": "tool_search_output", "call_id": None, "tools": [], "execution": "client"},
    {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"], "timeout_ms": None}, "environment": None},
    {
        "type": "shell_call_output",
        "call_id": "c",
        "output": [{"stdout": "", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}],
        "max_output_length": None,
    },
    {"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["ls"], "env": {}}},
    {"type": "local_shell_call_output", "id": "l", "output": "{}"},
    {"type": "apply_patch_call", "call_id": "c", "operation": {"type": "delete_file", "path": "a"}, "status": "x"},
    {"type": "apply_patch_call_output", "call_id": "c", "status": "failed", "output": None},
    {"type": "computer_call", "call_id": "c", "action": {"type": "screenshot"}, "pending_safety_checks": []},
    {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "image_url": "u"}},
    {"type": "program", "id": "p", "call_id": "c", "code": "1", "fingerprint": "f"},
    {"type": "program_output", "id": "p", "call_id": "c", "result": "1", "status": "completed"},
    {"id": "cmp_1", "type": "compaction", "encrypted_content": "gAAAA", "created_by": None},
]


@pytest.mark.parametrize("item", OWN_OUTPUT, ids=lambda item: item["type"])
def test_output_of_the_gateway_is_accepted_verbatim(item: dict[str, Any]) -> None:
    [read] = read_input([item])

    assert read is item


@pytest.mark.parametrize(
    "item",
    [
        {**MESSAGE, "role": "system"},
        {**MESSAGE, "role": "developer", "content": [text("a"), {"type": "invented_part", "text": 7}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "annotations left out"}]},
        {**MESSAGE, "internal_passthrough": {"turn_id": "t"}},
        {"type": "function_call_output", "name": "f", "output": "named, not called"},
        {"type": "function_call_output", "name": "f", "call_id": None, "output": [text("a")]},
        {**OUTPUT, "output": [{"type": "input_image", "file_id": "file_1", "image_url": None, "detail": None}]},
        {**OUTPUT, "output": ""},
        user({"type": "input_image", "image_url": "https://i", "detail": "original"}),
        user({"type": "input_file", "file_data": "data:,", "filename": "a.pdf", "detail": "low"}),
        user({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}),
        {"type": "item_reference", "id": "msg_1"},
        {"type": "compaction_trigger", "id": None},
        {"type": "configuration_update", "reasoning": {"effort": "low"}, "text": None},
        {"type": "additional_tools", "role": "developer", "tools": [{"type": "web_search"}]},
        {"type": "invented_next_year", "call_id": 7, "id": None},
    ],
)
def test_items_that_pass_stay_verbatim(item: dict[str, Any]) -> None:
    [read] = read_input([item])

    assert read is item


# --- faults -----------------------------------------------------------------------------------------------------

EMPTY_ARRAY = "Invalid 'input': empty array. Expected an array with minimum length 1, but got an empty array instead."
EMPTY_STRING = (
    "Invalid 'input': empty string. Expected a string with minimum length 1, but got an empty string instead."
)
NOT_ITEMS = "one of a string or array of objects"
LAST = "Invalid value: 'compaction_trigger'. An item of this type must be the last item of the input."

FAULTS: list[tuple[Any, str, str, str]] = [
    ("", "empty_string", "input", EMPTY_STRING),
    ([], "empty_array", "input", EMPTY_ARRAY),
    (None, "invalid_type", "input", wrong_type("input", NOT_ITEMS, "null")),
    (7, "invalid_type", "input", wrong_type("input", NOT_ITEMS, "an integer")),
    (1.5, "invalid_type", "input", wrong_type("input", NOT_ITEMS, "a decimal number")),
    (True, "invalid_type", "input", wrong_type("input", NOT_ITEMS, "a boolean")),
    (MESSAGE, "invalid_type", "input", wrong_type("input", NOT_ITEMS, "an object")),
    (["hello"], "invalid_type", "input[0]", wrong_type("input[0]", "an object", "a string")),
    ([MESSAGE, [MESSAGE]], "invalid_type", "input[1]", wrong_type("input[1]", "an object", "an array")),
    ([{}], "missing_required_parameter", "input[0].type", missing("input[0].type")),
    ([{"id": "x", "status": "y"}], "missing_required_parameter", "input[0].type", missing("input[0].type")),
    ([{"type": {}}], "invalid_type", "input[0].type", wrong_type("input[0].type", "a string", "an object")),
    ([{"id": 7}], "invalid_type", "input[0].id", wrong_type("input[0].id", "a string", "an integer")),
    ([{**MESSAGE, "id": 7}], "invalid_type", "input[0].id", wrong_type("input[0].id", "a string", "an integer")),
    ([{"type": "item_reference"}], "missing_required_parameter", "input[0].id", missing("input[0].id")),
    ([{"content": "a"}], "missing_required_parameter", "input[0].role", missing("input[0].role")),
    (
        [{**MESSAGE, "role": "tool"}],
        "invalid_value",
        "input[0].role",
        "Invalid value: 'tool'. Supported values are: 'user', 'assistant', 'system', and 'developer'.",
    ),
    (
        [{**MESSAGE, "role": ["user"]}],
        "invalid_type",
        "input[0].role",
        wrong_type("input[0].role", "one of 'user', 'assistant', 'system', or 'developer'", "an array"),
    ),
    ([{"role": "user"}], "missing_required_parameter", "input[0].content", missing("input[0].content")),
    (
        [{**MESSAGE, "content": None}],
        "invalid_type",
        "input[0].content",
        wrong_type("input[0].content", NOT_ITEMS, "null"),
    ),
    (
        [user(text("a"), {"type": "input_text", "text": 7})],
        "invalid_type",
        "input[0].content[1].text",
        wrong_type("input[0].content[1].text", "a string", "an integer"),
    ),
    (
        [user({"type": "output_text"})],
        "missing_required_parameter",
        "input[0].content[0].text",
        missing("input[0].content[0].text"),
    ),
    (
        [user({"text": "untyped"})],
        "missing_required_parameter",
        "input[0].content[0].type",
        missing("input[0].content[0].type"),
    ),
    (
        [{**MESSAGE, "content": ["a"]}],
        "invalid_type",
        "input[0].content[0]",
        wrong_type("input[0].content[0]", "an object", "a string"),
    ),
    (
        [user({"type": "input_image"})],
        "missing_required_parameter",
        "input[0].content[0].image_url",
        missing("input[0].content[0].image_url"),
    ),
    (
        [user({"type": "input_image", "image_url": {"url": "chat shape"}})],
        "invalid_type",
        "input[0].content[0].image_url",
        wrong_type("input[0].content[0].image_url", "a string", "an object"),
    ),
    (
        [{"type": "input_image", "image_url": "u", "detail": "medium"}],
        "invalid_value",
        "input[0].detail",
        "Invalid value: 'medium'. Supported values are: 'low', 'high', 'auto', and 'original'.",
    ),
    (
        [{"type": "input_file", "filename": "f"}],
        "missing_required_parameter",
        "input[0].file_data",
        missing("input[0].file_data"),
    ),
    (
        [user({"type": "output_text", "text": "", "annotations": {}})],
        "invalid_type",
        "input[0].content[0].annotations",
        wrong_type("input[0].content[0].annotations", "an array of objects", "an object"),
    ),
    (
        [user({"type": "refusal", "text": "x"})],
        "missing_required_parameter",
        "input[0].content[0].refusal",
        missing("input[0].content[0].refusal"),
    ),
    (
        [CALL, {**CALL, "call_id": "c" * 86}],
        "string_above_max_length",
        "input[1].call_id",
        too_long("input[1].call_id", 64, 86),
    ),
    (
        [{**CALL, "arguments": {"a": 1}}],
        "invalid_type",
        "input[0].arguments",
        wrong_type("input[0].arguments", "a string", "an object"),
    ),
    (
        [{"type": "function_call", "call_id": "c", "arguments": ""}],
        "missing_required_parameter",
        "input[0].name",
        missing("input[0].name"),
    ),
    (
        [{"type": "custom_tool_call", "name": "n", "input": ""}],
        "missing_required_parameter",
        "input[0].call_id",
        missing("input[0].call_id"),
    ),
    (
        [{**CALL, "call_id": ""}],
        "empty_string",
        "input[0].call_id",
        EMPTY_STRING.replace("'input'", "'input[0].call_id'"),
    ),
    (
        [{"type": "function_call_output", "output": "x"}],
        "missing_required_parameter",
        "input[0].call_id",
        missing("input[0].call_id"),
    ),
    (
        [{**OUTPUT, "output": {"a": 1}}],
        "invalid_type",
        "input[0].output",
        wrong_type("input[0].output", NOT_ITEMS, "an object"),
    ),
    (
        [{"type": "custom_tool_call", "call_id": "c", "name": "n"}],
        "missing_required_parameter",
        "input[0].input",
        missing("input[0].input"),
    ),
    ([{"type": "reasoning"}], "missing_required_parameter", "input[0].summary", missing("input[0].summary")),
    (
        [{"type": "reasoning", "summary": [{"type": "summary_text"}]}],
        "missing_required_parameter",
        "input[0].summary[0].text",
        missing("input[0].summary[0].text"),
    ),
    (
        [{"type": "compaction", "encrypted_content": None}],
        "invalid_type",
        "input[0].encrypted_content",
        wrong_type("input[0].encrypted_content", "a string", "null"),
    ),
    (
        [{"type": "additional_tools", "role": "developer", "tools": [{"type": "web_search"}, {"type": "function"}]}],
        "missing_required_parameter",
        "input[0].tools[1].name",
        missing("input[0].tools[1].name"),
    ),
    (
        [{"type": "additional_tools", "role": "user", "tools": []}],
        "invalid_value",
        "input[0].role",
        "Invalid value: 'user'. Supported values are: 'developer'.",
    ),
    (
        [{"type": "mcp_approval_response", "approval_request_id": "m", "approve": "yes"}],
        "invalid_type",
        "input[0].approve",
        wrong_type("input[0].approve", "a boolean", "a string"),
    ),
    (
        [{"type": "shell_call", "call_id": "c", "action": {"commands": ["ls", 1]}}],
        "invalid_type",
        "input[0].action.commands[1]",
        wrong_type("input[0].action.commands[1]", "a string", "an integer"),
    ),
    ([MESSAGE, {"type": "compaction_trigger"}, MESSAGE], "invalid_value", "input[1]", LAST),
    ([{"type": "compaction_trigger"}] * 2, "invalid_value", "input[0]", LAST),
]


@pytest.mark.parametrize(("value", "code", "param", "message"), FAULTS)
def test_input_is_refused_with_the_sentence_of_its_fault(value: Any, code: str, param: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_input(value)

    assert caught.value.error() == {
        "message": message,
        "type": "invalid_request_error",
        "param": param,
        "code": code,
    }


def test_text_is_taken_up_to_its_limit_and_no_further() -> None:
    longest = "x" * MAX_TEXT
    assert read_input(longest) == [user(text(longest))]

    for value, param in (
        (longest + "x", "input"),
        ([{**MESSAGE, "content": longest + "x"}], "input[0].content"),
        ([user(text(longest + "x"))], "input[0].content[0].text"),
        ([{**OUTPUT, "output": longest + "x"}], "input[0].output"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            read_input(value)
        assert caught.value.code == "string_above_max_length"
        assert caught.value.message == too_long(param, MAX_TEXT, MAX_TEXT + 1)


def test_an_image_may_be_twice_as_long_as_text() -> None:
    longest = "x" * MAX_BLOB
    read_input([user({"type": "input_image", "image_url": longest})])

    with pytest.raises(InvalidRequest) as caught:
        read_input([user({"type": "input_image", "image_url": longest + "x"})])
    assert caught.value.message == too_long("input[0].content[0].image_url", MAX_BLOB, MAX_BLOB + 1)


def test_there_may_be_ten_thousand_items() -> None:
    assert len(read_input([MESSAGE] * MAX_ITEMS)) == MAX_ITEMS

    with pytest.raises(InvalidRequest) as caught:
        read_input([MESSAGE] * (MAX_ITEMS + 1))
    assert (caught.value.code, caught.value.message) == (
        "array_above_max_length",
        "Invalid 'input': array too long. Expected an array with maximum length 10000, "
        "but got an array with length 10001 instead.",
    )


def test_faults_are_named_by_the_parameter_they_were_read_for() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_input([CALL, {"role": "user"}], "items")

    assert caught.value.param == "items[1].content"


# --- anything at all --------------------------------------------------------------------------------------------

PARTS = [text("a"), {"type": "input_image", "file_id": "f"}, {"type": "input_file", "file_url": "u"}]
PIECES = st.lists(st.sampled_from([*PARTS, MESSAGE, CALL, OUTPUT]), min_size=1)


@settings(deadline=None)
@given(PIECES)
def test_joining_bare_parts_loses_nothing_and_keeps_the_order(pieces: list[dict[str, Any]]) -> None:
    items = read_input(pieces)

    flat = [piece for item in items for piece in (item["content"] if isinstance(item.get("content"), list) else [item])]
    assert flat == pieces
    joined = [isinstance(item.get("content"), list) for item in items]
    assert not any(left and right for left, right in pairwise(joined))


@settings(deadline=None)
@given(PIECES)
def test_a_loaded_item_loads_to_itself(pieces: list[dict[str, Any]]) -> None:
    items = read_input(pieces)

    assert read_input(items) == items
