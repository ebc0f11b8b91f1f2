"""Calls of tools in a turn's context, as each format sends them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import orjson
import pytest

from app import formats
from app.contract.channel import Channel
from app.contract.items import SECRETS, TOOLS, Item, gateway_item_id
from app.contract.records import Chain, Link
from app.contract.tool_history import CallResult, ToolHistory, call_id_of
from app.contract.turn import Turn
from app.relay.tools.history import for_channel
from app.relay.tools.rounds import Round
from app.relay.tools.toolset import Toolset
from tests.formats.conversations import row, turn

JSON = dict[str, Any]

USER: Item = {"type": "message", "role": "user", "content": "hi"}
ANSWER: Item = {
    "id": "msg_1",
    "type": "message",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "ok", "annotations": [], "logprobs": []}],
}
REASONING: Item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "their secret"}
LISTING: Item = {
    "id": gateway_item_id("mcp_list_tools", "resp_0", 0, 0),
    "type": "mcp_list_tools",
    "server_label": "docs",
    "tools": [],
}


def call(number: int, **more: Any) -> Item:
    return {
        "id": gateway_item_id("mcp_call", "resp_0", number, 0),
        "type": "mcp_call",
        "status": "completed",
        "approval_request_id": None,
        "arguments": '{"query":"x"}',
        "error": None,
        "name": "search",
        "output": "found",
        "server_label": "docs",
        **more,
    }


FAILED = call(
    2, status="failed", output=None, error={"type": "mcp_protocol_error", "code": -32602, "message": "Unknown tool"}
)
SEARCH: Item = {
    "id": gateway_item_id("web_search_call", "resp_0", 3, 0),
    "type": "web_search_call",
    "status": "completed",
    "action": {"type": "search", "query": "cats"},
}
#: The same calls as an upstream with MCP of its own makes them.
THEIRS: list[Item] = [{**LISTING, "id": "mcpl_1"}, {**REASONING}, call(1, id="mcp_1"), ANSWER]


def link(*output: Item, input: Sequence[Item] = (USER,), status: str = "completed", family: str = "f") -> Link:
    return Link(
        "resp_0", status, "c", family, SECRETS | TOOLS, None, None, orjson.dumps(list(input)), orjson.dumps(output)
    )


def sent(context: Turn, channel: Channel, results: Mapping[str, bytes] | None = None) -> JSON:
    """The request for this channel's upstream."""
    read = for_channel(context, channel, lambda _ids: results or {})
    body: JSON = orjson.loads(formats.load(channel.format).encode(read, channel, "m"))
    return body


def channel(format_: str, **keys: Any) -> Channel:
    return row(format=format_, **keys)


def without_breakpoints(value: Any) -> Any:
    """The messages without the marks of a prompt cache, which move with the end of the conversation."""
    if isinstance(value, list):
        return [without_breakpoints(one) for one in value]
    if isinstance(value, dict):
        return {name: without_breakpoints(one) for name, one in value.items() if name != "cache_control"}
    return value


NATIVE = channel("responses", mcp="native", encrypted_reasoning=True)
EVERY_CHANNEL = [
    channel("responses"),
    NATIVE,
    channel("responses", tools="functions"),
    channel("chat_completions"),
    channel("messages"),
]
CALL_ID, FAILED_ID = call_id_of(call(1)), call_id_of(FAILED)


def test_calls_go_to_an_upstream_of_the_responses_api_as_functions() -> None:
    chain = Chain((link(LISTING, call(1), FAILED, ANSWER),))
    body = sent(turn(USER, chain=chain), channel("responses", mcp="native"))

    assert body["input"] == [
        USER,
        {"type": "function_call", "call_id": CALL_ID, "name": "docs__search", "arguments": '{"query":"x"}'},
        {"type": "function_call", "call_id": FAILED_ID, "name": "docs__search", "arguments": '{"query":"x"}'},
        {"type": "function_call_output", "call_id": CALL_ID, "output": "found"},
        {
            "type": "function_call_output",
            "call_id": FAILED_ID,
            "output": "-32602: Unknown tool",
            "status": "incomplete",
        },
        ANSWER,
        USER,
    ]


def test_calls_go_to_a_chat_as_one_message_with_its_results() -> None:
    body = sent(turn(USER, chain=Chain((link(LISTING, call(1), FAILED, ANSWER),))), channel("chat_completions"))

    assert [message["role"] for message in body["messages"]] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
        "user",
    ]
    assert [made["id"] for made in body["messages"][1]["tool_calls"]] == [CALL_ID, FAILED_ID]
    assert [message["content"] for message in body["messages"][2:4]] == ["found", "-32602: Unknown tool"]


