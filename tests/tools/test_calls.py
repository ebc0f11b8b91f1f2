"""Calls of tools on real servers: what their results become, on every protocol and form of answer."""

from __future__ import annotations

import threading
from typing import Any

import orjson
import pytest

from app.tools.servers import ToolServers
from tests.conftest import MakeToolServer
from tests.tools.conftest import row, turn, unwatched


def test_all_tools_are_listed_and_called(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, kind: dict[str, Any]
) -> None:
    server = make_tool_server(**kind)
    docs = row(server)
    tools = {tool.name: tool for tool in tool_servers.listed(docs, unwatched())}
    assert tools["echo"].description == "Returns the text."
    assert tools["echo"].input_schema == {"type": "object", "properties": {"text": {"type": "string"}}}
    assert (tools["echo"].read_only, tools["hold_again"].idempotent, tools["add"].read_only) == (True, True, False)
    with turn(tool_servers, docs) as one:
        assert one.call("echo", '{"text": "good  morning"}').output == "good  morning"
        added = one.call("add", '{"a": 2, "b": 3}')
        assert (added.output, added.structured, added.error) == ("5", {"result": 5}, None)
        assert added.size > 0
        assert added.milliseconds >= 0
        failed = one.call("fail", '{"text": "no such page"}')
        assert failed.output is None
        assert failed.error == {
            "type": "mcp_tool_execution_error",
            "content": [{"type": "text", "text": "no such page"}],
        }
        assert failed.text_for_model == "no such page"
        assert one.call("refuse").error == {
            "type": "mcp_protocol_error",
            "code": -32602,
            "message": "these arguments are not for me",
        }
    assert [call.name for call in server.calls] == ["echo", "add", "fail", "refuse"]
    assert len(server.seen("tools/list")) == 1


def test_a_turn_opens_one_session_and_the_next_needs_no_probe(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, era: str
) -> None:
    server = make_tool_server(protocol=era)
    docs = row(server)
    for _ in range(2):
        with turn(tool_servers, docs) as one:
            for _ in range(3):
                assert one.call("echo", '{"text": "hi"}').output == "hi"
    assert len(server.seen("server/discover")) == 1
    assert len(server.seen("initialize")) == (2 if era == "legacy" else 0)
    assert server.seen("tools/list") == []
    if era == "legacy":
        server.wait_for(lambda: len(server.seen("DELETE")) == 2)


def test_a_row_may_say_that_its_server_is_legacy(tool_servers: ToolServers, make_tool_server: MakeToolServer) -> None:
    server = make_tool_server(protocol="legacy")
    with turn(tool_servers, row(server, protocol="legacy")) as one:
        assert one.call("echo", '{"text": "hi"}').output == "hi"
    assert server.seen("server/discover") == []


def test_calls_of_a_turn_run_at_once(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, kind: dict[str, Any]
) -> None:
    server = make_tool_server(**kind)
    with turn(tool_servers, row(server)) as one:
        held = [one.start("hold") for _ in range(5)]
        server.wait_for_call("hold", 5)
        assert [call.outcome for call in held] == [None] * 5
        server.release(5)
        assert [one.wait(call).output for call in held] == ["released"] * 5


def test_turns_of_many_threads_get_their_own_answers(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, era: str
) -> None:
    server = make_tool_server(protocol=era)
    docs = row(server)
    answers: dict[int, list[str | None]] = {}

    def run(number: int) -> None:
        with turn(tool_servers, docs) as one:
            calls = [one.start("echo", orjson.dumps({"text": f"{number}.{n}"}).decode()) for n in range(3)]
            answers[number] = [one.wait(call).output for call in calls]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: [f"{number}.{n}" for n in range(3)] for number in range(12)}


@pytest.mark.parametrize(
    "arguments", ["[1]", "{", '"text"', "null", '{"a": NaN}', "[" * 5000, '{"a": ' * 5000, "1" * 5000]
)
def test_what_is_no_object_is_not_sent(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, arguments: str
) -> None:
    server = make_tool_server()
    with turn(tool_servers, row(server)) as one:
        outcome = one.call("echo", arguments)
    assert outcome.error is not None
    assert (outcome.error["type"], outcome.error["code"]) == ("mcp_protocol_error", -32602)
    assert outcome.text_for_model == outcome.error["message"]
    assert server.requests == []


@pytest.mark.parametrize("arguments", ["", "  ", "{}"])
def test_a_tool_may_be_called_without_arguments(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, arguments: str
) -> None:
    server = make_tool_server()
    with turn(tool_servers, row(server)) as one:
        assert one.call("structured", arguments).output == '{"answer": 42, "unit": "°C"}'
    assert server.calls[0].arguments == {}


def test_arguments_reach_the_server_exactly(tool_servers: ToolServers, make_tool_server: MakeToolServer) -> None:
    server = make_tool_server()
    given = '{"text": "\\u00e9 𝄞 \\n", "a": 18446744073709551617, "b": [1.5, null, {"c": true}]}'
    with turn(tool_servers, row(server)) as one:
        one.call("echo", given)
    assert server.calls[0].arguments == {"text": "é 𝄞 \n", "a": 2**64 + 1, "b": [1.5, None, {"c": True}]}


def test_the_descriptor_tells_of_each_end(tool_servers: ToolServers, make_tool_server: MakeToolServer) -> None:
    server = make_tool_server()
    with turn(tool_servers, row(server)) as one:
        first, second = one.start("hold"), one.start("hold")
        server.wait_for_call("hold", 2)
        server.release(2)
        assert one.wait(first).output == one.wait(second).output == "released"
        assert first.outcome is first.outcome
