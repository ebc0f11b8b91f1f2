"""Histories and requests that would break a translation: every upstream, strict as it is, takes what it is sent."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest

from tests.every_format.conversations import CUSTOM, IMAGE, WEATHER, answered, called, calls_of, essence, said, text_of
from tests.every_format.conversations import tool as constant
from tests.response_contract import check_error
from tests.upstream import Script, respelled
from tests.upstream_formats import Lane, Line

JSON = dict[str, Any]
HI: Line = ("user", "hi")
CALLED: Line = ("call", "get_weather", '{"city":"Oslo"}')
streamed = pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])


def renamed(pattern: bytes, put: Any) -> Script:
    """Call ids of all formats, changed alike in every place of an answer."""
    return respelled(lambda body: re.sub(rb"\b(call|toolu)_" + pattern, put, body))


# --- order ------------------------------------------------------------------------------------------------------


def test_results_out_of_order_with_a_message_between(lane: Lane) -> None:
    one, two = called("call_1"), called("call_2", arguments='{"city":"Rome"}')
    items = [said("hi"), one, two, answered(two, "hot"), said("wait"), answered(one, "cold")]
    lane.create(input=items, tools=[WEATHER])
    assert sorted(lane.told) == sorted(
        [
            HI,
            CALLED,
            ("call", "get_weather", '{"city":"Rome"}'),
            ("output", "cold"),
            ("output", "hot"),
            ("user", "wait"),
        ]
    )


def test_text_around_calls_stays(lane: Lane) -> None:
    items = [
        said("hi"),
        said("Let me look.", "assistant"),
        called("call_1"),
        answered(called("call_1")),
        said("It is sunny.", "assistant"),
        said("thanks"),
    ]
    lane.create(input=items)
    texts = [line for line in lane.told if line[0] in ("user", "assistant")]
    assert texts == [HI, ("assistant", "Let me look."), ("assistant", "It is sunny."), ("user", "thanks")]
    assert lane.told[2:4] == [CALLED, ("output", "sunny")]


def test_text_after_a_call_stays(lane: Lane) -> None:
    items = [said("hi"), called("call_1"), said("I have asked.", "assistant"), answered(called("call_1"))]
    response = lane.create(input=items, tools=[WEATHER])
    assert ("assistant", "I have asked.") in lane.told
    assert "sunny" in text_of(response)


def test_instructions_may_come_at_any_time(lane: Lane) -> None:
    items = [
        said("Be kind.", "system"),
        said("Be brief.", "developer"),
        said("hi"),
        said("Hello.", "assistant"),
        said("Now in French.", "developer"),
        said("go on"),
    ]
    lane.create(input=items, instructions="Be wise.")
    whole = "\n".join(line[1] for line in lane.told)
    places = [whole.index(text) for text in ("Be wise.", "Be kind.", "Be brief.", "hi", "Hello.", "Now in French.")]
    assert places == sorted(places)


ORDERS: dict[str, list[JSON]] = {
    "an assistant first": [said("How can I help?", "assistant"), said("hi")],
    "users in a row": [said("hi"), said("there"), said("you")],
    "assistants in a row": [said("hi"), said("One.", "assistant"), said("Two.", "assistant"), said("go on")],
    "an assistant last": [said("hi"), said("Once upon a time ", "assistant")],
    "instructions alone": [said("Tell me a joke.", "developer")],
    "an assistant alone": [said("Well?", "assistant")],
    "a call first": [called("call_1"), answered(called("call_1")), said("hi")],
    "a result last": [said("hi"), called("call_1"), answered(called("call_1"))],
    "calls in a row": [
        said("hi"),
        *(item for n in "123" for item in (called(f"call_{n}"), answered(called(f"call_{n}")))),
    ],
    "two calls, then two results": [
        said("hi"),
        called("call_1"),
        called("call_2"),
        answered(called("call_1")),
        answered(called("call_2")),
        said("and now?"),
    ],
}


@pytest.mark.parametrize("order", ORDERS)
@streamed
def test_any_order_is_taken(lane: Lane, streamed: bool, order: str) -> None:
    assert lane.ask(streamed, input=ORDERS[order])["status"] == "completed"


# --- emptiness --------------------------------------------------------------------------------------------------

EMPTY: dict[str, list[JSON]] = {
    "an empty part": [
        {"role": "user", "content": [{"type": "input_text", "text": ""}, {"type": "input_text", "text": "hi"}]}
    ],
    "a blank message between": [said("hi"), said(" ", "assistant"), said("\n"), said("go on")],
    "an empty answer": [said("hi"), said("", "assistant"), said("go on")],
    "an answer without parts": [said("hi"), {"type": "message", "role": "assistant", "content": []}, said("go on")],
    "an empty result": [said("hi"), called("call_1"), answered(called("call_1"), "")],
    "a result without parts": [said("hi"), called("call_1"), answered(called("call_1"), [])],
    "empty arguments": [said("hi"), called("call_1", arguments=""), answered(called("call_1"))],
    "arguments that are no JSON": [said("hi"), called("call_1", arguments='{"city":'), answered(called("call_1"))],
    "arguments that are no object": [said("hi"), called("call_1", arguments="[1]"), answered(called("call_1"))],
    "empty instructions": [said("", "system"), said("hi")],
}


@pytest.mark.parametrize("items", EMPTY)
def test_what_is_empty_breaks_nothing(bridge: Lane, items: str) -> None:
    assert bridge.create(input=EMPTY[items], tools=[WEATHER])["status"] == "completed"


@streamed
def test_a_call_without_arguments_has_an_empty_object(lane: Lane, streamed: bool) -> None:
    first = lane.ask(streamed, input="weather", tools=[constant()])
    (call,) = calls_of(first)
    assert orjson.loads(call["arguments"]) == {}
    assert "sunny" in text_of(lane.create(input=[answered(call)], previous_response_id=first["id"]))


@streamed
def test_a_chat_may_leave_arguments_empty(lanes: dict[str, Lane], streamed: bool) -> None:
    chat = lanes["chat"]
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
def test_a_tool_loop_goes_through_whatever_the_upstreams_ids_are(lane: Lane, streamed: bool, ids: str) -> None:
    keys: JSON = {"tools": [WEATHER]}
    parent: JSON = {}
    for turn in range(3):
        lane.enqueue(renamed(*IDS[ids]))
        first = lane.ask(streamed, input=f"weather {turn}", **keys, **parent)
        (call,) = calls_of(first)
        assert len(call["call_id"]) <= 64
        second = lane.ask(streamed, input=[answered(call, f"{turn} degrees")], previous_response_id=first["id"], **keys)
        assert f"The tools said: {turn} degrees." in text_of(second)
        parent = {"previous_response_id": second["id"]}
    assert [line[1] for line in lane.told if line[0] == "output"] == ["0 degrees", "1 degrees", "2 degrees"]


@pytest.mark.parametrize("ids", IDS)
def test_a_stateless_client_may_send_such_ids_back(lane: Lane, ids: str) -> None:
    items: list[JSON] = []
    for turn in range(3):
        items.append(said(f"weather {turn}"))
        lane.enqueue(renamed(*IDS[ids]))
        output = lane.create(input=items, tools=[WEATHER], store=False)["output"]
        calls = [item for item in output if item["type"] == "function_call"]
        items += [*output, *(answered(call, f"{turn} degrees") for call in calls)]
        items += lane.create(input=items, tools=[WEATHER], store=False)["output"]
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
def test_a_tool_may_answer_in_parts(lane: Lane, result: str) -> None:
    one, two = called("call_1"), called("call_2")
    items = [said("hi"), one, two, answered(one, RESULTS[result]), answered(two, "fine")]
    lane.create(input=items, tools=[WEATHER])
    assert str(lane.sent).count("A map.") == ("A map." in str(RESULTS[result]))
    assert ("image" in str(lane.sent)) == (IMAGE in RESULTS[result])
    assert ("output", "fine") in lane.told


def test_files_are_carried(lane: Lane) -> None:
    file = {"type": "input_file", "filename": "a.pdf", "file_data": PDF}
    lane.create(input=[{"role": "user", "content": [{"type": "input_text", "text": "read"}, file]}])
    assert ("user", "<file>") in lane.told
    assert "JVBERi0xLjQK" in str(lane.sent)


@pytest.mark.parametrize("part", [{"type": "input_image", "file_id": "file-1"}, {"type": "antiphon:invented"}])
def test_a_part_that_cannot_be_carried_is_named(bridge: Lane, part: JSON) -> None:
    answer = bridge.post(input=[{"role": "user", "content": [{"type": "input_text", "text": "look"}, part]}])
    error = check_error(answer, 400)
    assert str(error["param"]).startswith("input[0].content[1]")
    assert bridge.upstream.bodies == []


def test_a_clients_own_output_items_are_taken_back(lane: Lane) -> None:
    include = ["message.output_text.logprobs", "reasoning.encrypted_content"]
    first = lane.create(input="think", include=include, reasoning={"effort": "low", "summary": "auto"}, store=False)
    items = [said("think"), *first["output"], said("go on")]
    again = lane.create(input=items, include=include, reasoning={"effort": "low"}, store=False)
    assert again["status"] == "completed"
    assert ("assistant", text_of(first)) in lane.told


@streamed
@pytest.mark.parametrize("bare", [False, True], ids=["whole", "without id"])
def test_a_stateless_client_thinks_and_calls(lane: Lane, streamed: bool, bare: bool) -> None:
    keys: JSON = {"tools": [WEATHER], "store": False, "include": ["reasoning.encrypted_content"]}
    keys["reasoning"] = {"effort": "medium", "summary": "auto"}
    items = [said("think of the weather")]
    first = lane.ask(streamed, input=items, **keys)
    output = [{k: v for k, v in item.items() if k != "id"} if bare else item for item in first["output"]]
    assert [item["type"] for item in output] in (["reasoning", "function_call"], ["function_call"])
    second = lane.ask(streamed, input=[*items, *output, answered(output[-1])], **keys)
    assert "sunny" in text_of(second)


def test_a_foreign_thought_is_left_out(bridge: Lane, lanes: dict[str, Lane]) -> None:
    keys: JSON = {"store": False, "include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low"}}
    output = lanes["exact"].create(input="think", **keys)["output"]
    assert output[0]["encrypted_content"]
    bridge.create(input=[said("think"), *output, said("go on")], **keys)
    assert output[0]["encrypted_content"] not in str(bridge.sent)


# --- tools ------------------------------------------------------------------------------------------------------

SEARCH = {"type": "web_search"}
HOSTED = [SEARCH, {"type": "code_interpreter", "container": {"type": "auto"}}, WEATHER]
HEADER = "X-Antiphon-Dropped-Tools"


@streamed
def test_hosted_tools_are_dropped_said_so_and_echoed(bridge: Lane, streamed: bool) -> None:
    answer = bridge.post(tools=HOSTED, stream=streamed)
    assert answer.status_code == 200
    assert answer.headers[HEADER] == "web_search, code_interpreter"
    assert len(bridge.sent["tools"]) == 1
    response = bridge.ask(streamed, tools=HOSTED)
    assert [tool["type"] for tool in response["tools"]] == ["web_search", "code_interpreter", "function"]


def test_hosted_tools_alone_leave_none(bridge: Lane) -> None:
    assert bridge.create(tools=[SEARCH])["tools"] == [SEARCH]
    assert "tools" not in bridge.sent


def test_hosted_tools_pass_where_they_are_understood(lanes: dict[str, Lane]) -> None:
    answer = lanes["exact"].post(tools=HOSTED)
    assert HEADER not in answer.headers
    assert [tool["type"] for tool in lanes["exact"].sent["tools"]] == ["web_search", "code_interpreter", "function"]


@pytest.mark.parametrize(
    "keys",
    [
        {"tools": [SEARCH, WEATHER], "tool_choice": {"type": "web_search_preview"}},
        {"tools": [SEARCH], "tool_choice": "required"},
    ],
    ids=["named", "required"],
)
def test_a_hosted_tool_that_is_demanded_cannot_be_dropped(bridge: Lane, keys: JSON) -> None:
    check_error(bridge.post(**keys), 400, param="tool_choice")
    assert bridge.upstream.bodies == []


def test_a_row_may_refuse_hosted_tools(bridge: Lane) -> None:
    check_error(bridge.on("strict").post(tools=[SEARCH, WEATHER]), 400, param="tools")
    assert bridge.on("strict").create(tools=[WEATHER])["status"] == "completed"


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_a_choice_without_tools_is_none(lane: Lane, choice: str) -> None:
    assert lane.create(tool_choice=choice)["tool_choice"] == choice
    assert lane.create(tool_choice=choice, tools=[], parallel_tool_calls=True)["tools"] == []


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
def test_odd_tools_are_called_by_their_own_names(lane: Lane, streamed: bool, odd: str) -> None:
    asked = ODD_TOOLS[odd]
    first = lane.ask(streamed, input="weather", tools=[asked])
    (call,) = calls_of(first)
    assert call["name"] == (asked["tools"][0]["name"] if "tools" in asked else asked["name"])
    assert call.get("namespace") == (asked["name"] if "tools" in asked else None)
    second = lane.ask(streamed, input=[answered(call)], previous_response_id=first["id"], tools=[asked])
    assert "sunny" in text_of(second)


def test_two_namespaces_may_have_a_tool_of_one_name(lane: Lane) -> None:
    spaces = [{"type": "namespace", "name": name, "description": "x", "tools": [WEATHER]} for name in ("sky", "sea")]
    calls = calls_of(lane.create(input="both weathers", tools=spaces))
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
def test_everything_a_client_may_send_is_taken(bridge: Lane, streamed: bool) -> None:
    response = bridge.ask(streamed, **ANYTHING)
    assert (response["status"], response["temperature"], response["metadata"]) == ("completed", 1.7, {"k": "v"})


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
def test_every_effort_is_taken(bridge: Lane, effort: str) -> None:
    forced: JSON = {"tools": [WEATHER], "tool_choice": "required", "temperature": 0.2}
    assert bridge.create(reasoning={"effort": effort})["reasoning"]["effort"] == effort
    assert calls_of(bridge.create(reasoning={"effort": effort}, **forced))


def test_a_small_limit_leaves_room_to_think(bridge: Lane) -> None:
    assert bridge.create(reasoning={"effort": "high"}, max_output_tokens=100)["status"] == "completed"


@streamed
def test_a_request_that_is_made_twice_is_encoded_alike(bridge: Lane, streamed: bool) -> None:
    items = [said("hi"), called("call_1"), answered(called("call_1"), [WORDS, IMAGE]), said("Hm.", "assistant")]
    one = bridge.ask(streamed, input=[*items, said("go on")], tools=[WEATHER])
    other = bridge.ask(streamed, input=[*items, said("go on")], tools=[WEATHER])
    assert bridge.upstream.bodies[0] == bridge.upstream.bodies[1]
    assert essence(one) == essence(other)