def test_calls_go_to_messages_as_blocks_and_a_failure_is_an_error() -> None:
    body = sent(turn(USER, chain=Chain((link(LISTING, call(1), FAILED, ANSWER),))), channel("messages"))

    results = body["messages"][2]["content"]
    assert [block["type"] for block in body["messages"][1]["content"]] == ["tool_use", "tool_use"]
    assert [block.get("is_error") for block in results] == [None, True]
    assert [block["tool_use_id"] for block in results] == [CALL_ID, FAILED_ID]


@pytest.mark.parametrize("channel", EVERY_CHANNEL, ids=lambda row: f"{row.format}-{row.tools}-{row.mcp}")
def test_a_stored_history_and_one_that_a_client_sends_read_alike(channel: Channel) -> None:
    items = [LISTING, call(1), FAILED, SEARCH, ANSWER]
    hidden = {SEARCH["id"]: CallResult("Cats sleep.").stored()}
    stored = sent(turn(USER, chain=Chain((link(*items),))), channel, hidden)
    brought = sent(turn(USER, *items, USER), channel, hidden)

    assert stored == brought
    assert b"mcp_" not in orjson.dumps(stored)
    assert b"Cats sleep." in orjson.dumps(stored)


@pytest.mark.parametrize("channel", EVERY_CHANNEL, ids=lambda row: f"{row.format}-{row.tools}-{row.mcp}")
def test_a_round_reads_as_the_next_turn_will_read_it(channel: Channel) -> None:
    """What a model has seen in one exchange is the beginning of the next one, and of the next turn."""
    first, toolset = turn(USER), Toolset((), [])
    rounds = [Round([call(1), FAILED], "f"), Round([call(4, id=gateway_item_id("mcp_call", "resp_0", 4, 1))], "f")]
    second = toolset.exchange_turn(first, rounds[:1], first=False)
    third = toolset.exchange_turn(first, rounds, first=False)
    output = [item for one in rounds for item in one.items]
    later = turn(USER, chain=Chain((link(*output, ANSWER),)))

    requests = [sent(one, channel) for one in (second, third, later)]
    for earlier, following in pairwise(requests):
        said, more = (without_breakpoints(body.get("input") or body["messages"]) for body in (earlier, following))
        assert more[: len(said)] == said
        assert len(more) > len(said)


@pytest.mark.parametrize("status", ["completed", "incomplete"])
@pytest.mark.parametrize("channel", EVERY_CHANNEL, ids=lambda row: f"{row.format}-{row.tools}-{row.mcp}")
def test_calls_of_a_response_that_was_cut_off_stay(channel: Channel, status: str) -> None:
    half = call(5, status="incomplete", output=None, arguments='{"que')
    output = [call(1), FAILED, *([half] if status == "incomplete" else [])]
    body = sent(turn(USER, chain=Chain((link(*output, status=status),))), channel)

    whole = sent(turn(USER, chain=Chain((link(call(1), FAILED),))), channel)
    assert body == whole


def test_an_upstream_with_mcp_of_its_own_gets_what_it_made() -> None:
    context = turn(USER, chain=Chain((link(*THEIRS),)))

    assert sent(context, NATIVE)["input"] == [USER, *THEIRS, USER]
    # From the client nothing shows who made them, and an upstream with MCP may have.
    brought = sent(turn(USER, *THEIRS, USER), NATIVE)["input"]
    assert [item["type"] for item in brought] == [item["type"] for item in (USER, *THEIRS, USER)]


@pytest.mark.parametrize(
    "other",
    [
        channel("responses", mcp="native", encrypted_reasoning=True, family="g"),
        channel("responses", mcp="native", encrypted_reasoning=False),
        channel("responses", encrypted_reasoning=True),
        channel("chat_completions"),
    ],
    ids=["of another family", "without its reasoning", "without MCP", "in another format"],
)
def test_another_upstream_gets_functions(other: Channel) -> None:
    body = sent(turn(USER, chain=Chain((link(*THEIRS),))), other)
    assert b'"mcp_' not in orjson.dumps(body)
    assert b"docs__search" in orjson.dumps(body)
    assert b"found" in orjson.dumps(body)


