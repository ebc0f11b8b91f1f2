"""Hosted tools that a tool of a server fulfils: what is stored of a search, and searches that cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import orjson
import pytest

from tests.gateway import Gateway
from tests.relay.tools.conftest import ASK, ToolCase, kinds_of, mcp
from tests.response_contract import check_error
from tests.tool_servers import ToolServer
from tests.upstream import STRICT, ScriptedUpstream
from tests.upstream_formats import FORMAT_SETUPS, lines, rows_of
from tests.websocket_client import Socket

JSON = dict[str, Any]
either = pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])

WEB: JSON = {"type": "web_search"}
FILES: JSON = {"type": "file_search", "vector_store_ids": ["vs_1"]}
SOURCES, RESULTS = "web_search_call.action.sources", "file_search_call.results"
PAGE = "https://docs.example/antiphon"


def searched(items: list[JSON]) -> JSON:
    return next(item for item in items if item["type"].endswith("_search_call"))


def found(items: list[JSON]) -> Any:
    """What the items show of the result of their search."""
    call = searched(items)
    return call["results"] if "results" in call else call["action"].get("sources")


@either
@pytest.mark.parametrize(("tool", "include"), [(WEB, SOURCES), (FILES, RESULTS)], ids=["web", "file"])
def test_what_was_found_is_stored_and_shown_to_clients_that_include_it(
    tool_case: ToolCase, streamed: bool, tool: JSON, include: str
) -> None:
    def listed(path: str) -> list[JSON]:
        return list(tool_case.gateway.get(path).json()["data"])

    conversation = tool_case.gateway.post("/conversations", {}).json()["id"]
    response = tool_case.ask(streamed, tools=[tool], conversation=conversation)
    assert found(response["output"]) is None
    path = f"/responses/{response['id']}"
    assert tool_case.gateway.get(path).json()["output"] == response["output"]
    shown = found(tool_case.gateway.get(f"{path}?include[]={include}").json()["output"])
    assert PAGE in str(shown)

    items = f"/conversations/{conversation}/items?limit=100"
    assert found(listed(items)) is None
    assert found(listed(f"{items}&include[]={include}")) == shown
    tool_case.upstream.reset()
    second = tool_case.ask(streamed, conversation=conversation, input="And?")
    listing = f"/responses/{second['id']}/input_items?limit=100"
    assert found(listed(listing)) is None
    assert found(listed(f"{listing}&include[]={include}")) == shown
    # A client that included it on creation sees it again.
    included = tool_case.ask(streamed, tools=[tool], include=[include])
    assert found(included["output"]) == shown
    assert found(tool_case.gateway.get(f"/responses/{included['id']}").json()["output"]) == shown


def test_the_events_of_a_search_show_what_is_included(tool_case: ToolCase) -> None:
    for include, expected in ([], False), ([SOURCES], True):
        events = tool_case.events(tools=[WEB], include=include)
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert (found(done) is not None) is expected
        assert searched(done) == searched(events[-1]["response"]["output"])


def test_a_connection_remembers_what_was_found_for_its_unstored_turns(tool_case: ToolCase) -> None:
    with Socket(tool_case.gateway) as socket:
        keys: JSON = {"model": tool_case.model, "tools": [WEB], "store": False}
        first = socket.answer(**keys, input=ASK)
        assert kinds_of(first) == ["web_search_call", "message"]
        tool_case.upstream.reset()
        tool_case.upstream.always(*tool_case.dialect)
        socket.answer(**keys, input="And?", previous_response_id=first["id"])
    assert ("output", f"1 page about Oslo: {PAGE}") in lines(tool_case.bodies[-1])


# --- searches that cannot be had ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _broken(tmp_path_factory: pytest.TempPathFactory, tool_server: ToolServer) -> Iterator[dict[str, ToolCase]]:
    """Searches of the web at a server that is down, and of files with a tool that its server has not got."""
    servers = [
        {"label": "docs", "url": tool_server.url, "require_approval": "never"},
        {"label": "gone", "url": "http://127.0.0.1:1/mcp"},
    ]
    hosted = {"web_search": {"server": "gone", "tool": "search"}, "file_search": {"server": "docs", "tool": "absent"}}
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(ScriptedUpstream(dialect=STRICT)) for name in FORMAT_SETUPS}
        channels = [rows_of(name, upstreams)[0] for name in upstreams]
        tables = {"tools": {"servers": servers, "hosted": hosted}}
        gateway = stack.enter_context(Gateway(tmp_path_factory.mktemp("broken"), channels, tables, worker_processes=1))
        without = gateway.token
        gateway.token = gateway.new_token("with-tools", "--tools", "*")
        yield {
            name: ToolCase(
                gateway, upstream, upstream, upstream, tool_server, name, without, FORMAT_SETUPS[name].dialect
            )
            for name, upstream in upstreams.items()
        }


@pytest.fixture(params=FORMAT_SETUPS)
def broken(request: pytest.FixtureRequest, _broken: dict[str, ToolCase]) -> ToolCase:
    case = _broken[request.param]
    case.upstream.reset()
    case.upstream.always(*case.dialect)
    return case


def runs_searches(case: ToolCase) -> bool:
    """Whether the model's server runs hosted tools itself."""
    return FORMAT_SETUPS[case.model].format == "responses"


@either
@pytest.mark.parametrize("tool", [WEB, {"type": "web_search_preview"}, FILES], ids=lambda tool: tool["type"])
@pytest.mark.parametrize("granted", [True, False], ids=["granted", "not granted"])
def test_a_search_that_cannot_be_had_is_as_if_nothing_fulfilled_it(
    broken: ToolCase, streamed: bool, tool: JSON, granted: bool
) -> None:
    body = broken.body(input="Hello", tools=[tool, *([mcp("echo")] if granted else [])], stream=streamed)
    answer = broken.gateway.post("/responses", body, token=broken.gateway.token if granted else broken.stranger)
    assert answer.status_code == 200, answer.text
    (sent,) = broken.bodies
    if runs_searches(broken):
        assert tool in sent["tools"]
        assert "X-Antiphon-Dropped-Tools" not in answer.headers
        return
    assert answer.headers["X-Antiphon-Dropped-Tools"] == tool["type"]
    assert "search" not in str(sent.get("tools"))
    if not streamed:
        assert answer.json()["tools"][0]["type"] == tool["type"]
        shown = orjson.loads(broken.gateway.command("show", answer.json()["id"], "--json"))
        assert [attempt["dropped"] for attempt in shown["attempts"]] == [[tool["type"]]]


@either
def test_the_other_tools_of_the_turn_work(broken: ToolCase, streamed: bool) -> None:
    tools = [FILES, mcp("echo")] if runs_searches(broken) else [WEB, FILES, mcp("echo")]
    broken.upstream.reset()
    broken.upstream.always(*broken.dialect)
    response = broken.ask(streamed, tools=tools)
    assert kinds_of(response) == ["mcp_list_tools", "mcp_call", "message"]


@either
@pytest.mark.parametrize(
    "choice", [WEB, {"type": "allowed_tools", "mode": "required", "tools": [WEB]}], ids=["one", "allowed"]
)
def test_a_choice_of_it_is_refused_where_nothing_searches(broken: ToolCase, streamed: bool, choice: JSON) -> None:
    for token in broken.gateway.token, broken.stranger:
        body = broken.body(tools=[WEB], tool_choice=choice, stream=streamed)
        answer = broken.gateway.post("/responses", body, token=token)
        if runs_searches(broken):
            assert broken.bodies[-1]["tool_choice"] == choice
        else:
            check_error(answer, 400, param="tool_choice")
            assert not broken.bodies
