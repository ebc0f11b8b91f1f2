"""What the model is offered in place of tool servers, and which tool a called name means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.records import Token
from app.contract.tool_history import CallResult
from app.contract.tools import Approval, HostedTool, ListedTool, ToolFilter, ToolServer, ToolTable, placeholder
from app.contract.turn import Turn
from app.errors import InvalidRequest
from app.relay.tools.rounds import Round
from app.relay.tools.toolset import Toolset, servers_named
from tests.formats.conversations import turn

JSON = dict[str, Any]

SCHEMA = {"type": "object", "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}}}
SEARCH = ListedTool("search", "Searches.", {**SCHEMA, "required": ["query"]}, read_only=True)
FETCH = ListedTool("fetch", "", {"$schema": "x", "$defs": {"a": {}}, "properties": {"u": {"$ref": "#/$defs/a"}}})
WRITE = ListedTool("write")

DOCS = ToolServer("docs", "https://docs.internal/mcp", approval=Approval.of("never"), description="The team's pages.")
WEB = ToolServer("web", "https://web.internal/mcp", allowed=ToolFilter.of(["search", "write"]))
TABLE = ToolTable(
    servers={"docs": DOCS, "web": WEB},
    hosted={
        "web_search": HostedTool("web_search", "web", "search"),
        "file_search": HostedTool("file_search", "docs", "search"),
    },
    client_origins={"https://mcp.example.com": False},
)
LISTINGS = {"docs": [SEARCH, FETCH, WRITE], "web": [WRITE, SEARCH, FETCH], "mine": [WRITE, SEARCH]}
TOKEN = Token(1, "ada", "o", "ant_", tools=("*",))

MCP: JSON = {"type": "mcp", "server_label": "docs"}
OTHER: JSON = {"type": "mcp", "server_label": "web"}
MINE: JSON = {"type": "mcp", "server_label": "mine", "server_url": "https://mcp.example.com/mcp"}
NATIVE: JSON = {"type": "mcp", "server_label": "gmail", "connector_id": "connector_gmail"}
LOOK: JSON = {"type": "function", "name": "look"}


def toolset(*tools: JSON, token: Token = TOKEN, **request: Any) -> tuple[Toolset, Turn]:
    given_turn = turn({"type": "message", "role": "user", "content": "hi"}, tools=list(tools), **request)
    servers = servers_named(given_turn.request, TABLE, token)
    return Toolset.of(given_turn.request, servers, LISTINGS), given_turn


def offered(*tools: JSON, first: bool = True, **request: Any) -> Any:
    """The request of an exchange."""
    made, given_turn = toolset(*tools, **request)
    return made.exchange_turn(given_turn, first=first).request


def names(request: Any) -> list[str]:
    return [tool.get("name", tool["type"]) for tool in request.get("tools", ())]


# --- which servers ------------------------------------------------------------------------------------------------


def test_the_servers_that_a_request_names() -> None:
    request = turn(tools=[LOOK, MCP, NATIVE, {"type": "web_search"}, {"type": "code_interpreter"}, MINE]).request
    named = servers_named(request, TABLE, TOKEN)

    assert [(one.position, one.label, one.hosted is not None) for one in named] == [
        (1, "docs", False),
        (3, "web", True),
        (5, "mine", False),
    ]


@pytest.mark.parametrize("tools", [[MCP, LOOK, MCP], [NATIVE, MCP, {**MINE, "server_label": "gmail"}]])
def test_a_label_stands_for_one_server(tools: list[JSON]) -> None:
    with pytest.raises(InvalidRequest, match="Duplicate MCP server label") as error:
        servers_named({"tools": tools}, TABLE, TOKEN)
    assert error.value.param == "tools"


@pytest.mark.parametrize("tools", [(), ("web",), ("nothing-*",)])
def test_a_token_has_the_servers_that_it_may_use(tools: tuple[str, ...]) -> None:
    token = Token(1, "ada", "o", "ant_", tools=tools)
    with pytest.raises(InvalidRequest, match="MCP server 'docs' is unknown here"):
        servers_named({"tools": [MCP]}, TABLE, token)
    assert [one.label for one in servers_named({"tools": [{"type": "web_search"}]}, TABLE, token)] == [
        label for label in tools if label == "web"
    ]


@pytest.mark.parametrize(
    ("tool", "needed"),
    [
        (MCP, [False, False, False]),
        ({**MCP, "require_approval": None}, [False, False, False]),
        ({**MCP, "require_approval": "never"}, [False, False, False]),
        ({**MCP, "require_approval": "always"}, [True, True, True]),
        ({**MCP, "require_approval": {"never": {"read_only": True}}}, [True, False, True]),
        ({**MCP, "require_approval": {"always": {"tool_names": ["write"]}, "never": {}}}, [False, False, True]),
        # The row says `always`, and a request can only be stricter.
        ({**OTHER, "require_approval": "never"}, [True, True]),
        (MINE, [True, True]),
        ({**MINE, "require_approval": "never"}, [False, False]),
        ({**MINE, "require_approval": {"never": {"tool_names": ["search"]}}}, [False, True]),
        ({**MINE, "require_approval": {"sometimes": {}}}, [True, True]),
    ],
)
def test_which_calls_need_an_approval(tool: JSON, needed: list[bool]) -> None:
    made, given_turn = toolset(tool)
    request = made.exchange_turn(given_turn, first=True).request

    assert [made.called(name).needs_approval for name in names(request)] == needed  # type: ignore[union-attr]


def test_a_mapped_tool_needs_no_approval() -> None:
    made, _ = toolset({"type": "web_search"})
    search = made.called("web_search")

    assert search is not None
    assert (search.item_type, search.needs_approval, search.server.label) == ("web_search_call", False, "web")


# --- what is offered ----------------------------------------------------------------------------------------------


def test_functions_stand_where_the_server_stood() -> None:
    request = offered(LOOK, MCP, NATIVE, {"type": "file_search", "vector_store_ids": ["v"]}, tool_choice="auto")

    assert names(request) == ["look", "fetch", "search", "write", "mcp", "file_search"]
    assert request["tools"][2] == {
        "type": "function",
        "name": "search",
        "description": "The team's pages.\n\nSearches.",
        "parameters": SEARCH.input_schema,
        "strict": False,
    }
    assert request["tools"][4] is NATIVE
    assert request["tool_choice"] == "auto"


def test_a_schema_goes_whole_and_gets_what_it_lacks() -> None:
    tools = {tool["name"]: tool for tool in offered(MCP)["tools"]}

    assert tools["fetch"]["parameters"] == {"type": "object", **FETCH.input_schema}
    assert tools["write"]["parameters"] == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        (MCP, ["fetch", "search", "write"]),
        ({**MCP, "allowed_tools": None}, ["fetch", "search", "write"]),
        ({**MCP, "allowed_tools": ["write", "search", "none"]}, ["search", "write"]),
        ({**MCP, "allowed_tools": {"tool_names": ["fetch"]}}, ["fetch"]),
        ({**MCP, "allowed_tools": {"read_only": True}}, ["search"]),
        ({**MCP, "allowed_tools": {"read_only": False, "tool_names": ["write", "search"]}}, ["write"]),
        ({**MCP, "allowed_tools": {"surprise": 1}}, []),
        ({**MCP, "allowed_tools": []}, []),
        (OTHER, ["search", "write"]),
        ({**OTHER, "allowed_tools": ["fetch", "search"]}, ["search"]),
    ],
)
def test_allowed_tools(tool: JSON, expected: list[str]) -> None:
    assert names(offered(tool)) == expected


def test_a_request_without_any_tool_left_has_no_members_for_tools() -> None:
    request = offered({**MCP, "allowed_tools": []}, tool_choice="auto", parallel_tool_calls=False, max_tool_calls=3)

    assert request.keys().isdisjoint({"tools", "tool_choice", "parallel_tool_calls", "max_tool_calls"})


def test_two_tools_of_one_name_have_two_names() -> None:
    made, given_turn = toolset({"type": "function", "name": "write"}, MCP, OTHER)
    request = made.exchange_turn(given_turn, first=True).request

    assert names(request) == ["write", "fetch", "search", "docs__write", "web__search", "web__write"]
    assert made.called("write") is None
    for name, label, tool in (
        ("search", "docs", SEARCH),
        ("web__search", "web", SEARCH),
        ("docs__write", "docs", WRITE),
    ):
        found = made.called(name)
        assert found is not None
        assert (found.server.label, found.tool) == (label, tool)
        assert made.find(label, tool.name) is found
    assert made.find("web", "fetch") is None


@given(st.permutations(LISTINGS["docs"]), st.permutations(LISTINGS["web"]), st.booleans())
def test_the_order_of_the_tools_does_not_depend_on_the_listing(
    docs: Sequence[ListedTool], web: Sequence[ListedTool], first: bool
) -> None:
    given_turn = turn(tools=[MCP, OTHER, {"type": "web_search"}])
    servers = servers_named(given_turn.request, TABLE, TOKEN)
    made = Toolset.of(given_turn.request, servers, {"docs": docs, "web": web})

    request = made.exchange_turn(given_turn, first=first).request
    assert request["tools"] == offered(MCP, OTHER, {"type": "web_search"})["tools"]


def test_without_the_gateways_tools_the_clients_own_stay() -> None:
    made, given_turn = toolset(LOOK, MCP, {"type": "web_search"}, NATIVE, tool_choice="required", max_tool_calls=1)
    request = made.exchange_turn(given_turn, first=False, offered=False).request

    assert request["tools"] == [LOOK, NATIVE]
    assert (request["tool_choice"], request["max_tool_calls"]) == ("auto", 1)


def test_what_only_a_hosted_tool_may_include_is_not_asked_of_the_upstream() -> None:
    include = ["web_search_call.action.sources", "file_search_call.results", "reasoning.encrypted_content"]

    assert offered({"type": "web_search"}, include=include)["include"] == include[1:]
    assert "include" not in offered({"type": "web_search"}, include=include[:1])
    assert offered(MCP, include=include)["include"] == include


# --- tool_choice --------------------------------------------------------------------------------------------------

FORCED: JSON = {"type": "mcp", "server_label": "web", "name": "search"}
BOTH = [MCP, OTHER]


@pytest.mark.parametrize(
    ("choice", "first", "later"),
    [
        ("auto", "auto", "auto"),
        ("none", "none", "none"),
        ("required", "required", "auto"),
        (FORCED, {"type": "function", "name": "web__search"}, "auto"),
        ({"type": "function", "name": "look"}, {"type": "function", "name": "look"}, "auto"),
        ({"type": "web_search_preview"}, {"type": "function", "name": "web_search"}, "auto"),
        (
            {"type": "mcp", "server_label": "gmail"},
            {"type": "mcp", "server_label": "gmail"},
            "auto",
        ),
    ],
)
def test_a_forced_choice_holds_for_the_first_exchange(choice: Any, first: Any, later: Any) -> None:
    tools = [LOOK, *BOTH, {"type": "web_search"}, NATIVE]

    assert offered(*tools, tool_choice=choice)["tool_choice"] == first
    request = offered(*tools, tool_choice=choice, first=False)
    assert request["tool_choice"] == later
    assert len(request["tools"]) == len(offered(*tools)["tools"])


def test_a_server_that_is_chosen_as_a_whole_is_offered_alone_first() -> None:
    choice = {"type": "mcp", "server_label": "web"}
    first, later = (offered(LOOK, *BOTH, tool_choice=choice, first=first) for first in (True, False))

    assert (names(first), first["tool_choice"]) == (["web__search", "web__write"], "required")
    assert (names(later), later["tool_choice"]) == (names(offered(LOOK, *BOTH)), "auto")


def test_allowed_tools_of_a_choice_are_functions() -> None:
    entries = [{"type": "mcp", "server_label": "web"}, FORCED | {"name": "none"}, LOOK, {"type": "web_search"}]
    choice = {"type": "allowed_tools", "mode": "required", "tools": entries}
    expected = [{"type": "function", "name": name} for name in ("web__search", "web__write", "look", "web_search")]
    tools = [LOOK, *BOTH, {"type": "web_search"}]

    first = offered(*tools, tool_choice=choice)["tool_choice"]
    assert first == {"type": "allowed_tools", "mode": "required", "tools": expected}
    assert offered(*tools, tool_choice=choice, first=False)["tool_choice"] == {**first, "mode": "auto"}
    made, given_turn = toolset(*tools, tool_choice=choice)
    without = made.exchange_turn(given_turn, first=False, offered=False).request
    assert without["tool_choice"]["tools"] == [LOOK]
    assert without["tools"] == [LOOK]


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"type": "mcp", "server_label": "docs", "name": "none"}, "none"),
        ({"type": "mcp", "server_label": "web", "name": "fetch"}, "fetch"),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{**FORCED, "name": "fetch"}]}, "fetch"),
    ],
)
def test_a_choice_that_names_none_of_the_tools_is_refused(choice: JSON, wanted: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        toolset(*BOTH, tool_choice=choice)
    assert error.value.param == "tool_choice"
    assert error.value.message == f"Tool choice '{wanted}' not found in 'tools' parameter."


# --- the rounds ---------------------------------------------------------------------------------------------------


def test_the_rounds_follow_the_turns_own_input() -> None:
    made, given_turn = toolset(MCP)
    call = {"type": "mcp_call", "id": "mcp_1", "server_label": "docs", "name": "search", "arguments": "{}"}
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
    rounds = [
        Round([{**call, "output": "a"}], "f", {"mcp_1": CallResult(images=(image,))}, "one"),
        Round([{**call, "id": "mcp_2", "output": "b"}], "g", channel="two"),
    ]
    extended = made.exchange_turn(given_turn, rounds, first=False)

    assert (extended.input, given_turn.chain.links) == ((), ())
    first, second = extended.chain.links
    assert orjson.loads(first.input) == given_turn.input
    assert orjson.loads(first.output) == rounds[0].items
    assert (orjson.loads(second.input), orjson.loads(second.output)) == ([], rounds[1].items)
    assert [(link.channel, link.family) for link in (first, second)] == [("one", "f"), ("two", "g")]
    assert extended.tool_history.results == rounds[0].results
    assert extended.tool_history.names["docs", "search"] == "search"


def test_the_placeholder_of_an_address_means_the_row() -> None:
    assert names(offered({**MCP, "server_url": placeholder("docs")})) == ["fetch", "search", "write"]
