"""What a refusal's words call for: the sentences are those of the servers themselves."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app.contract.channel import Channel, Params
from app.contract.remedies import Remedy, apply_all, digest_of
from app.formats import adapted, remedies_for
from app.formats._failures import http_error, stream_error

JSON = dict[str, Any]
FUNCTION = {"name": "look", "parameters": {"type": "object", "additionalProperties": False, "properties": {}}}
CHAT: JSON = {
    "model": "m",
    "messages": [{"role": "user", "content": "Mind the temperature of the user."}],
    "temperature": 0.2,
    "top_p": 0.5,
    "user": "ada",
    "reasoning_effort": "minimal",
    "verbosity": "low",
    "max_tokens": 100,
    "stream": True,
    "stream_options": {"include_usage": True},
    "parallel_tool_calls": False,
    "logprobs": True,
    "tools": [{"type": "function", "function": {**FUNCTION, "strict": False}}],
    "tool_choice": "auto",
}
RESPONSES: JSON = {
    "model": "m",
    "input": [
        {
            "type": "message",
            "role": "developer",
            "id": "msg_1",
            "phase": "commentary",
            "content": [{"type": "input_text", "text": "Be kind.", "logprobs": []}],
        },
        {"type": "message", "role": "user", "content": "hi", "private": {"turn": 1, "kind": "user"}},
    ],
    "store": False,
    "reasoning": {"effort": "xhigh", "summary": "auto"},
    "text": {"verbosity": "low"},
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "k" * 80,
    "service_tier": "flex",
    "safety_identifier": "ada",
    "client_metadata": {"a": "b"},
    "tools": [{"type": "function", **FUNCTION}],
}
CUSTOM: JSON = {**RESPONSES, "tools": [{"type": "custom", "name": "patch"}, {"type": "web_search"}]}
MESSAGES: JSON = {
    "model": "m",
    "max_tokens": 100_000,
    "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    "metadata": {"user_id": "ada@example.com"},
    "temperature": 0.2,
    "output_config": {"effort": "xhigh"},
    "tools": [{"name": "look", "input_schema": {"type": "object", "anyOf": [{"required": ["a"]}]}}],
}
FORMAT: JSON = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


def openai(message: str, param: str | None = None) -> JSON:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}}


def anthropic(message: str) -> JSON:
    return {"type": "error", "error": {"type": "invalid_request_error", "message": message}}


def remedies(answer: Any, request: JSON, row: Channel | None = None, status: int = 400) -> list[str]:
    error = http_error(status, {}, orjson.dumps(answer))
    return [str(remedy) for remedy in remedies_for(error, request, row or Channel("c", "f"))]


def sent(answer: Any, request: JSON) -> JSON:
    """The request of the retry."""
    row = Channel("c", "f")
    error = http_error(400, {}, orjson.dumps(answer))
    body, _ = adapted(orjson.dumps(request), apply_all(remedies_for(error, request, row), row))
    again: JSON = orjson.loads(body)
    return again


# --- members that a request can do without ----------------------------------------------------------------------

DETAIL = [{"type": "extra_forbidden", "loc": ["body", "verbosity"], "msg": "Extra inputs are not permitted"}]
PRINTED = "[{'type': 'extra_forbidden', 'loc': ('body', 'verbosity'), 'msg': 'Extra inputs are not permitted'}]"
GOOGLE = 'Invalid JSON payload received. Unknown name "verbosity": Cannot find field.'
NAMING = {
    "openai": openai("Unsupported parameter: 'verbosity' is not supported with this model.", "verbosity"),
    "openai, no param": openai("Unsupported parameter: 'verbosity' is not supported with this model."),
    "old openai": openai("Unrecognized request argument supplied: verbosity"),
    "unknown": openai("Unknown parameter: 'verbosity'.", "verbosity"),
    "python": openai("Completions.create() got an unexpected keyword argument 'verbosity'"),
    "fastapi": {"detail": DETAIL},
    "fastapi, a sentence": {"detail": "Unsupported parameter: verbosity"},
    "mistral": {"object": "error", "message": {"detail": DETAIL}, "type": "invalid_request_error", "code": None},
    "vllm": {"object": "error", "message": PRINTED, "type": "BadRequestError", "param": None, "code": 400},
    "pydantic": openai("1 validation error for Request\nverbosity\n  Extra inputs are not permitted [type=extra]"),
    "google": [{"error": {"code": 400, "message": GOOGLE, "status": "INVALID_ARGUMENT"}}],
    "groq": openai("property 'verbosity' is unsupported, did you mean 'user'?"),
    "cerebras": {"message": "body.verbosity: property 'body.verbosity' is unsupported", "code": "wrong_api_format"},
    "go": {"error": 'json: unknown field "verbosity"'},
    "rust": {"error": "unknown field `verbosity`, expected one of `model`, `temperature`, `user`"},
    "xai": {"code": "invalid", "error": "Argument not supported on this model: verbosity"},
    "xai, a model": {"error": "Model grok-4 does not support parameter verbosity."},
    "bedrock": {"message": "Malformed input request: #: extraneous key [verbosity] is not permitted, please reformat"},
    "nim": openai("Validation: Unsupported parameter(s): `verbosity`"),
    "fireworks": openai("Extra inputs are not permitted, field: 'verbosity', value: 'low'"),
    "azure": openai("Unrecognized request argument supplied: verbosity", None),
    "openrouter": {
        "error": {"message": "Provider returned error", "metadata": {"raw": orjson.dumps({"detail": DETAIL}).decode()}}
    },
    "a string of json": {"error": {"message": orjson.dumps(openai("Unknown parameter: 'verbosity'.")).decode()}},
}


@pytest.mark.parametrize("server", NAMING)
@pytest.mark.parametrize("status", [400, 404, 415, 422])
def test_a_wish_is_left_out_however_a_server_names_it(server: str, status: int) -> None:
    assert remedies(NAMING[server], CHAT, status=status) == ["drop verbosity"]


PRIVATE: JSON = {
    "input": [
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "hi", "seen": {"by": {"a": 1}}}],
        },
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}", "namespace": "functions"},
        {
            "type": "function_call_output",
            "call_id": "c",
            "output": [{"type": "input_text", "text": "x", "of": {"a": 1}}],
        },
    ]
}


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("input[1].namespace", "drop input[].namespace"),
        ("input.1.namespace", "drop input[].namespace"),
        ("tools[0].namespace", "drop tools[].namespace"),
        ("input[0].content[0].seen", "drop input[].content[].seen"),
        ("input[0].content[0].seen.by", "drop input[].content[].seen"),
        ("input[0].content[0].seen.by.a", "drop input[].content[].seen"),
        ("input[2].output[0].of.a", "drop input[].output[].of"),
    ],
)
def test_a_private_member_of_an_item_or_a_part_is_left_out(path: str, remedy: str) -> None:
    request = {**PRIVATE, "tools": [{"type": "function", **FUNCTION, "namespace": "functions"}]}
    assert remedies(openai(f"Unknown parameter: '{path}'.", None), request) == [remedy]


def test_tools_of_a_namespace_become_functions_where_it_is_refused() -> None:
    request = {**PRIVATE, "tools": [{"type": "namespace", "name": "functions", "tools": [FUNCTION]}]}
    assert remedies(openai("Unknown parameter: 'input[1].namespace'."), request) == ["tools: functions"]


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_other_statuses_refuse_nothing(status: int) -> None:
    assert remedies(NAMING["openai"], CHAT, status=status) == []


@pytest.mark.parametrize("name", ["temperature", "top_p", "user", "stream_options", "parallel_tool_calls"])
@pytest.mark.parametrize(
    "sentence",
    [
        "Unsupported parameter: '{}' is not supported with this model.",
        "{} is not supported",
        "This model does not support {}.",
        "`{}` is deprecated for this model.",
        "The parameter {} is not allowed.",
    ],
)
def test_every_wish_may_go(name: str, sentence: str) -> None:
    assert remedies(openai(sentence.format(name)), CHAT) == [f"drop {name}"]


def test_all_members_that_an_answer_lists_go_at_once() -> None:
    listed = [{**DETAIL[0], "loc": ["body", name]} for name in ("verbosity", "user", "model")]
    assert remedies({"detail": listed}, CHAT) == ["drop verbosity", "drop user"]
    assert remedies(openai("Unrecognized request arguments supplied: user, verbosity"), CHAT) == [
        "drop user",
        "drop verbosity",
    ]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (openai("Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) value is "
                "supported.", "temperature"), ["drop temperature"]),
        (openai("invalid temperature: only 1 is allowed for this model"), ["drop temperature"]),
        (openai("`temperature` and `top_p` cannot both be specified for this model. Please use only one."),
         ["sampling: one"]),
        ({"error": '"gemma3" does not support thinking'}, ["drop reasoning_effort"]),
        ({"error": "Argument not supported on this model: reasoningEffort"}, ["drop reasoning_effort"]),
        ([{"error": {"message": "Unknown name \"additionalProperties\" at 'tools[0].function_declarations[0]."
                     "parameters': Cannot find field."}}], ["drop tools.**.additionalProperties"]),
        (openai("Unsupported parameter: 'tool_choice' is not supported.", "tool_choice"), ["omit tool_choice"]),
        (openai("litellm.UnsupportedParamsError: openai does not support parameters: ['user', 'verbosity'], for m"),
         ["drop user", "drop verbosity"]),
        (openai("Unknown name \"strict\" at 'tools[0].function': Cannot find field."),
         ["omit tools[].function.strict"]),
        ({"error": 'think value "minimal" is not supported for this model'},
         ["allow reasoning_effort low|medium|high"]),
        (openai("The 'metadata' parameter is only allowed when 'store' is enabled."), []),
        (openai("Unsupported value: 'messages[0].role' does not support 'system' with this model."),
         ["system_messages: user"]),
        (openai("Only user and assistant roles are supported!"), ["system_messages: user"]),
        (openai("tools.0.function.strict: Extra inputs are not permitted"), ["omit tools[].function.strict"]),
        (openai("Parallel tool calls are not supported for this model"), ["drop parallel_tool_calls"]),
        (openai("invalid reasoning value: 'minimal' (must be \"high\", \"medium\", \"low\", true, or false)"),
         ["allow reasoning_effort high|medium|low"]),
        ({"error": "Argument not supported on this model: topP"}, ["drop top_p"]),
        ({"error": "Argument not supported on this model: user"}, ["drop user"]),
    ],
)  # fmt: skip
def test_a_chat_request_is_mended(answer: Any, expected: list[str]) -> None:
    assert remedies(answer, CHAT) == expected


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("input[1].private", "drop input[].private"),
        ("input[1].private.turn", "drop input[].private"),
        ("client_metadata", "drop client_metadata"),
        ("store", "drop store"),
        ("service_tier", "drop service_tier"),
        ("safety_identifier", "drop safety_identifier"),
        ("prompt_cache_key", "drop prompt_cache_key"),
        ("reasoning.summary", "drop reasoning.summary"),
        ("text.verbosity", "drop text.verbosity"),
        ("include", "omit include"),
        ("input[0].content[0].logprobs", "drop input[].content[].logprobs"),
        ("input[0].id", "item_ids: omit"),
        ("input[0].phase", "drop input[].phase"),
    ],
)
def test_nested_members_of_a_responses_request_go(param: str, expected: str) -> None:
    assert remedies(openai(f"Unknown parameter: '{param}'.", param), RESPONSES) == [expected]
    assert remedies(openai(f"Unknown parameter: '{param}'."), RESPONSES) == [expected]


def test_a_private_member_goes_from_every_item() -> None:
    request = {**RESPONSES, "input": [{**item, "private": {"turn": 1}} for item in RESPONSES["input"]]}
    again = sent(openai("Unknown parameter: 'input[0].private'.", "input[0].private"), request)
    assert all("private" not in item for item in again["input"])


MARK, BREAKPOINT = (
    {"cache_control": {"type": "ephemeral", "ttl": "1h"}},
    {"prompt_cache_breakpoint": {"mode": "explicit"}},
)
MARKED: list[JSON] = [
    {
        **RESPONSES,
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a", **MARK}]}],
    },
    {**CHAT, "messages": [{"role": "user", "content": [{"type": "text", "text": "a", **MARK}]}]},
    {**MESSAGES, "system": [{"type": "text", "text": "Be kind."}, {"type": "text", "text": "b", **MARK}]},
]


@pytest.mark.parametrize("request_", MARKED, ids=["responses", "chat_completions", "messages"])
@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("{at}.cache_control", "drop **.cache_control"),
        ("cache_control", "drop **.cache_control"),
        ("{at}.cache_control.ttl", "drop **.cache_control.ttl"),
    ],
)
def test_a_mark_for_the_cache_goes_from_every_place(request_: JSON, place: str, expected: str) -> None:
    at = "input[0].content[0]" if "input" in request_ else "messages[0].content[0]"
    place = place.format(at="system.1" if "system" in request_ else at)
    sentence = f"{place}: Extra inputs are not permitted"
    assert remedies(openai(sentence), request_) == [expected]
    assert remedies(anthropic(sentence), request_) == [expected]


@pytest.mark.parametrize(
    "path", ["prompt_cache_breakpoint", "prompt_cache_breakpoint.ttl", "prompt_cache_breakpoint.mode"]
)
def test_a_breakpoint_goes_from_every_place(path: str) -> None:
    content = [{"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}}]
    request = {**RESPONSES, "input": [{"type": "message", "role": "user", "content": content}]}
    param = f"input[0].content[0].{path}"
    assert remedies(openai(f"Unknown parameter: '{param}'.", param), request) == ["drop **.prompt_cache_breakpoint"]


@pytest.mark.parametrize(
    "sentence",
    [
        "Failed to deserialize the JSON body: messages[0]: invalid type: sequence, expected a string",
        "1 validation error: messages.0.content: Input should be a valid string",
        "Invalid value for 'content': expected a string, got array.",
        "messages[0].content must be a string",
    ],
)
def test_a_server_that_takes_text_as_a_string_only_gets_no_marks(sentence: str) -> None:
    parts = [{"type": "text", "text": "a", **MARK, **BREAKPOINT}]
    marked = {**CHAT, "messages": [{"role": "user", "content": parts}]}
    expected = ["drop **.cache_control", "drop **.prompt_cache_breakpoint"]
    assert remedies(openai(sentence), marked) == expected
    bare = {**CHAT, "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}
    assert not set(expected) & set(remedies(openai(sentence), bare))


# --- values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "sentence", "better"),
    [
        ("minimal", "reasoning_effort: Input should be 'low', 'medium' or 'high', got 'minimal'", "low"),
        ("xhigh", "reasoning_effort: Input should be 'low', 'medium' or 'high', got 'xhigh'", "high"),
        ("none", "Unsupported value: 'reasoning_effort' does not support 'none' with this model. Supported values are: "
                 "'minimal', 'low', 'medium', and 'high'.", "minimal"),
        ("low", "Unsupported value: 'low'. Supported values are: 'medium'.", "medium"),
        ("xhigh", "unknown variant `xhigh`, expected one of `low`, `high` at reasoning_effort", "high"),
        ("minimal", "Invalid value for reasoning_effort: 'minimal'", "low"),
        ("high", "reasoning_effort must be one of none, default", None),
        ("minimal", "reasoning_effort must be one of none, high", "none"),
        ("high", "reasoning_effort is not supported", None),
    ],
)  # fmt: skip
def test_an_effort_becomes_the_nearest_that_the_model_has(value: str, sentence: str, better: str | None) -> None:
    request = {**CHAT, "reasoning_effort": value}
    assert sent(openai(sentence, "reasoning_effort"), request).get("reasoning_effort") == better


def test_an_effort_that_no_value_helps_is_left_out() -> None:
    sentence = openai("Invalid value for reasoning_effort: 'low'", "reasoning_effort")
    row = Channel("c", "f", params=Params(allow={"reasoning_effort": ("low", "medium", "high")}))
    assert remedies(sentence, {**CHAT, "reasoning_effort": "low"}, row) == ["drop reasoning_effort"]


def test_what_was_learnt_of_an_effort_holds_for_its_other_values() -> None:
    row = Channel("c", "f", params=Params(allow={"reasoning.effort": ("low", "medium", "high")}))
    for effort, better in (("none", "low"), ("minimal", "low"), ("medium", "medium"), ("max", "high")):
        body, _ = adapted(orjson.dumps({"reasoning": {"effort": effort}}), row)
        assert orjson.loads(body) == {"reasoning": {"effort": better}}


@pytest.mark.parametrize(
    "sentence",
    [
        "metadata.user_id: user_id appears to contain an email address. Please send a uuid or hash value instead.",
        "metadata.user_id: String should have at most 256 characters",
    ],
)
def test_a_user_becomes_a_hash_and_then_nobody(sentence: str) -> None:
    user = sent(anthropic(sentence), MESSAGES)["metadata"]["user_id"]
    assert (len(user), "@" in user) == (64, False)
    row = Channel("c", "f", params=Params(hash=("metadata.user_id",)))
    assert remedies(anthropic(sentence), MESSAGES, row) == ["drop metadata.user_id"]


def test_a_long_key_becomes_a_hash() -> None:
    sentence = "Invalid 'prompt_cache_key': string too long. Expected a string with maximum length 64."
    assert len(sent(openai(sentence, "prompt_cache_key"), RESPONSES)["prompt_cache_key"]) == 64


# --- members with an equivalent ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sentence",
    [
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "Unrecognized request argument supplied: max_tokens",
    ],
)
def test_the_limit_gets_its_other_name(sentence: str) -> None:
    again = sent(openai(sentence), CHAT)
    assert (again.get("max_completion_tokens"), "max_tokens" in again) == (100, False)


@pytest.mark.parametrize(
    "sentence",
    [
        "max_tokens: 100000 > 8192, which is the maximum allowed number of output tokens for claude-x",
        "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than that.",
        "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
        "max_tokens is too large: 100000. This model supports at most 8192 completion tokens.",
    ],
)
def test_a_limit_is_as_high_as_the_upstream_takes_it(sentence: str) -> None:
    assert sent(anthropic(sentence), MESSAGES)["max_tokens"] == 8192


def test_a_union_at_the_top_of_a_schema_is_taken_apart() -> None:
    sentence = "tools.0.custom.input_schema: input_schema does not support oneOf, allOf, or anyOf at the top level"
    tool = sent(anthropic(sentence), MESSAGES)["tools"][0]
    assert "anyOf" not in tool["input_schema"]
    assert '"anyOf":[{"required":["a"]}]' in tool["description"]
    schema = "Invalid schema for function 'look': schema must have type 'object' and not have 'oneOf'/'anyOf'/'allOf' "
    function = {**FUNCTION, "parameters": {"oneOf": [{"properties": {"a": {}}}]}}
    request = {**CHAT, "tools": [{"type": "function", "function": function}]}
    parameters = sent(openai(f"{schema}at the top level."), request)["tools"][0]["function"]["parameters"]
    assert parameters == {"type": "object", "properties": {"a": {}}}


@pytest.mark.parametrize(
    "words",
    [
        "Invalid schema for function 'look': '$ref' is not permitted.",
        "tools.0.custom.input_schema: JSON schema is invalid: references to $defs are not supported",
        "Invalid JSON payload received. Unknown name \"$ref\" at 'tools[0]': Cannot find field.",
        "GenerateContentRequest.tools[0].parameters: reference to undefined schema at top-level",
    ],
)
def test_references_in_schemas_are_followed(words: str) -> None:
    parameters = {"$defs": {"a": {"type": "string"}}, "type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}
    request = {**CHAT, "tools": [{"type": "function", "function": {**FUNCTION, "parameters": parameters}}]}
    (tool,) = sent(openai(words), request)["tools"]

    assert tool["function"]["parameters"] == {"type": "object", "properties": {"a": {"type": "string"}}}


def test_tools_of_mixed_strictness_become_alike() -> None:
    strict = {"type": "function", "function": {**FUNCTION, "strict": True}}
    request = {**CHAT, "tools": [strict, {"type": "function", "function": FUNCTION}]}
    sentence = "Tools with mixed values for 'strict' are not allowed. Please set all tools to 'strict: true' or 'false'"
    # The schemas follow the strict rules already, so that nothing is lost.
    assert {tool["function"]["strict"] for tool in sent(openai(sentence), request)["tools"]} == {True}
    loose = {"name": "loose", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
    request["tools"].append({"type": "function", "function": loose})
    assert {tool["function"]["strict"] for tool in sent(openai(sentence), request)["tools"]} == {False}
    # Tools that are alike stay as they are.
    body = orjson.dumps({"tools": [strict, strict]})
    assert adapted(body, Channel("c", "f", tool_strictness="uniform")) == (body, ())


@pytest.mark.parametrize(
    ("sentence", "accepted"),
    [
        ("This response_format type is unavailable now", "object"),
        ("This model does not support response format `json_schema`.", "object"),
        ("Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.", "object"),
        ("Invalid schema for response_format 'x': In context=(), 'required' is required to be supplied.", None),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_an_instruction(sentence: str, accepted: str | None) -> None:
    expected = [f"text_format: {accepted}"] if accepted else []
    assert remedies(openai(sentence), {**CHAT, "response_format": FORMAT}) == expected


def test_a_json_object_has_an_equivalent_too() -> None:
    request = {**CHAT, "response_format": {"type": "json_object"}}
    only_schemas = {"error": "'response_format.type' must be 'json_schema' or 'text'"}
    assert remedies(only_schemas, request) == ["text_format: schema_only"]
    assert remedies(openai("response_format is not supported"), request) == ["text_format: instruction"]


@pytest.mark.parametrize(
    "answer",
    [
        openai("Invalid value: 'custom'. Supported values are: 'function', 'file_search'.", "tools[0].type"),
        {"error": "tools[0]: unknown variant `custom`, expected one of `function`, `mcp`"},
        {"detail": [{"loc": ["body", "tools", 0, "type"], "msg": "Input should be 'function'"}]},
        openai("Unsupported tool type"),
        openai("Hosted tool 'web_search' is not supported with this model."),
        {"error": "'type' of tool must be 'function'"},
    ],
)
def test_other_tools_become_functions(answer: Any) -> None:
    assert remedies(answer, CUSTOM) == ["tools: functions"]
    assert "tools: functions" not in remedies(answer, RESPONSES)


def test_a_developer_becomes_the_system() -> None:
    sentence = "input[0].role: unknown variant `developer`, expected one of `system`, `user`, `assistant`"
    assert [item["role"] for item in sent({"error": sentence}, RESPONSES)["input"]] == ["system", "user"]


@pytest.mark.parametrize(
    "sentence",
    [
        "After the optional system message, conversation roles must alternate user/assistant/user/assistant/...",
        "Conversation roles must alternate user/assistant/user/assistant/...",
        "Unexpected role 'user' after role 'tool'",
        "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant",
        'messages: roles must alternate between "user" and "assistant", but found multiple "user" roles in a row',
        "After the (optional) system message(s), user or tool message(s) should alternate with assistant message(s).",
        "Please ensure that multiturn requests alternate between user and model.",
    ],
)
def test_an_order_is_learnt(sentence: str) -> None:
    assert remedies({"object": "error", "message": sentence, "code": 400}, CHAT) == ["message_order: strict"]
    assert remedies(openai(sentence), CHAT, Channel("c", "f", message_order="strict")) == []


def test_results_that_have_to_be_text_are_text() -> None:
    request = {**CHAT, "messages": [*CHAT["messages"], {"role": "tool", "content": [{"type": "text", "text": "x"}]}]}
    refused = openai("Invalid input: messages.1.content")
    assert remedies(refused, request, Channel("c", "f", tool_images="tool")) == ["tool_images: user"]
    assert remedies(refused, request) == []


def test_a_template_that_fails_with_a_500_is_understood() -> None:
    sentence = "Conversation roles must alternate user/assistant/user/assistant/... at row 12, column 5"
    answer = {"error": {"code": 500, "message": sentence, "type": "server_error"}}
    assert remedies(answer, CHAT, status=500) == ["message_order: strict"]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Function call is missing a thought_signature in functionCall parts.", "call_signatures: google"),
        ("Gemini models require OpenRouter reasoning details to be preserved.", "call_signatures: openrouter"),
        ("Tool call id was call_x but must be a-z, A-Z, 0-9, with a length of 9.", "call_ids: short"),
        ("Invalid 'messages[2].tool_calls[0].id': string too long. Expected a length of 40.", "call_ids: short"),
        ("messages.1.content.0.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'", "call_ids: short"),
        ("Missing `reasoning_content` field in the assistant message at message index 1.", "reasoning_text: true"),
    ],
)
def test_calls_of_other_models_get_what_the_upstream_asks_for(sentence: str, expected: str) -> None:
    assert remedies(openai(sentence), CHAT) == [expected]


@pytest.mark.parametrize(
    "sentence",
    [
        "Invalid 'input[1].id': 'item_9'. Expected an ID that begins with 'fc'.",
        "Invalid 'input[3].id': string too long. Expected a string with maximum length 64.",
        "Duplicate item found with id msg_1. Remove duplicate items from your input and try again.",
        "Item 'fc_1' of type 'function_call' was provided without its required 'reasoning' item: 'rs_1'.",
        "Item with id 'rs_1' not found. Items are not persisted when `store` is set to false.",
    ],
)
def test_items_whose_ids_are_refused_go_without(sentence: str) -> None:
    assert remedies(openai(sentence), RESPONSES) == ["item_ids: omit"]


def test_reasoning_text_that_is_missing_or_too_much() -> None:
    needed = openai("The `reasoning_content` in the thinking mode must be passed back to the API.")
    assert remedies(needed, CHAT) == ["reasoning_text: true"]
    loc = ["body", "messages", 1, "assistant", "reasoning_content"]
    extra = {"detail": [{"type": "extra_forbidden", "loc": loc, "msg": "Extra inputs are not permitted"}]}
    groq = openai("'messages.2' : property 'reasoning_content' is unsupported")
    request = {**CHAT, "messages": [*CHAT["messages"], {"role": "assistant", "reasoning_content": "Hm."}]}
    for answer in (extra, groq):
        row = Channel("c", "f", reasoning_text=True)
        assert remedies(answer, request, row) == ["reasoning_text: false"]
        assert remedies(answer, request) == []


def test_a_template_without_a_system_role_is_learnt() -> None:
    for sentence in ("System role not supported", "Developer instruction is not enabled for models/gemma-3"):
        assert remedies(openai(sentence), CHAT) == ["system_messages: user"]
    kept = Channel("c", "f", system_messages="keep")
    assert remedies(openai("System message must be at the beginning."), CHAT, kept) == ["system_messages: merge"]


@pytest.mark.parametrize(
    ("role", "sentence", "other"),
    [
        ("system", "System messages are not allowed", "developer"),
        ("developer", "Developer messages are not supported", "system"),
    ],
)
def test_a_refused_role_of_instructions_becomes_the_other_one(role: str, sentence: str, other: str) -> None:
    request = {**RESPONSES, "input": [{"type": "message", "role": role, "content": "Be kind."}]}
    assert sent({"detail": sentence}, request)["input"][0]["role"] == other
    # Nothing was sent with this role.
    assert remedies({"detail": sentence}, {**RESPONSES, "input": [{"role": "user", "content": "hi"}]}) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "[{'type': 'missing', 'loc': ('body', 'input', 'ResponseOutputMessageParam', 'id'), 'msg': 'Field required'}]",
        "1 validation error for ResponsesRequest\ninput.1.ResponseOutputMessageParam.status\n  Field required",
        "Missing required parameter: 'input[1].id'.",
    ],
)
def test_messages_get_the_ids_that_a_server_requires(sentence: str) -> None:
    assert remedies(openai(sentence), RESPONSES) == ["item_ids: made"]


# --- what stays the client's ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        openai("Unsupported parameter: 'logprobs' is not supported with this model.", "logprobs"),
        openai("Unsupported parameter: 'tools' is not supported with this model.", "tools"),
        openai("Invalid value: 'messages' must not be empty.", "messages"),
        openai("This model does not support image input."),
        openai("The model `m` does not exist."),
        openai("No."),
        openai("Mind the temperature of the user."),
        {"error": {"message": "Invalid prompt: your prompt was flagged; temperature is not supported"}},
    ],
)
def test_what_the_answer_depends_on_is_never_left_out(answer: Any) -> None:
    assert remedies(answer, CHAT) == []


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("include[0]", ["omit include"]),
        ("tools[0]", []),
        ("input[1]", []),
        ("input[0].content[0]", []),
        ("[]", []),
        ("[0][1]", []),
        ("$", []),
    ],
)
def test_an_element_of_a_list_is_refused_as_a_part_of_its_member(param: str, expected: list[str]) -> None:
    assert remedies(openai("Invalid value.", param), RESPONSES) == expected


#: As Codex' backend, Qwen and others say that they only stream.
ONLY_STREAMS = [
    {"detail": "Stream must be set to true"},
    openai("This model only support stream mode, please enable the stream parameter to access the model. "),
    openai("parameter.enable_thinking must be set to false for non-streaming calls"),
    openai("Non-streaming requests are not supported by this model"),
    openai("This model does not support non-streaming requests."),
    openai("This endpoint requires streaming"),
]


@pytest.mark.parametrize("answer", ONLY_STREAMS)
def test_a_stream_is_requested_where_nothing_else_is_given(answer: Any) -> None:
    assert remedies(answer, {**CHAT, "stream": False}) == ["streaming: always"]
    assert "streaming: always" not in remedies(answer, CHAT)


def test_enforced_schemas_of_tools_stay() -> None:
    request = {**CHAT, "tools": [{"type": "function", "function": {**FUNCTION, "strict": True}}]}
    for sentence in ("tools[0].function.strict: Extra inputs are not permitted", "property 'strict' is unsupported"):
        assert remedies(openai(sentence), request) == []
    keyword = [{"error": {"message": 'Unknown name "additionalProperties" at tools[0]: Cannot find field.'}}]
    assert remedies(keyword, request) == []


def test_a_context_that_is_too_long_is_no_matter_of_members() -> None:
    sentence = "This model's maximum context length is 8192 tokens. Reduce the messages or max_tokens: 100 not allowed."
    assert remedies(openai(sentence), CHAT) == []


def test_a_refusal_inside_a_stream_counts() -> None:
    error = stream_error({"type": "invalid_request_error", "message": "Unknown parameter: 'verbosity'."})
    assert [str(remedy) for remedy in remedies_for(error, CHAT, Channel("c", "f"))] == ["drop verbosity"]


def test_each_thing_is_proposed_once() -> None:
    for answer in NAMING.values():
        row = Channel("c", "f", params=Params(drop=("verbosity",)))
        assert "drop verbosity" not in remedies(answer, CHAT, row)


@pytest.mark.parametrize(
    ("learnt", "request_"),
    [
        (Params(omit=("tool_choice",)), {"tool_choice": "required"}),
        (Params(omit=("include",)), {"include": ["message.output_text.logprobs"]}),
        (Params(omit=("tools[].strict",)), {"tools": [{"strict": True}]}),
        (Params(drop=("tools.**.additionalProperties",)), {"tools": [{"strict": True, "additionalProperties": False}]}),
        (Params(allow={"reasoning_effort": ("low",)}), {"reasoning_effort": "low"}),
    ],
)
def test_what_was_learnt_of_a_default_leaves_other_values_alone(learnt: Params, request_: JSON) -> None:
    body = orjson.dumps(request_)
    assert adapted(body, Channel("c", "f", params=learnt)) == (body, ())


def test_one_of_temperature_and_top_p_alone_stays() -> None:
    row = Channel("c", "f", sampling="one")
    assert orjson.loads(adapted(b'{"temperature":0.2,"top_p":0.5}', row)[0]) == {"temperature": 0.2}
    assert adapted(b'{"top_p":0.5}', row) == (b'{"top_p":0.5}', ())


# --- remedies as values -----------------------------------------------------------------------------------------


def test_a_remedy_survives_its_json() -> None:
    for remedy in (
        Remedy("drop", "tools[].strict"),
        Remedy("allow", "reasoning_effort", ("low", "high")),
        Remedy("at_most", "max_tokens", 8192),
        Remedy("row", "message_order", "strict"),
    ):
        assert Remedy.of(orjson.loads(orjson.dumps(remedy.wire()))) == remedy
    for unknown in (["later", "x", None], ["row", "no_such_key", 1], ["drop"], None, {}):
        assert Remedy.of(unknown) is None


def test_a_digest_is_that_of_what_a_row_says_about_its_upstream() -> None:
    row = Channel("c", "f", base_url="http://h/v1", api_key="one", headers={"X-Beta": "a", "X-Api-Key": "s"}, line=3)
    same = Channel("c", "f", base_url="http://h/v1", api_key="two", headers={"X-Beta": "a", "X-Api-Key": "t"}, line=9)
    assert digest_of(row) == digest_of(same)
    for other in (
        Channel("c", "f", base_url="http://other/v1", headers={"X-Beta": "a"}),
        Channel("c", "f", base_url="http://h/v1", headers={"X-Beta": "b"}),
        Channel("c", "f", base_url="http://h/v1", headers={"X-Beta": "a"}, params=Params(drop=("user",))),
    ):
        assert digest_of(row) != digest_of(other)


def test_a_row_sets_drops_and_renames() -> None:
    params = Params(
        drop=("user", "**.cache_control"),
        rename={"max_tokens": "max_completion_tokens"},
        set={"reasoning.effort": "low", "tools[].strict": False, "store": True},
    )
    request = {"user": "a", "max_tokens": 5, "tools": [{"cache_control": {}}, {}], "input": [{"cache_control": {}}]}
    body, changes = adapted(orjson.dumps(request), Channel("c", "f", params=params))
    assert orjson.loads(body) == {
        "max_completion_tokens": 5,
        "tools": [{"strict": False}, {"strict": False}],
        "input": [{}],
        "reasoning": {"effort": "low"},
        "store": True,
    }
    assert changes == (
        "drop user",
        "drop **.cache_control",
        "rename max_tokens max_completion_tokens",
        "set reasoning.effort",
        "set tools[].strict",
        "set store",
    )


def test_a_request_without_the_members_stays_the_same_bytes() -> None:
    body = b'{ "model": "m" }'
    assert adapted(body, Channel("c", "f", params=Params(drop=("user",)))) == (body, ())