def test_a_server_that_the_gateway_serves_now_is_a_function_in_all_of_the_history() -> None:
    context = replace(
        turn(USER, chain=Chain((link(*THEIRS),))), tool_history=ToolHistory({("docs", "search"): "search"})
    )
    body = sent(context, NATIVE)

    assert [item["type"] for item in body["input"]] == [
        *("message", "reasoning", "function_call", "function_call_output", "message", "message")
    ]
    assert body["input"][2]["name"] == "search"


def test_hidden_results_are_looked_up_once_and_only_where_they_are_missing() -> None:
    lookups: list[Sequence[str]] = []

    def results(item_ids: Sequence[str]) -> Mapping[str, bytes]:
        lookups.append(item_ids)
        return {}

    theirs = {**SEARCH, "id": "ws_1"}
    context = turn(USER, chain=Chain((link(SEARCH, call(1), theirs), link(ANSWER))))
    for_channel(context, channel("chat_completions"), results)
    known = ToolHistory(results={SEARCH["id"]: CallResult("known")})
    for_channel(replace(context, tool_history=known), channel("chat_completions"), results)
    for_channel(turn(USER, chain=Chain((link(theirs, ANSWER),))), channel("chat_completions"), results)

    assert lookups == [[SEARCH["id"]]]


def test_a_context_without_tools_stays_the_same_object() -> None:
    plain = turn(USER, chain=Chain((link(ANSWER), link(REASONING, ANSWER))), tools=[{"type": "function", "name": "f"}])

    def results(_ids: Sequence[str]) -> Mapping[str, bytes]:
        raise AssertionError

    for one in EVERY_CHANNEL:
        assert for_channel(plain, one, results) is plain


@pytest.mark.parametrize(("mcp", "left"), [("gateway", ["function"]), ("native", ["mcp", "function", "mcp"])])
def test_no_upstream_gets_a_server_that_it_cannot_call(mcp: str, left: list[str]) -> None:
    tools = [
        {"type": "mcp", "server_label": "theirs", "server_url": "https://x.test", "authorization": "secret"},
        {"type": "function", "name": "f"},
        {"type": "mcp", "server_label": "docs"},
        {"type": "mcp", "server_label": "mail", "connector_id": "connector_gmail"},
    ]
    body = sent(turn(USER, tools=tools), channel("responses", mcp=mcp))
    assert [tool["type"] for tool in body["tools"]] == left


# --- servers that an upstream cannot call -------------------------------------------------------------------------

SERVER: JSON = {
    "type": "mcp",
    "server_label": "mine",
    "server_url": "https://mcp.example.com/mcp",
    "authorization": "a key",
}
LABEL: JSON = {"type": "mcp", "server_label": "docs", "server_url": "https://tools.antiphon.invalid/docs"}
FUNCTION: JSON = {"type": "function", "name": "look", "parameters": {}}


def within(kind: str, *tools: JSON) -> Turn:
    """A turn with these tools in one of the places where tools stand."""
    if kind == "tools":
        return turn(USER, tools=[*tools])
    if kind == "namespace":
        return turn(USER, tools=[{"type": "namespace", "name": "space", "tools": [*tools]}])
    if kind == "namespace in an item":
        return within("additional_tools", {"type": "namespace", "name": "space", "tools": [*tools]})
    if kind == "additional_tools":
        return turn({"type": "additional_tools", "role": "developer", "tools": [*tools]}, USER)
    return turn({"type": "tool_search_output", "call_id": "call_1", "execution": "client", "tools": [*tools]}, USER)


PLACES = ["tools", "namespace", "additional_tools", "namespace in an item", "tool_search_output"]


@pytest.mark.parametrize("place", PLACES)
def test_only_native_channels_get_the_clients_servers(place: str) -> None:
    given = within(place, SERVER, LABEL, FUNCTION)
    plain = for_channel(given, row(), lambda ids: {})
    native = for_channel(given, row(mcp="native"), lambda ids: {})

    for read, left in (plain, within(place, FUNCTION)), (native, within(place, SERVER, FUNCTION)):
        assert (read.request.get("tools"), read.input) == (left.request.get("tools"), left.input)
    assert "drop mcp" in plain.changes or plain.input == given.input


@pytest.mark.parametrize("place", PLACES)
def test_a_turn_without_servers_stays_the_same(place: str) -> None:
    given = within(place, FUNCTION)
    assert for_channel(given, row(), lambda ids: {}) is given


def test_an_item_that_brought_only_servers_is_left_out() -> None:
    plain = for_channel(within("additional_tools", SERVER), row(), lambda ids: {})
    assert plain.input == [USER]
