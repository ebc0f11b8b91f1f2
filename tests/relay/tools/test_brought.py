"""Tools of the gateway that items of the input bring, as Codex sends them, in place of the request's `tools`."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app.contract.items import bound
from app.contract.records import Chain, Token
from app.contract.tools import HostedTool, ToolServer, ToolTable
from app.contract.turn import Turn
from app.errors import InvalidRequest
from app.relay.tools.brought import brought_tools
from app.relay.tools.toolset import Toolset, servers_named
from tests.formats.conversations import link, turn
from tests.relay.tools.conftest import ASK, ToolCase, kinds_of, mcp
from tests.relay.tools.test_toolset import LISTINGS
from tests.response_contract import check_error
from tests.upstream_formats import lines

JSON = dict[str, Any]
USER: JSON = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": ASK}]}
LOOK: JSON = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
DOCS: JSON = {"type": "mcp", "server_label": "docs"}
OWN: JSON = {"type": "mcp", "server_label": "mine", "server_url": "https://mcp.example.com/mcp"}
SEARCH: JSON = {"type": "web_search"}
FOUND = "1 page about Oslo: https://docs.example/antiphon"
either = pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])


def added(*tools: JSON) -> JSON:
    return {"type": "additional_tools", "role": "developer", "tools": [*tools]}


@either
def test_a_server_that_an_item_brings_is_called_in_this_turn_and_the_next(tool_case: ToolCase, streamed: bool) -> None:
    first = tool_case.ask(streamed, input=[added(LOOK, mcp("echo")), USER], tools=[])
    assert kinds_of(first) == ["mcp_list_tools", "mcp_call", "message"]
    assert ("output", "Oslo") in lines(tool_case.bodies[-1])
    assert '"mcp"' not in str(tool_case.bodies).replace("'", '"')
    again = tool_case.ask(streamed, input=ASK, tools=[], previous_response_id=first["id"])
    assert kinds_of(again) == ["mcp_call", "message"]
    assert '"mcp"' not in str(tool_case.bodies).replace("'", '"')
    # What the client has brought is still there.
    listed = tool_case.gateway.get(f"/responses/{again['id']}/input_items").json()["data"]
    (shown,) = [item for item in listed if item["type"] == "additional_tools"]
    assert [tool["type"] for tool in shown["tools"]] == ["function", "mcp"]


@either
def test_a_hosted_tool_that_an_item_brings_is_fulfilled(tool_case: ToolCase, streamed: bool) -> None:
    response = tool_case.ask(streamed, input=[added(SEARCH), USER], tools=[], store=False)
    assert kinds_of(response) == ["web_search_call", "message"]
    assert ("output", FOUND) in lines(tool_case.bodies[-1])


@pytest.mark.parametrize(
    "beside", [{"authorization": "a key"}, {"headers": {"x-a": "b"}}, {"server_url": "https://a.b"}]
)
def test_an_error_names_the_place(tool_case: ToolCase, beside: JSON) -> None:
    answer = tool_case.post(input=[USER, added(LOOK, {**DOCS, **beside})], tools=[])
    error = check_error(answer, 400, "invalid_value", "input[1].tools[1]")
    assert "is a tool server of this gateway; leave out" in error["message"]
    assert not tool_case.bodies


# --- which of them ------------------------------------------------------------------------------------------------

ROW = ToolServer("docs", "https://docs.internal/mcp")
TABLE = ToolTable(
    servers={"docs": ROW, "web": ToolServer("web", "https://web.internal/mcp")},
    hosted={"web_search": HostedTool("web_search", "web", "search")},
    client_origins={"https://mcp.example.com": False},
)
TOKEN = Token(1, "ada", "o", "ant_", tools=("*",))


def brought(*items: JSON, earlier: tuple[JSON, ...] = (), **request: Any) -> Turn:
    links = (link(input=earlier)._replace(opaque=bound(item["type"] for item in earlier)),) if earlier else ()
    return turn(*items, chain=Chain(links), **request)


def named(given: Turn, token: Token = TOKEN) -> list[tuple[int, str]]:
    return [(one.position, one.label) for one in servers_named(given.request, TABLE, token, brought_tools(given))]


def exchange(given: Turn, **options: Any) -> Turn:
    tools = brought_tools(given)
    made = Toolset.of(given.request, servers_named(given.request, TABLE, TOKEN, tools), LISTINGS, tools)
    return made.exchange_turn(given, **{"first": True, **options})


def test_the_newest_of_several_with_one_name_counts() -> None:
    web, docs = {"type": "mcp", "server_label": "web"}, {**DOCS, "require_approval": "never"}
    assert named(brought(added(DOCS, SEARCH), earlier=(added(docs, web),))) == [(1, "web"), (2, "docs"), (3, "web")]
    assert named(brought(added(DOCS, LOOK), tools=[LOOK, DOCS])) == [(1, "docs")]


def test_a_server_that_the_history_brings_may_be_gone() -> None:
    gone = {"type": "mcp", "server_label": "gone"}
    nothing = Token(1, "ada", "o", "ant_", tools=())
    assert named(brought(USER, earlier=(added(gone, {**DOCS, "server_url": "https://a.b"}, OWN),))) == []
    assert named(brought(USER, earlier=(added(DOCS),)), nothing) == []
    assert named(brought(added(OWN))) == [(0, "mine")]
    for tool, token in ((gone, TOKEN), (DOCS, nothing)):
        with pytest.raises(InvalidRequest, match="is unknown here") as error:
            named(brought(USER, added(LOOK, tool)), token)
        assert error.value.param == "input[1].tools[1]"


def test_a_search_brings_tools_as_well() -> None:
    found = {"type": "tool_search_output", "call_id": "call_1", "status": "completed", "tools": [DOCS]}
    assert named(brought({**found, "execution": "client"})) == [(0, "docs")]
    assert named(brought({**found, "execution": "server"})) == []


def test_the_model_gets_functions_and_the_items_what_is_left() -> None:
    given = brought(added(DOCS), USER, earlier=(added(LOOK, SEARCH), USER), tools=[LOOK])
    read = exchange(given)
    names = [tool["name"] for tool in read.request["tools"]]
    assert names == ["look", "web_search", "fetch", "search", "write"]
    assert read.input == [USER]
    assert orjson.loads(read.chain.links[0].input) == [added(LOOK), USER]
    assert [tool["name"] for tool in exchange(given, offered=False).request["tools"]] == ["look"]


def test_a_choice_stays_for_functions_that_an_item_brings() -> None:
    given = brought(added(LOOK, DOCS), USER, tool_choice="required", max_tool_calls=1)
    read = exchange(given, offered=False)
    assert (read.input, read.request["tool_choice"], read.request["tools"]) == ([added(LOOK), USER], "required", [])
    assert "tool_choice" not in exchange(brought(added(DOCS), USER, tool_choice="required"), offered=False).request
