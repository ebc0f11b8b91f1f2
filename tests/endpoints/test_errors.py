"""What POST /v1/responses refuses: OpenAI's own sentences, codes and params, and never a 5xx whatever is sent."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.endpoints.conftest import EXACT, OPEN_MINDED
from tests.endpoints.vocabulary import ITEMS, JSON, message_item
from tests.gateway import Gateway
from tests.response_contract import check_error, check_response
from tests.upstream import ScriptedUpstream, refusal

CALL: JSON = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
RESULT: JSON = {"type": "function_call_output", "call_id": "call_1", "output": "1"}
CUSTOM: JSON = {"type": "custom_tool_call", "call_id": "call_1", "name": "f", "input": "x"}
UNKNOWN = "resp_" + "0" * 48

# --- sentences that clients match -------------------------------------------------------------------------------


def _missing(param: str) -> tuple[str, str, str]:
    return "missing_required_parameter", param, f"Missing required parameter: '{param}'."


def _type(param: str, message: str) -> tuple[str, str, str]:
    return "invalid_type", param, f"Invalid type for '{param}': {message}"


def _range(param: str, kind: str, side: str, sentence: str) -> tuple[str, str, str]:
    limit = {"below": "minimum", "above": "maximum"}[side]
    return f"{kind}_{side}_{limit[:3]}_value", param, f"Invalid '{param}': {kind} {side} {limit} value. {sentence}"


def _value(param: str, got: str, *supported: str) -> tuple[str, str, str]:
    listed = [f"'{name}'" for name in supported]
    joined = ", ".join(listed[:-1]) + f", and {listed[-1]}" if len(listed) > 2 else " and ".join(listed)
    return "invalid_value", param, f"Invalid value: '{got}'. Supported values are: {joined}."


def _long(param: str, limit: int, got: int) -> tuple[str, str, str]:
    sentence = f"Expected a string with maximum length {limit}, but got a string with length {got} instead."
    return "string_above_max_length", param, f"Invalid '{param}': string too long. {sentence}"


STRING, INTEGER, BOOLEAN = "but got a string instead.", "but got an integer instead.", "but got a boolean instead."
MUTUAL = "Mutually exclusive parameters. Ensure you are only providing one of: "
REFUSED: list[tuple[JSON, tuple[Any, Any, str]]] = [
    ({"model": None}, _missing("model")),
    ({"input": None}, _missing("input")),
    ({"input": None, "instructions": "Be brief."}, _missing("input")),
    ({"input": 5}, ("invalid_type", "input", "Invalid type for 'input': expected")),
    ({"input": {"role": "user", "content": "a"}}, ("invalid_type", "input", "Invalid type for 'input': expected")),
    ({"input": True}, ("invalid_type", "input", "Invalid type for 'input': expected")),
    ({"input": ["a"]}, _type("input[0]", "expected an object, " + STRING)),
    ({"input": [message_item("a"), {"role": "user"}]}, _missing("input[1].content")),
    ({"input": [{"type": "message", "content": "a"}]}, _missing("input[0].role")),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, _missing("input[0].content[0].text")),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, _missing("input[0].arguments")),
    ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, _missing("input[0].call_id")),
    ({"input": [{**CALL, "call_id": None}]}, _type("input[0].call_id", "expected a string, but got null instead.")),
    ({"input": [{**CALL, "arguments": {}}]}, _type("input[0].arguments", "expected a string, but got an object")),
    ({"input": [{**CALL, "call_id": "c" * 65}, RESULT]}, _long("input[0].call_id", 64, 65)),
    ({"input": [{**CALL, "call_id": ""}, RESULT]}, (Any, "input[0].call_id", "Invalid 'input[0].call_id'")),
    ({"input": [{"type": "item_reference"}]}, _missing("input[0].id")),
    ({"input": [CALL]}, (None, "input", "No tool output found for function call call_1.")),
    ({"input": [CALL, message_item("never mind")]}, (None, "input", "No tool output found for function call call_1.")),
    ({"input": [RESULT]}, (None, "input", "No tool call found for function call output with call_id call_1.")),
    ({"input": [CUSTOM, RESULT]}, (None, "input", "No tool")),
    ({"model": "nobody-has-it"}, ("model_not_found", "model", "The requested model 'nobody-has-it' does not exist.")),
    ({"model": 7}, _type("model", "expected a string, " + INTEGER)),
    ({"previous_response_id": UNKNOWN},
     ("previous_response_not_found", "previous_response_id", f"Previous response with id '{UNKNOWN}' not found.")),
    ({"previous_response_id": "resp_x"},
     ("previous_response_not_found", "previous_response_id", "Previous response with id 'resp_x' not found.")),
    ({"previous_response_id": "resp_/../x"},
     ("invalid_value", "previous_response_id", "Invalid 'previous_response_id': 'resp_/../x'. Expected an ID that")),
    ({"previous_response_id": 5}, _type("previous_response_id", "expected a string, " + INTEGER)),
    ({"previous_response_id": UNKNOWN, "conversation": "conv_1"},
     ("mutually_exclusive_parameters", Any, MUTUAL + "'previous_response_id' or 'conversation'.")),
    ({"previous_response_id": 5, "conversation": 5},
     ("mutually_exclusive_parameters", Any, MUTUAL + "'previous_response_id' or 'conversation'.")),
    ({"conversation": "x"},
     ("invalid_value", "conversation", "Invalid 'conversation': 'x'. Expected an ID that begins with 'conv_'.")),
    ({"background": True, "store": False},
     (Any, "background", "background can only be used when `store` is true")),
    ({"instructions": 5}, ("invalid_type", "instructions", "Invalid type for 'instructions': expected")),
    ({"instructions": ["a"]}, ("invalid_type", "instructions", "Invalid type for 'instructions': expected")),
    ({"instructions": {"role": "system"}}, (Any, Any, "")),
    ({"stream": "true"}, _type("stream", "expected a boolean, " + STRING)),
    ({"stream": 1}, _type("stream", "expected a boolean, " + INTEGER)),
    ({"store": "false"}, _type("store", "expected a boolean, " + STRING)),
    ({"background": 0}, _type("background", "expected a boolean, " + INTEGER)),
    ({"parallel_tool_calls": "no"}, _type("parallel_tool_calls", "expected a boolean, " + STRING)),
    ({"max_output_tokens": "10"}, _type("max_output_tokens", "expected an integer, " + STRING)),
    ({"max_output_tokens": True}, _type("max_output_tokens", "expected an integer, " + BOOLEAN)),
    ({"max_output_tokens": 20.5}, ("invalid_type", "max_output_tokens", "Invalid type for 'max_output_tokens'")),
    ({"max_output_tokens": 0},
     _range("max_output_tokens", "integer", "below", "Expected a value >= 1, but got 0 instead.")),
    ({"max_tool_calls": 0}, _range("max_tool_calls", "integer", "below", "Expected a value >= 1, but got 0 instead.")),
    ({"top_logprobs": -1}, _range("top_logprobs", "integer", "below", "Expected a value >= 0, but got -1 instead.")),
    ({"top_logprobs": 21}, _range("top_logprobs", "integer", "above", "Expected a value <= 20, but got 21 instead.")),
    ({"temperature": -0.1}, _range("temperature", "decimal", "below", "Expected a value >= 0, but got -0.1 instead.")),
    ({"temperature": 2.1}, _range("temperature", "decimal", "above", "Expected a value <= 2, but got 2.1 instead.")),
    ({"temperature": "1"}, ("invalid_type", "temperature", "Invalid type for 'temperature': expected a")),
    ({"top_p": 1.1}, _range("top_p", "decimal", "above", "Expected a value <= 1, but got 1.1 instead.")),
    ({"top_p": -1}, _range("top_p", "decimal", "below", "Expected a value >= 0, but got -1 instead.")),
    ({"truncation": "middle"}, _value("truncation", "middle", "auto", "disabled")),
    ({"service_tier": "gold"},
     _value("service_tier", "gold", "auto", "default", "flex", "scale", "priority", "fast", "ultrafast")),
    ({"reasoning": {"effort": "huge"}},
     _value("reasoning.effort", "huge", "none", "minimal", "low", "medium", "high", "xhigh", "max")),
    ({"reasoning": "high"}, _type("reasoning", "expected an object, " + STRING)),
    ({"text": {"verbosity": "loud"}}, _value("text.verbosity", "loud", "low", "medium", "high")),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, _missing("text.format.schema")),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, _missing("text.format.name")),
    ({"tools": {}}, ("invalid_type", "tools", "Invalid type for 'tools': expected an array")),
    ({"tools": [{"type": "function"}]}, _missing("tools[0].name")),
    ({"tools": [{"type": "function", "name": "f"}, {}]}, _missing("tools[1].type")),
    ({"tools": [{"type": "function", "name": "a b"}]}, (Any, "tools[0].name", "Invalid 'tools[0].name'")),
    ({"tools": [{"type": "function", "name": "f" * 129}]}, _long("tools[0].name", 128, 129)),
    ({"tools": [{"type": "function"}], "tool_choice": {"type": "function", "name": "g"}},
     ("invalid_value", "tool_choice", "Tool choice 'g' not found in 'tools' parameter.")),
    ({"tool_choice": "perhaps"}, _value("tool_choice", "perhaps", "none", "auto", "required")),
    ({"metadata": []}, ("invalid_type", "metadata", "Invalid type for 'metadata': expected an object")),
    ({"metadata": {"k": 7}}, _type("metadata.k", "expected a string, " + INTEGER)),
    ({"metadata": {"k": "v" * 513}}, _long("metadata.k", 512, 513)),
    ({"metadata": {str(n): "v" for n in range(17)}},
     ("object_above_max_properties", "metadata", "Invalid 'metadata': too many properties.")),
    ({"metadata": {"k" * 65: "v"}}, (Any, "metadata", "Invalid")),
    ({"safety_identifier": "s" * 129}, _long("safety_identifier", 128, 129)),
    ({"user": 5}, _type("user", "expected a string, " + INTEGER)),
    ({"prompt_cache_key": 5}, _type("prompt_cache_key", "expected a string, " + INTEGER)),
    ({"include": "reasoning.encrypted_content"}, ("invalid_type", "include", "Invalid type for 'include': expected")),
    ({"stream_options": "yes"}, _type("stream_options", "expected an object, " + STRING)),
    ({"context_management": [{"type": "compaction", "compact_threshold": 0}]},
     _range("context_management[0].compact_threshold", "integer", "below", "Expected a value >= 1, but got 0")),
    ({"prompt": "pmpt_1"}, _type("prompt", "expected an object, " + STRING)),
    ({"prompt": {"version": "1"}}, _missing("prompt.id")),
    ({"input": "x" * 10_485_761}, _long("input", 10_485_760, 10_485_761)),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize(
    ("change", "error"), REFUSED, ids=[re.sub(r"\W+", " ", str(change))[:50] for change, _ in REFUSED]
)
def test_a_wrong_value_is_refused_in_openais_words(
    api: Gateway, change: JSON, error: tuple[Any, Any, str], stream: bool
) -> None:
    code, param, message = error
    body = {"model": "demo", "input": "hello", **({"stream": True} if stream else {}), **change}
    refused = check_error(api.post("/responses", body), 400, type="invalid_request_error")

    assert refused["message"].startswith(message)
    assert code in (Any, refused["code"]), refused
    assert param in (Any, refused["param"]), refused


@pytest.mark.parametrize("value", ["", []], ids=["string", "array"])
def test_empty_input_is_refused(api: Gateway, value: Any) -> None:
    check_error(api.post("/responses", {"model": "demo", "input": value}), 400, param="input")


@pytest.mark.parametrize("missing", ["model", "input"])
def test_a_key_that_must_be_there_is_missed(api: Gateway, missing: str) -> None:
    body = {"model": "demo", "input": "hello"}
    del body[missing]

    check_error(api.post("/responses", body), 400, code="missing_required_parameter", param=missing)


def test_the_error_of_an_item_names_its_place(api: Gateway) -> None:
    items = [message_item("a")] * 149 + [{**CALL, "call_id": "c" * 86}]
    refused = check_error(api.post("/responses", {"model": "demo", "input": items}), 400)

    assert refused["message"] == (
        "Invalid 'input[149].call_id': string too long. "
        "Expected a string with maximum length 64, but got a string with length 86 instead."
    )


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {str(n): "v" for n in range(15)},
        {str(n): "v" for n in range(16)},
        {"k" * 63: "v" * 511},
        {"k" * 64: "v" * 512},
        {"": ""},
        {"é" * 64: "\U0001f600" * 512},
    ],
    ids=["none", "15", "16", "63 and 511", "64 and 512", "empty", "beyond ASCII"],
)
def test_metadata_up_to_the_limits_is_stored(api: Gateway, metadata: JSON) -> None:
    body = check_response(api.post("/responses", {"model": "demo", "input": "a", "metadata": metadata}).json())

    assert body["metadata"] == metadata
    assert api.get(f"/responses/{body['id']}").json()["metadata"] == metadata


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": 0},
        {"temperature": 2},
        {"temperature": 2.0},
        {"top_p": 0},
        {"top_p": 1},
        {"top_logprobs": 0},
        {"top_logprobs": 20},
        {"max_tool_calls": 1},
        {"max_output_tokens": 10**9},
        {"presence_penalty": -2, "frequency_penalty": 2},
        {"safety_identifier": "s" * 128},
        {"prompt_cache_key": "k" * 300},
        {"tools": [{"type": "function", "name": "f" * 128}]},
        {"context_management": [{"type": "compaction", "compact_threshold": 1_000_000}]},
        {"context_management": {"compact_threshold": 1_000_000}},
        {"reasoning": {"effort": "xhigh", "summary": "detailed", "context": "all_turns"}},
        {"service_tier": "ultrafast"},
    ],
    ids=str,
)
def test_values_at_the_limits_are_taken(api: Gateway, parameters: JSON) -> None:
    check_response(api.post("/responses", {"model": "demo", "input": "a", **parameters}).json())


def test_strings_are_never_read_as_numbers_or_booleans(api: Gateway) -> None:
    for name, value in {"store": "true", "temperature": "1", "top_logprobs": "3", "stream": "yes"}.items():
        answer = api.post("/responses", {"model": "demo", "input": "a", name: value})
        check_error(answer, 400, code="invalid_type", param=name)


@pytest.mark.parametrize(
    ("given", "meant"), [("exact-modle", EXACT), ("demos", "demo"), ("Demo", "demo"), ("DEMO", "demo")]
)
def test_a_misspelt_model_gets_the_nearest_name(api: Gateway, given: str, meant: str) -> None:
    refused = check_error(api.post("/responses", {"model": given, "input": "a"}), 400, code="model_not_found")

    assert f"'{meant}'" in refused["message"]


def test_a_prompt_template_is_for_responses_upstreams_only(api: Gateway, exact: ScriptedUpstream) -> None:
    prompt = {"prompt": {"id": "pmpt_1"}}
    check_error(api.post("/responses", {"model": "demo", "input": "a", **prompt}), 400, param="prompt")

    assert api.post("/responses", {"model": EXACT, "input": "a", **prompt}).status_code == 200


# --- a body that is none ----------------------------------------------------------------------------------------

MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "blank": b"   ",
    "half": b'{"model":"demo","input":"a"',
    "two": b'{"model":"demo","input":"a"}{}',
    "NaN": b'{"model":"demo","input":"a","temperature":NaN}',
    "Infinity": b'{"model":"demo","input":"a","temperature":-Infinity}',
    "1e999": b'{"model":"demo","input":"a","temperature":1e999}',
    "lone surrogate": b'{"model":"demo","input":"\\ud800"}',
    "invalid UTF-8": b'{"model":"demo","input":"\xff"}',
    "BOM": b'\xef\xbb\xbf{"model":"demo","input":"a"}',
    "UTF-16": '{"model":"demo","input":"a"}'.encode("utf-16"),
    "deep nesting": b'{"model":"demo","input":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep and open": b"[" * 100_000,
    "single quotes": b"{'model':'demo'}",
    "trailing comma": b'{"model":"demo","input":"a",}',
    "comment": b'{"model":"demo","input":"a"}//',
    "control character": b'{"model":"demo","input":"\x01"}',
    "form": b"model=demo&input=a",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_body_that_is_no_json_is_refused_as_such(api: Gateway, body: bytes) -> None:
    answer = api.request("POST", "/responses", data=body, headers={"Content-Type": "application/json"})
    error = check_error(answer, 400, type="invalid_request_error", code=None, param=None)

    assert error["message"].startswith("We could not parse the JSON body of your request.")


@pytest.mark.parametrize("body", [b"[]", b"null", b"7", b'"demo"', b"true", b'[{"model":"demo","input":"a"}]'])
def test_a_body_that_is_no_object_is_refused(api: Gateway, body: bytes) -> None:
    check_error(api.request("POST", "/responses", data=body, headers={"Content-Type": "application/json"}), 400)


@pytest.mark.parametrize("value", [b"18446744073709551616", b"9" * 5000, b"-9223372036854775809", b"1e308"])
def test_a_number_beyond_measure_is_no_accident(api: Gateway, value: bytes) -> None:
    for name in (b"max_output_tokens", b"top_logprobs", b"temperature", b"seed", b"input"):
        body = b'{"model":"demo","input":"a","%b":%b}' % (name, value)
        assert api.request("POST", "/responses", data=body).status_code in (200, 400), name


def test_ten_thousand_items_are_no_accident(api: Gateway) -> None:
    answer = api.post("/responses", {"model": "demo", "input": [message_item("a")] * 10_000, "store": False})

    assert answer.status_code in (200, 400)


def test_a_body_that_says_it_is_endless_is_refused_before_it_is_read(api: Gateway) -> None:
    headers = {"Authorization": f"Bearer {api.token}", "Content-Length": "99999999999"}

    check_error(requests.post(f"{api.base_url}/responses", headers=headers, timeout=20), 413)


def test_a_body_over_the_limit_is_refused(api: Gateway) -> None:
    headers = {"Authorization": f"Bearer {api.token}"}
    answer = requests.post(f"{api.base_url}/responses", b"x" * (65 << 20), headers=headers, timeout=20)

    check_error(answer, 413)


@pytest.mark.parametrize("encoding", ["zstd", "gzip", "br"])
def test_a_compressed_body_is_refused(api: Gateway, encoding: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}

    check_error(api.request("POST", "/responses", data=b"(\xb5/\xfd", headers=headers), 415)


# --- what the upstream refuses ----------------------------------------------------------------------------------


def test_the_upstreams_refusal_is_the_clients(api: Gateway, exact: ScriptedUpstream) -> None:
    sentence = "Your input exceeds the context window of this model. Please adjust your input and try again."
    exact.always(refusal(400, sentence, "context_length_exceeded", "input"))

    for stream in (False, True):
        answer = api.post("/responses", {"model": EXACT, "input": "a", "stream": stream})
        error = check_error(answer, 400, code="context_length_exceeded", param="input")
        assert error["message"] == sentence
    assert len(exact.bodies) == 2


# --- anything at all --------------------------------------------------------------------------------------------

scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=8
)
KEYS = sorted({key for change, _ in REFUSED for key in change})
ALL_ITEMS = [item for items in ITEMS.values() for item in items]
ITEM_KEYS = sorted({key for item in ALL_ITEMS for key in item} | {"encrypted_content", "text"})
TYPES = sorted({str(item.get("type")) for item in ALL_ITEMS} | {"item_reference", "compaction", "compaction_trigger"})
objects = st.dictionaries(st.sampled_from(ITEM_KEYS), st.sampled_from([*TYPES, "user", "assistant", "a", ""]) | values)
bodies = st.dictionaries(st.sampled_from(KEYS) | names, values | st.lists(objects, max_size=3) | objects)

unhurried = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def _is_a_clear_answer(api: Gateway, data: bytes) -> None:
    answer = api.request("POST", "/responses", data=data, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        check_error(answer)


@pytest.mark.parametrize("name", ["demo", OPEN_MINDED])
@unhurried
@given(body=bodies)
def test_any_parameters_get_a_clear_answer(api: Gateway, name: str, body: JSON) -> None:
    _is_a_clear_answer(api, orjson.dumps({"input": "a", **body, "model": name}))


WORDS = ["type", "properties", "items", "anyOf", "$ref", "$defs", "enum", "const", "required", "minimum", "a"]
schemas = st.recursive(
    scalars | st.sampled_from(["object", "array", "string", "integer", "null", "#/$defs/a", "#", "#/a/b"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("name", ["demo", OPEN_MINDED])
@unhurried
@given(schema=st.dictionaries(st.sampled_from(WORDS), schemas, max_size=4))
def test_any_schema_gets_a_clear_answer(api: Gateway, name: str, schema: JSON) -> None:
    form = {"type": "json_schema", "name": "n", "schema": schema}
    tools = [{"type": "function", "name": "f", "parameters": schema}]
    for ask in ({"text": {"format": form}}, {"tools": tools, "tool_choice": "required"}):
        _is_a_clear_answer(api, orjson.dumps({"model": name, "input": "a", **ask}))


@pytest.mark.parametrize(
    "schema",
    [{"type": "object", "properties": {"a": 5}}, {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}],
    ids=["no schema inside", "circle"],
)
def test_a_schema_that_cannot_be_met_is_no_accident(api: Gateway, schema: JSON) -> None:
    form = {"type": "json_schema", "name": "n", "schema": schema}

    _is_a_clear_answer(api, orjson.dumps({"model": "demo", "input": "a", "text": {"format": form}}))


@pytest.mark.parametrize("name", ["demo", OPEN_MINDED])
@unhurried
@given(items=st.lists(objects, min_size=1, max_size=4))
def test_any_items_get_a_clear_answer(api: Gateway, name: str, items: list[JSON]) -> None:
    _is_a_clear_answer(api, orjson.dumps({"model": name, "input": items}))


@unhurried
@given(data=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_get_a_clear_answer(api: Gateway, data: bytes) -> None:
    _is_a_clear_answer(api, data)
