"""Histories and requests that would break a translation: every upstream, strict as it is, takes what it is sent."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest

from tests.every_format.conversations import (
    CUSTOM,
    IMAGE,
    WEATHER,
    answered,
    called,
    calls_of,
    essence,
    message_item,
    text_of,
)
from tests.every_format.conversations import tool as constant
from tests.response_contract import check_error
from tests.upstream import Script, respelled
from tests.upstream_formats import FormatCase, SentLine

JSON = dict[str, Any]
HI: SentLine = ("user", "hi")
CALLED: SentLine = ("call", "get_weather", '{"city":"Oslo"}')
streamed = pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])


def renamed(pattern: bytes, put: Any) -> Script:
    """Call ids of all formats, changed alike in every place of an answer."""
    return respelled(lambda body: re.sub(rb"\b(call|toolu)_" + pattern, put, body))


# --- order ------------------------------------------------------------------------------------------------------


def test_results_out_of_order_with_a_message_between(format_case: FormatCase) -> None:
    one, two = called("call_1"), called("call_2", arguments='{"city":"Rome"}')
    items = [message_item("hi"), one, two, answered(two, "hot"), message_item("wait"), answered(one, "cold")]
    format_case.create(input=items, tools=[WEATHER])
    assert sorted(format_case.sent_lines) == sorted(
        [
            HI,
            CALLED,
            ("call", "get_weather", '{"city":"Rome"}'),
            ("output", "cold"),
            ("output", "hot"),
            ("user", "wait"),
        ]
    )


def test_text_around_calls_stays(format_case: FormatCase) -> None:
    items = [
        message_item("hi"),
        message_item("Let me look.", "assistant"),
        called("call_1"),
        answered(called("call_1")),
        message_item("It is sunny.", "assistant"),
        message_item("thanks"),
    ]
    format_case.create(input=items)
    texts = [line for line in format_case.sent_lines if line[0] in ("user", "assistant")]
    assert texts == [HI, ("assistant", "Let me look."), ("assistant", "It is sunny."), ("user", "thanks")]
    assert format_case.sent_lines[2:4] == [CALLED, ("output", "sunny")]


def test_text_after_a_call_stays(format_case: FormatCase) -> None:
    items = [
        message_item("hi"),
        called("call_1"),
        message_item("I have asked.", "assistant"),
        answered(called("call_1")),
    ]
    response = format_case.create(input=items, tools=[WEATHER])
    assert ("assistant", "I have asked.") in format_case.sent_lines
    assert "sunny" in text_of(response)


def test_instructions_may_come_at_any_time(format_case: FormatCase) -> None:
    items = [
        message_item("Be kind.", "system"),
        message_item("Be brief.", "developer"),
        message_item("hi"),
        message_item("Hello.", "assistant"),
        message_item("Now in French.", "developer"),
        message_item("go on"),
    ]
    format_case.create(input=items, instructions="Be wise.")
    whole = "\n".join(line[1] for line in format_case.sent_lines)
    places = [whole.index(text) for text in ("Be wise.", "Be kind.", "Be brief.", "hi", "Hello.", "Now in French.")]
    assert places == sorted(places)


ORDERS: dict[str, list[JSON]] = {
    "an assistant first": [message_item("How can I help?", "assistant"), message_item("hi")],
    "users in a row": [message_item("hi"), message_item("there"), message_item("you")],
    "assistants in a row": [
        message_item("hi"),
        message_item("One.", "assistant"),
        message_item("Two.", "assistant"),
        message_item("go on"),
    ],
    "an assistant last": [message_item("hi"), message_item("Once upon a time ", "assistant")],
    "instructions alone": [message_item("Tell me a joke.", "developer")],
    "an assistant alone": [message_item("Well?", "assistant")],
    "a call first": [called("call_1"), answered(called("call_1")), message_item("hi")],
    "a result last": [message_item("hi"), called("call_1"), answered(called("call_1"))],
    "calls in a row": [
        message_item("hi"),
        *(item for n in "123" for item in (called(f"call_{n}"), answered(called(f"call_{n}")))),
    ],
    "two calls, then two results": [
        message_item("hi"),
        called("call_1"),
        called("call_2"),
        answered(called("call_1")),
        answered(called("call_2")),
        message_item("and now?"),
    ],
}


@pytest.mark.parametrize("order", ORDERS)
@streamed
def test_any_order_is_taken(format_case: FormatCase, streamed: bool, order: str) -> None:
    assert format_case.ask(streamed, input=ORDERS[order])["status"] == "completed"


# --- emptiness --------------------------------------------------------------------------------------------------

EMPTY: dict[str, list[JSON]] = {
    "an empty part": [
        {"role": "user", "content": [{"type": "input_text", "text": ""}, {"type": "input_text", "text": "hi"}]}
    ],
    "a blank message between": [
        message_item("hi"),
        message_item(" ", "assistant"),
        message_item("\n"),
        message_item("go on"),
    ],
    "an empty answer": [message_item("hi"), message_item("", "assistant"), message_item("go on")],
    "an answer without parts": [
        message_item("hi"),
        {"type": "message", "role": "assistant", "content": []},
        message_item("go on"),
    ],
    "an empty result": [message_item("hi"), called("call_1"), answered(called("call_1"), "")],
    "a result without parts": [message_item("hi"), called("call_1"), answered(called("call_1"), [])],
    "empty arguments": [message_item("hi"), called("call_1", arguments=""), answered(called("call_1"))],
    "arguments that are no JSON": [
        message_item("hi"),
        called("call_1", arguments='{"city":'),
        answered(called("call_1")),
    ],
    "arguments that are no object": [message_item("hi"), called("call_1", arguments="[1]"), answered(called("call_1"))],
    "empty instructions": [message_item("", "system"), message_item("hi")],
}


@pytest.mark.parametrize("items", EMPTY)
def test_empty_content_breaks_nothing(bridge: FormatCase, items: str) -> None:
    assert bridge.create(input=EMPTY[items], tools=[WEATHER])["status"] == "completed"


@streamed
def test_a_call_without_arguments_has_an_empty_object(format_case: FormatCase, streamed: bool) -> None:
    first = format_case.ask(streamed, input="weather", tools=[constant()])
    (call,) = calls_of(first)
    assert orjson.loads(call["arguments"]) == {}
    assert "sunny" in text_of(format_case.create(input=[answered(call)], previous_response_id=first["id"]))


@streamed
def test_a_chat_may_leave_arguments_empty(format_cases: dict[str, FormatCase], streamed: bool) -> None:
    chat = format_cases["chat"]
    chat.enqueue(respelled(lambda body: body.replace(b'"arguments":"{}"', b'"arguments":""')))
    (call,) = calls_of(chat.ask(streamed, input="weather", tools=[constant()]))
    assert orjson.loads(call["arguments"]) == {}


# --- call ids ---------------------------------------------------------------------------------------------------

IDS: dict[str, tuple[bytes, Any]] = {
    "long": (rb"[0-9a-f]{10,}", lambda match: match[0] + b"f" * 60),
    "odd": (rb"([0-9a-f]{4})[0-9a-f]*", lambda match: b"functions.get_weather:" + match[2]),
    "the same each time": (rb"[0-9a-f]{10,}", lambda match: b"call_0"),
}


@pytest.mark.parametrize("ids", IDS)
@streamed
def test_a_tool_loop_goes_through_whatever_the_upstreams_ids_are(
    format_case: FormatCase, streamed: bool, ids: str
) -> None:
    keys: JSON = {"tools": [WEATHER]}
    parent: JSON = {}
    for turn in range(3):
        format_case.enqueue(renamed(*IDS[ids]))
        first = format_case.ask(streamed, input=f"weather {turn}", **keys, **parent)
        (call,) = calls_of(first)
        assert len(call["call_id"]) <= 64
        second = format_case.ask(
            streamed, input=[answered(call, f"{turn} degrees")], previous_response_id=first["id"], **keys
        )
        assert f"The tools said: {turn} degrees." in text_of(second)
        parent = {"previous_response_id": second["id"]}
    assert [line[1] for line in format_case.sent_lines if line[0] == "output"] == [
        "0 degrees",
        "1 degrees",
        "2 degrees",
    ]


@pytest.mark.parametrize("ids", IDS)
def test_a_stateless_client_may_send_such_ids_back(format_case: FormatCase, ids: str) -> None:
    items: list[JSON] = []
    for turn in range(3):
        items.append(message_item(f"weather {turn}"))
        format_case.enqueue(renamed(*IDS[ids]))
        output = format_case.create(input=items, tools=[WEATHER], store=False)["output"]
        calls = [item for item in output if item["type"] == "function_call"]
        items += [*output, *(answered(call, f"{turn} degrees") for call in calls)]
        items += format_case.create(input=items, tools=[WEATHER], store=False)["output"]
    assert "The tools said: 2 degrees." in text_of({"output": items[-1:]})


# --- parts ------------------------------------------------------------------------------------------------------

PDF = "data:application/pdf;base64,JVBERi0xLjQK"
WORDS = {"type": "input_text", "text": "A map."}
RESULTS: dict[str, Any] = {
    "text and an image": [WORDS, IMAGE],
    "an image alone": [IMAGE],
    "two texts": [WORDS, {"type": "input_text", "text": "A pin."}],
    "a file": [WORDS, {"type": "input_file", "filename": "a.pdf", "file_data": PDF}],
}


@pytest.mark.parametrize("result", RESULTS)
def test_a_tool_may_answer_in_parts(format_case: FormatCase, result: str) -> None:
    one, two = called("call_1"), called("call_2")
    items = [message_item("hi"), one, two, answered(one, RESULTS[result]), answered(two, "fine")]
    format_case.create(input=items, tools=[WEATHER])
    assert str(format_case.sent_body).count("A map.") == ("A map." in str(RESULTS[result]))
    assert ("image" in str(format_case.sent_body)) == (IMAGE in RESULTS[result])
    assert ("output", "fine") in format_case.sent_lines


def test_files_are_carried(format_case: FormatCase) -> None:
    file = {"type": "input_file", "filename": "a.pdf", "file_data": PDF}
    format_case.create(input=[{"role": "user", "content": [{"type": "input_text", "text": "read"}, file]}])
    assert ("user", "<file>") in format_case.sent_lines
    assert "JVBERi0xLjQK" in str(format_case.sent_body)


@pytest.mark.parametrize("part", [{"type": "input_image", "file_id": "file-1"}, {"type": "antiphon:invented"}])
def test_a_part_that_cannot_be_carried_is_named(bridge: FormatCase, part: JSON) -> None:
    answer = bridge.post(input=[{"role": "user", "content": [{"type": "input_text", "text": "look"}, part]}])
    error = check_error(answer, 400)
    assert str(error["param"]).startswith("input[0].content[1]")
    assert bridge.upstream.bodies == []


def test_a_clients_own_output_items_are_taken_back(format_case: FormatCase) -> None:
    include = ["message.output_text.logprobs", "reasoning.encrypted_content"]
    first = format_case.create(
        input="think", include=include, reasoning={"effort": "low", "summary": "auto"}, store=False
    )
    items = [message_item("think"), *first["output"], message_item("go on")]
    again = format_case.create(input=items, include=include, reasoning={"effort": "low"}, store=False)
    assert again["status"] == "completed"
    assert ("assistant", text_of(first)) in format_case.sent_lines


@streamed
@pytest.mark.parametrize("bare", [False, True], ids=["whole", "without id"])
def test_a_stateless_client_thinks_and_calls(format_case: FormatCase, streamed: bool, bare: bool) -> None:
    keys: JSON = {"tools": [WEATHER], "store": False, "include": ["reasoning.encrypted_content"]}
    keys["reasoning"] = {"effort": "medium", "summary": "auto"}
    items = [message_item("think of the weather")]
    first = format_case.ask(streamed, input=items, **keys)
    output = [{k: v for k, v in item.items() if k != "id"} if bare else item for item in first["output"]]
    assert [item["type"] for item in output] in (["reasoning", "function_call"], ["function_call"])
    second = format_case.ask(streamed, input=[*items, *output, answered(output[-1])], **keys)
    assert "sunny" in text_of(second)


def test_a_foreign_thought_is_left_out(bridge: FormatCase, format_cases: dict[str, FormatCase]) -> None:
    keys: JSON = {"store": False, "include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low"}}
    output = format_cases["exact"].create(input="think", **keys)["output"]
    assert output[0]["encrypted_content"]
    bridge.create(input=[message_item("think"), *output, message_item("go on")], **keys)
    assert output[0]["encrypted_content"] not in str(bridge.sent_body)


# --- tools ------------------------------------------------------------------------------------------------------

SEARCH = {"type": "web_search"}
HOSTED = [SEARCH, {"type": "code_interpreter", "container": {"type": "auto"}}, WEATHER]
HEADER = "X-Antiphon-Dropped-Tools"


@streamed
def test_hosted_tools_are_dropped_named_in_a_header_and_echoed(bridge: FormatCase, streamed: bool) -> None:
    answer = bridge.post(tools=HOSTED, stream=streamed)
    assert answer.status_code == 200
    assert answer.headers[HEADER] == "web_search, code_interpreter"
    assert len(bridge.sent_body["tools"]) == 1
    response = bridge.ask(streamed, tools=HOSTED)
    assert [tool["type"] for tool in response["tools"]] == ["web_search", "code_interpreter", "function"]


def test_hosted_tools_alone_leave_none(bridge: FormatCase) -> None:
    assert bridge.create(tools=[SEARCH])["tools"] == [SEARCH]
    assert "tools" not in bridge.sent_body


def test_hosted_tools_pass_where_they_are_understood(format_cases: dict[str, FormatCase]) -> None:
    answer = format_cases["exact"].post(tools=HOSTED)
    assert HEADER not in answer.headers
    assert [tool["type"] for tool in format_cases["exact"].sent_body["tools"]] == [
        "web_search",
        "code_interpreter",
        "function",
    ]


@pytest.mark.parametrize(
    "keys",
    [
        {"tools": [SEARCH, WEATHER], "tool_choice": {"type": "web_search_preview"}},
        {"tools": [SEARCH], "tool_choice": "required"},
    ],
    ids=["named", "required"],
)
def test_a_hosted_tool_that_is_demanded_cannot_be_dropped(bridge: FormatCase, keys: JSON) -> None:
    check_error(bridge.post(**keys), 400, param="tool_choice")
    assert bridge.upstream.bodies == []


def test_a_row_may_refuse_hosted_tools(bridge: FormatCase) -> None:
    check_error(bridge.on("strict").post(tools=[SEARCH, WEATHER]), 400, param="tools")
    assert bridge.on("strict").create(tools=[WEATHER])["status"] == "completed"


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_a_choice_without_tools_is_none(format_case: FormatCase, choice: str) -> None:
    assert format_case.create(tool_choice=choice)["tool_choice"] == choice
    assert format_case.create(tool_choice=choice, tools=[], parallel_tool_calls=True)["tools"] == []


ODD_TOOLS: dict[str, JSON] = {
    "a long name": {**WEATHER, "name": "w" * 128},
    "no parameters": {"type": "function", "name": "now"},
    "null parameters": {"type": "function", "name": "now", "parameters": None, "strict": None, "description": None},
    "empty parameters": {"type": "function", "name": "now", "parameters": {}},
    "a namespace with a long name": {"type": "namespace", "name": "n" * 60, "description": "x", "tools": [WEATHER]},
    "a grammar": {**CUSTOM, "format": {"type": "grammar", "syntax": "lark", "definition": "start: /a+/"}},
}


@pytest.mark.parametrize("odd", ODD_TOOLS)
@streamed
def test_odd_tools_are_called_by_their_own_names(format_case: FormatCase, streamed: bool, odd: str) -> None:
    definition = ODD_TOOLS[odd]
    first = format_case.ask(streamed, input="weather", tools=[definition])
    (call,) = calls_of(first)
    assert call["name"] == (definition["tools"][0]["name"] if "tools" in definition else definition["name"])
    assert call.get("namespace") == (definition["name"] if "tools" in definition else None)
    second = format_case.ask(streamed, input=[answered(call)], previous_response_id=first["id"], tools=[definition])
    assert "sunny" in text_of(second)


def test_two_namespaces_may_have_a_tool_of_one_name(format_case: FormatCase) -> None:
    spaces = [{"type": "namespace", "name": name, "description": "x", "tools": [WEATHER]} for name in ("sky", "sea")]
    calls = calls_of(format_case.create(input="both weathers", tools=spaces))
    assert [(call["namespace"], call["name"]) for call in calls] == [("sky", "get_weather"), ("sea", "get_weather")]


# --- everything at once -----------------------------------------------------------------------------------------

ANYTHING: JSON = {
    "background": False,
    "client_metadata": {"session": "1"},
    "include": ["reasoning.encrypted_content", "message.output_text.logprobs", "web_search_call.action.sources"],
    "max_output_tokens": 4000,
    "max_tool_calls": 3,
    "metadata": {"k": "v"},
    "parallel_tool_calls": True,
    "prompt_cache_key": "key",
    "prompt_cache_retention": "24h",
    "reasoning": {"effort": "none", "summary": None},
    "safety_identifier": "ada",
    "service_tier": "auto",
    "stream_options": {"include_obfuscation": False},
    "temperature": 1.7,
    "text": {"format": {"type": "text"}, "verbosity": "low"},
    "tool_choice": "auto",
    "top_logprobs": 2,
    "top_p": 0.9,
    "truncation": "auto",
    "unheard_of": {"by": "anybody"},
    "user": "ada",
}


@streamed
def test_everything_a_client_may_send_is_taken(bridge: FormatCase, streamed: bool) -> None:
    response = bridge.ask(streamed, **ANYTHING)
    assert (response["status"], response["temperature"], response["metadata"]) == ("completed", 1.7, {"k": "v"})


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
def test_every_effort_is_taken(bridge: FormatCase, effort: str) -> None:
    forced: JSON = {"tools": [WEATHER], "tool_choice": "required", "temperature": 0.2}
    assert bridge.create(reasoning={"effort": effort})["reasoning"]["effort"] == effort
    assert calls_of(bridge.create(reasoning={"effort": effort}, **forced))


def test_a_small_limit_leaves_room_to_think(bridge: FormatCase) -> None:
    assert bridge.create(reasoning={"effort": "high"}, max_output_tokens=100)["status"] == "completed"


@streamed
def test_a_request_that_is_made_twice_is_encoded_alike(bridge: FormatCase, streamed: bool) -> None:
    items = [
        message_item("hi"),
        called("call_1"),
        answered(called("call_1"), [WORDS, IMAGE]),
        message_item("Hm.", "assistant"),
    ]
    one = bridge.ask(streamed, input=[*items, message_item("go on")], tools=[WEATHER])
    other = bridge.ask(streamed, input=[*items, message_item("go on")], tools=[WEATHER])
    assert bridge.upstream.bodies[0] == bridge.upstream.bodies[1]
    assert essence(one) == essence(other)
