"""Turns that end, or are ended, while a tool runs; and streams that fail between exchanges."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.settings import TRANSPORTS
from app.sse import HEARTBEAT
from tests.gateway import Gateway, portions, reset
from tests.relay.conftest import check_failed_stream, eventually, read_until, response_id_in
from tests.relay.tools.conftest import ToolCase, kinds_of, mcp, table
from tests.response_contract import check_stream
from tests.tool_servers import Answer as ToolAnswer
from tests.tool_servers import ToolServer, only
from tests.tool_servers.seen import Seen
from tests.upstream import ScriptedUpstream, dropped, refusal

JSON = dict[str, Any]
#: Seconds after which a head leaves here, and those between two heartbeats.
SOON = 0.2
LEAVINGS: dict[str, Callable[[Any], None]] = {"FIN": lambda sock: sock.close(), "RST": reset}

on_both_transports = pytest.mark.parametrize("transport", TRANSPORTS, indirect=True, scope="module")


@pytest.fixture(scope="module")
def transport(request: pytest.FixtureRequest) -> str:
    return str(getattr(request, "param", TRANSPORTS[0]))


@pytest.fixture(scope="module")
def _case(tmp_path_factory: pytest.TempPathFactory, transport: str) -> Iterator[ToolCase]:
    with (
        ToolServer(answers="sse") as server,
        ScriptedUpstream() as upstream,
        Gateway(
            tmp_path_factory.mktemp("held"),
            [upstream.channel("exact", models=["m"], cooldown={"after": 1000})],
            table(server),
            mover=transport,
            heartbeat=SOON,
            header_after=SOON,
            worker_processes=1,
        ) as gateway,
    ):
        gateway.token = gateway.new_token("with-tools", "--tools", "*")
        yield ToolCase(gateway, upstream, upstream, upstream, server, "m", "")


@pytest.fixture
def case(_case: ToolCase) -> Iterator[ToolCase]:
    _case.upstream.reset()
    yield _case
    _case.upstream.reset()
    _case.server.edge = None


def held(case: ToolCase) -> int:
    """How often the tool that waits has been called so far."""
    return sum(call.name == "hold" for call in case.server.calls)


def dialled(case: ToolCase, **keys: Any) -> Any:
    return case.gateway.dial(case.body(tools=[mcp("hold")], **keys))


# --- a client that leaves, and one that cancels -------------------------------------------------------------------


@on_both_transports
@pytest.mark.parametrize("leave", LEAVINGS.values(), ids=LEAVINGS)
@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
def test_a_hang_up_reaches_the_running_call(case: ToolCase, streamed: bool, leave: Callable[[Any], None]) -> None:
    before = held(case)
    sock = dialled(case, stream=streamed)
    response_id = response_id_in(read_until(sock, b"mcp_call_arguments.done")) if streamed else ""
    call = case.server.wait_for_call("hold", before + 1)
    leave(sock)
    eventually(lambda: call.cancelled, "the server to hear of it")
    if not streamed:
        return
    stored = eventually(lambda: ended(case, response_id), "the row")
    assert stored["status"] == "cancelled"
    listed, broken = (item for item in stored["output"] if item["type"] != "reasoning")
    assert listed["type"] == "mcp_list_tools"
    assert (broken["status"], broken["output"], broken["error"]) == ("incomplete", None, None)
    shown = orjson.loads(case.gateway.command("show", response_id, "--json"))
    assert [(one["tool"], one["error"]) for one in shown["tool_calls"]] == [("hold", "cancelled")]


def ended(case: ToolCase, response_id: str) -> JSON | None:
    response = case.gateway.get(f"/responses/{response_id}").json()
    return None if response["status"] in ("queued", "in_progress") else dict(response)


def test_a_cancelled_background_response_cancels_its_call(case: ToolCase) -> None:
    before = held(case)
    queued = case.post(background=True, tools=[mcp("hold")]).json()
    call = case.server.wait_for_call("hold", before + 1)
    cancelled = case.gateway.post(f"/responses/{queued['id']}/cancel", {}).json()
    assert cancelled["status"] == "cancelled"
    assert all(item["type"] in ("mcp_list_tools", "reasoning") for item in cancelled["output"])
    eventually(lambda: call.cancelled, "the server to hear of it")


# --- waiting -------------------------------------------------------------------------------------------------------


@on_both_transports
def test_heartbeats_come_while_a_tool_runs(case: ToolCase) -> None:
    before = held(case)
    answer = case.stream(tools=[mcp("hold")])
    raw = b""
    pieces = portions(answer)
    while b"mcp_call_arguments.done" not in raw:
        raw += next(pieces)
    case.server.wait_for_call("hold", before + 1)
    waiting = b""
    while waiting.count(HEARTBEAT) < 2:
        waiting += next(pieces)
    case.server.release()
    response = check_stream(raw + waiting + b"".join(pieces))[-1]["response"]
    assert kinds_of(response) == ["mcp_list_tools", "mcp_call", "message"]
    assert response["output"][-2]["output"] == "released"


def test_a_list_that_fails_after_the_head_has_events_of_its_own(case: ToolCase) -> None:
    seen = threading.Event()

    def late(request: Seen) -> ToolAnswer:
        async def pieces() -> AsyncIterator[bytes]:
            while not seen.is_set():
                await asyncio.sleep(0.01)
            yield b": nothing\n\n"

        return ToolAnswer(200, pieces, "text/event-stream")

    case.server.edge = only("tools/list", late)
    answer = case.stream(tools=[mcp("echo", label="unlisted")])
    pieces = portions(answer)
    raw = next(pieces)
    assert b"response.created" in raw
    seen.set()
    events = check_failed_stream(raw + b"".join(pieces), "http_error")
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "mcp_list_tools.in_progress",
        "mcp_list_tools.failed",
        "output_item.done",
        "error",
        "failed",
    ]
    assert events[-2]["error"]["type"] == "external_connector_error"
    (item,) = events[-1]["response"]["output"]
    assert item["tools"] == []
    assert item["error"].startswith("Error retrieving tool list from MCP server: 'unlisted'")


# --- failing between exchanges ------------------------------------------------------------------------------------


@on_both_transports
def test_an_exchange_that_breaks_off_keeps_what_was_said_before(case: ToolCase) -> None:
    case.upstream.enqueue()
    case.upstream.enqueue(dropped(7))
    events = check_failed_stream(case.stream().content)
    failed = events[-1]["response"]
    assert kinds_of(failed) == ["mcp_list_tools", "mcp_call", "message"]
    assert failed["output"][-2]["output"] == "Oslo"
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    stored = case.gateway.get(f"/responses/{failed['id']}").json()
    assert (stored["status"], stored["output"]) == ("failed", failed["output"])


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
def test_an_exchange_that_no_channel_takes_fails_the_turn(case: ToolCase, streamed: bool) -> None:
    case.upstream.enqueue()
    case.upstream.enqueue(refusal(400, "I have had enough.", "invalid_value"))
    if not streamed:
        answer = case.post()
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, "I have had enough.")
        return
    events = check_failed_stream(case.stream().content)
    assert kinds_of(events[-1]["response"]) == ["mcp_list_tools", "mcp_call"]


# --- a worker that stops --------------------------------------------------------------------------------------------


def test_a_worker_that_stops_ends_the_call_and_the_stream(tmp_path: Path) -> None:
    with ToolServer(answers="sse") as server, ScriptedUpstream() as upstream:
        channels = [upstream.channel("exact", models=["m"])]
        with Gateway(tmp_path, channels, table(server), drain=1) as gateway:
            gateway.token = gateway.new_token("with-tools", "--tools", "*")
            case = ToolCase(gateway, upstream, upstream, upstream, server, "m", "")
            answer = case.stream(tools=[mcp("hold")])
            call = server.wait_for_call("hold")
            os.kill(gateway.pid, signal.SIGTERM)
            events = check_failed_stream(answer.content, "server_shutting_down")
            assert kinds_of(events[-1]["response"]) == ["mcp_list_tools", "mcp_call"]
            assert events[-1]["response"]["output"][-1]["status"] == "incomplete"
            eventually(lambda: call.cancelled, "the server to hear of it")
            gateway.stop()


def test_a_background_run_that_has_called_a_tool_is_failed_and_not_run_again(tmp_path: Path) -> None:
    with ToolServer(answers="sse") as server, ScriptedUpstream() as upstream:
        channels = [upstream.channel("exact", models=["m"])]
        with Gateway(tmp_path, channels, table(server), drain=1, lease=4, worker_processes=1) as gateway:
            gateway.token = gateway.new_token("with-tools", "--tools", "*")
            case = ToolCase(gateway, upstream, upstream, upstream, server, "m", "")
            queued = case.post(background=True, tools=[mcp("hold")]).json()
            server.wait_for_call("hold")
            (worker,) = gateway.background_workers
            os.kill(worker, signal.SIGKILL)
            failed = eventually(lambda: ended(case, queued["id"]), "the reaper", within=60.0)
            assert failed["status"] == "failed"
            assert sum(call.name == "hold" for call in server.calls) == 1
