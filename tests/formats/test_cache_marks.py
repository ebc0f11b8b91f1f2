"""Marks for the upstream's cache, which clients set at parts, items and tools in OpenAI's or Anthropic's terms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import formats
from app.contract.channel import Params
from app.contract.records import UpstreamResponse
from tests.formats.conversations import link, row, turn

JSON = dict[str, Any]
CONTROL, BREAKPOINT = "cache_control", "prompt_cache_breakpoint"
SHORT, LONG = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}
EXPLICIT = {"mode": "explicit"}
MARK = {CONTROL: SHORT}
LOOK = {"type": "function", "name": "look", "parameters": {"type": "object"}}
FIND = {"type": "function", "name": "find", "parameters": {"type": "object"}}
CALL = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "Rain."}
PICTURE = {"type": "input_image", "image_url": "https://example.org/a.png"}


def sent(format_: str, *items: JSON, params: Params | None = None, **request: Any) -> JSON:
    channel = row(format=format_, **({"params": params} if params else {}))
    encoded, _ = formats.adapted(formats.load(format_).encode(turn(*items, **request), channel, "m"), channel)
    body: JSON = orjson.loads(encoded)
    return body


def said(role: str, *parts: JSON | str, **keys: Any) -> JSON:
    content = [{"type": "input_text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"type": "message", "role": role, "content": content, **keys}


def text(words: str, **marks: Any) -> JSON:
    return {"type": "input_text", "text": words, **marks}


def marked(value: Any, name: str = CONTROL) -> Iterator[JSON]:
    """The objects with a mark, in the order of the prompt for a body of Messages."""
    if isinstance(value, dict):
        if name in value:
            yield value
        members = [*("tools", "system", "messages"), *value] if "messages" in value else value
        for member in dict.fromkeys(members):
            yield from marked(value.get(member), name)
    elif isinstance(value, list):
        for inner in value:
            yield from marked(inner, name)


def without_marks(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_marks(inner) for name, inner in value.items() if name not in (CONTROL, BREAKPOINT)}
    return [without_marks(inner) for inner in value] if isinstance(value, list) else value


# --- Anthropic's Messages ---------------------------------------------------------------------------------------

HELLO = said("user", "hello")
SAID = said("assistant", {"type": "output_text", "text": "Hi."})
PLACES: list[tuple[str, list[JSON], JSON, JSON]] = [
    ("part", [said("user", text("hello", **MARK))], {}, {"type": "text", "text": "hello"}),
    ("message", [said("user", "hello", **MARK)], {}, {"type": "text", "text": "hello"}),
    (
        "string",
        [{"type": "message", "role": "user", "content": "hello", **MARK}],
        {},
        {"type": "text", "text": "hello"},
    ),
    (
        "picture",
        [said("user", "hello", {**PICTURE, **MARK})],
        {},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
    ),
    ("answer", [HELLO, {**SAID, **MARK}, HELLO], {}, {"type": "text", "text": "Hi."}),
    ("instruction", [said("developer", "Be kind.", **MARK), HELLO], {}, {"type": "text", "text": "Be kind."}),
    (
        "instructions",
        [HELLO],
        {"instructions": {"role": "developer", "content": [text("Be kind.", **MARK)]}},
        {"type": "text", "text": "Be kind."},
    ),
    (
        "call",
        [HELLO, {**CALL, **MARK}, OUTPUT],
        {"tools": [LOOK]},
        {"type": "tool_use", "id": "call_1", "name": "look", "input": {}},
    ),
    (
        "output",
        [HELLO, CALL, {**OUTPUT, **MARK}],
        {"tools": [LOOK]},
        {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "Rain."}]},
    ),
    (
        "part of an output",
        [HELLO, CALL, {**OUTPUT, "output": [text("Rain.", **MARK)]}],
        {"tools": [LOOK]},
        {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "Rain."}]},
    ),
    ("tool", [HELLO], {"tools": [{**LOOK, **MARK}, FIND]}, {"name": "look", "input_schema": {"type": "object"}}),
    (
        "namespace",
        [HELLO],
        {"tools": [{"type": "namespace", "name": "n", "tools": [LOOK, FIND], **MARK}]},
        {"name": "n__find", "input_schema": {"type": "object"}},
    ),
]


@pytest.mark.parametrize(("items", "request_", "block"), [place[1:] for place in PLACES], ids=[p[0] for p in PLACES])
def test_a_mark_stands_where_the_client_set_it_and_no_other(items: list[JSON], request_: JSON, block: JSON) -> None:
    assert [*marked(sent("messages", *items, **request_))] == [{**block, **MARK}]


def test_a_mark_in_the_middle_divides_the_system_prompt() -> None:
    body = sent("messages", said("system", text("Long.", **MARK), "Short."), HELLO, instructions="First.")
    first, second = body["system"]
    assert (first["text"], first[CONTROL], second) == ("First.\n\nLong.", SHORT, {"type": "text", "text": "Short."})


@pytest.mark.parametrize(
    ("mark", "options", "control"),
    [
        (EXPLICIT, {}, SHORT),
        ({**EXPLICIT, "ttl": "30m"}, {}, LONG),
        (EXPLICIT, {"ttl": "30m"}, LONG),
        ({**EXPLICIT, "ttl": "12h"}, EXPLICIT, LONG),
    ],
)
def test_a_breakpoint_becomes_a_mark(mark: JSON, options: JSON, control: JSON) -> None:
    body = sent("messages", said("user", text("hello", **{BREAKPOINT: mark})), prompt_cache_options=options)
    assert [block[CONTROL] for block in marked(body)] == [control]
    assert not [*marked(body, BREAKPOINT)]


def test_a_client_that_wants_no_marks_gets_none() -> None:
    assert not [*marked(sent("messages", HELLO, tools=[LOOK], prompt_cache_options=EXPLICIT))]
    assert [*marked(sent("messages", HELLO, tools=[LOOK], prompt_cache_options={"mode": "implicit"}))]


def test_the_gateways_own_marks_have_the_lifetime_that_the_client_wants() -> None:
    body = sent("messages", HELLO, SAID, HELLO, tools=[LOOK], instructions="I", prompt_cache_options={"ttl": "30m"})
    assert [block[CONTROL] for block in marked(body)] == [LONG] * 4


@pytest.mark.parametrize("mark", [None, "ephemeral", []])
def test_what_is_no_mark_is_left_out(mark: Any) -> None:
    assert not [*marked(sent("messages", said("user", text("hello", **{CONTROL: mark}))))]


def test_a_mark_of_the_whole_request_stays_beside_three() -> None:
    users = [said("user", f"{number}", **MARK) for number in range(6)]
    body = sent("messages", *users, cache_control=SHORT)
    assert body[CONTROL] == SHORT
    assert [block.get("text") for block in marked(body)] == [None, "3", "4", "5"]


def test_marks_of_tools_and_system_stay_beside_the_newest_ones() -> None:
    """A chain has the marks of all its earlier turns."""
    users = [item for n in range(6) for item in (said("user", f"{n}", **MARK), SAID)]
    body = sent(
        "messages",
        said("system", text("a", **MARK), text("b", **MARK)),
        *users,
        said("user", "last", **MARK),
        tools=[{**LOOK, **MARK}],
    )
    assert [block.get("text") for block in marked(body)] == ["a", "b", "5", "last"]


marks = st.sampled_from(
    [{}, {}, MARK, {CONTROL: LONG}, {BREAKPOINT: EXPLICIT}, {BREAKPOINT: {**EXPLICIT, "ttl": "30m"}}]
)


@given(
    tools=st.lists(marks, max_size=5),
    system=st.lists(marks, max_size=5),
    users=st.lists(marks, min_size=1, max_size=8),
    whole=st.sampled_from([{}, {CONTROL: SHORT}, {CONTROL: LONG}]),
)
def test_the_api_takes_the_marks(tools: list[JSON], system: list[JSON], users: list[JSON], whole: JSON) -> None:
    items = [said("system", *(text(f"s{at}", **mark) for at, mark in enumerate(system)))] if system else []
    items += [item for at, mark in enumerate(users) for item in (said("user", text(f"u{at}", **mark)), SAID)]
    named = [{**LOOK, "name": f"t{at}", **mark} for at, mark in enumerate(tools)]
    body = sent("messages", *items[:-1], **({"tools": named} if named else {}), **whole)
    found = [block[CONTROL] for block in marked({name: body.get(name, []) for name in ("tools", "system", "messages")})]
    found += [body[CONTROL]] if CONTROL in body else []
    assert len(found) <= 4
    lifetimes = [mark.get("ttl", "5m") for mark in found]
    assert lifetimes == sorted(lifetimes)
    given_marks = [mark for mark in (*tools, *system, *users, whole) if mark]
    # The newest mark of the client is always there.
    if given_marks:
        assert found
    # Marks change nothing else.
    bare = sent("messages", *map(without_marks, items[:-1]), **({"tools": without_marks(named)} if named else {}))
    assert without_marks(body)["messages"] == without_marks(bare)["messages"]
    assert without_marks(body).get("tools") == without_marks(bare).get("tools")


# --- chat completions -------------------------------------------------------------------------------------------

BOTH = {CONTROL: SHORT, BREAKPOINT: EXPLICIT}


@pytest.mark.parametrize("mark", [MARK, {BREAKPOINT: {**EXPLICIT, "ttl": "30m"}}, BOTH])
def test_a_chat_gets_the_marks_as_they_are(mark: JSON) -> None:
    items = [
        said("system", "Be kind.", **mark),
        said("user", "one", text("two", **mark)),
        {**SAID, **mark},
        said("user", {**PICTURE, **mark}, "see"),
        CALL,
        {**OUTPUT, **mark},
    ]
    body = sent("chat_completions", *items, tools=[{**LOOK, **mark}, FIND])
    system, user, answer, seen, call, result = body["messages"]
    for message, words in ((system, "Be kind."), (user, "one\ntwo"), (answer, "Hi."), (result, "Rain.")):
        assert message["content"] == [{"type": "text", "text": words, **mark}]
    assert seen["content"][0] == {"type": "image_url", "image_url": {"url": PICTURE["image_url"]}, **mark}
    assert [{name: tool[name] for name in mark if name in tool} for tool in body["tools"]] == [mark, {}]
    assert not [*marked(call), *marked(call, BREAKPOINT)]


def test_text_around_a_mark_stays_in_order() -> None:
    body = sent("chat_completions", said("user", "a", text("b", **MARK), "c", "d"), said("user", "plain", "text"))
    parts = [{"type": "text", "text": "a\nb", **MARK}, {"type": "text", "text": "c\nd"}]
    assert [message["content"] for message in body["messages"]] == [parts, "plain\ntext"]


@pytest.mark.parametrize("name", [CONTROL, BREAKPOINT])
def test_a_chat_that_takes_no_marks_gets_what_it_gets_without(name: str) -> None:
    mark = {name: EXPLICIT if name == BREAKPOINT else SHORT}
    items = [said("system", "Be kind.", **mark), said("user", "hello", text("you", **mark)), CALL, {**OUTPUT, **mark}]
    tools = [{**LOOK, **mark}]
    refusing = Params(drop=(f"**.{name}",))
    bare = sent("chat_completions", *map(without_marks, items), tools=without_marks(tools))
    assert sent("chat_completions", *items, tools=tools, params=refusing) == bare


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mode": "explicit", "ttl": "30m"}, {"mode": "explicit", "ttl": "30m"}),
        ({"mode": "implicit", "comparison_response_id": "resp_1"}, {"mode": "implicit"}),
        ({"comparison_response_id": "resp_1"}, None),
    ],
)
def test_options_cross_the_bridge_without_the_id_of_a_response(options: JSON, expected: JSON | None) -> None:
    assert sent("chat_completions", HELLO, prompt_cache_options=options).get("prompt_cache_options") == expected


# --- Responses --------------------------------------------------------------------------------------------------


def test_an_upstream_of_the_same_api_gets_everything_as_it_is() -> None:
    items = [said("user", text("hello", **BOTH), **MARK), {**CALL, **MARK}, {**OUTPUT, **MARK}]
    options = {"mode": "explicit", "ttl": "30m"}
    body = sent("responses", *items, tools=[{**LOOK, **MARK}], prompt_cache_options=options, cache_control=SHORT)
    assert (body["input"], body["tools"], body["prompt_cache_options"]) == (items, [{**LOOK, **MARK}], options)
    assert body[CONTROL] == SHORT


def test_an_upstream_with_functions_only_gets_the_marks() -> None:
    items = [HELLO, CALL, {**OUTPUT, "output": [text("Rain.", **MARK)]}]
    channel = row(format="responses", tools="functions")
    request = turn(*items, tools=[{**LOOK, **MARK}])
    body: JSON = orjson.loads(formats.load("responses").encode(request, channel, "m"))
    assert body["tools"][0][CONTROL] == SHORT
    assert body["input"][-1]["output"] == [text("Rain.", **MARK)]


def test_the_compared_response_stays_the_upstreams_own() -> None:
    options = {"ttl": "30m", "comparison_response_id": "resp_ours"}
    request = replace(turn(HELLO, prompt_cache_options=options), comparison=UpstreamResponse("resp_up", "f"))
    body: JSON = orjson.loads(formats.load("responses").encode(request, row(format="responses"), "m"))
    assert body["prompt_cache_options"] == {"ttl": "30m", "comparison_response_id": "resp_up"}


# --- in the history ---------------------------------------------------------------------------------------------


def test_marks_of_stored_turns_are_sent_as_well() -> None:
    history = link(SAID, input=(said("user", "long", **MARK),))
    request = turn(said("user", "short"))
    request = replace(request, chain=replace(request.chain, links=(history,)))
    for format_ in ("messages", "chat_completions", "responses"):
        body: JSON = orjson.loads(formats.load(format_).encode(request, row(format=format_), "m"))
        assert len([*marked(body)]) == 1
