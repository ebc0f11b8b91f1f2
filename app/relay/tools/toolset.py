"""The tools of one turn that the gateway runs: which servers the request names, what the model is offered in place of
them, and which tool a called name means.

Only names of this map are ever run. No format learns of tool servers: a model gets plain functions.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from app.contract.items import SECRETS, TOOLS, Item
from app.contract.records import Link, Token
from app.contract.tool_names import ServerTool, exposed, function_names
from app.contract.tools import HOSTED_TYPES, Approval, HostedTool, ListedTool, ToolFilter, ToolServer, ToolTable
from app.contract.turn import Turn
from app.errors import InvalidRequest
from app.relay.tools.brought import BroughtTool, without_brought
from app.relay.tools.hosted import HostedSearch
from app.relay.tools.rounds import Round

JSON = dict[str, Any]

#: Types of items for calls of the tools that the gateway runs.
MCP_CALL = "mcp_call"
_HOSTED_ITEMS = {"web_search": "web_search_call", "file_search": "file_search_call"}
#: The values of `include` that ask for a part of such items: upstreams that do not run the tool refuse them.
_INCLUDED = {
    "web_search": ("web_search_call.results", "web_search_call.action.sources"),
    "file_search": ("file_search_call.results",),
}
#: What upstreams require of a schema, and servers leave out.
_NO_SCHEMA: Mapping[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class NamedServer:
    """A server that the gateway calls for this request."""

    position: int
    """Of its tool among those of the request, then those that items of the context bring."""
    server: ToolServer
    allowed: ToolFilter | None = None
    """What the request allows of the tools that the row allows."""
    approval: Approval = field(default_factory=Approval)
    description: str = ""
    hosted: HostedTool | None = None
    """The hosted tool of the API that one tool of the server fulfils; None for an `mcp` tool."""

    @property
    def label(self) -> str:
        return self.server.label

    @property
    def identity(self) -> tuple[str, str]:
        """What only one server of a turn has."""
        return ("mcp", self.label) if self.hosted is None else ("hosted", self.hosted.type)


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool of a server, as the model may call it."""

    name: str
    """The name that the model knows."""
    server: ToolServer
    tool: ListedTool
    item_type: str
    """Of the item that shows a call: mcp_call, web_search_call or file_search_call."""
    needs_approval: bool = False
    description: str = ""
    search: HostedSearch | None = None
    """For a hosted tool: what the server is sent."""

    @property
    def function(self) -> JSON:
        """The tool as a function. A function without `strict` would be strict for some upstreams."""
        described = {"description": self.description} if self.description else {}
        schema = self.tool.input_schema if self.search is None else self.search.parameters
        return {
            "type": "function",
            "name": self.name,
            **described,
            "parameters": {**schema, **{name: schema.get(name) or lack for name, lack in _NO_SCHEMA.items()}},
            "strict": False,
        }


def servers_named(
    request: Mapping[str, Any], table: ToolTable, token: Token, brought: Sequence[BroughtTool] = ()
) -> Sequence[NamedServer]:
    """The servers that the gateway calls for a validated request, in the order of its tools. A server of the client's
    own that only an upstream can call is none of them. Raises InvalidRequest, which names the place of the tool."""
    tools = request.get("tools", ())
    _check_labels(tools)
    named = [_named(position, tool, table, token) for position, tool in enumerate(tools)]
    servers = [server for server in named if server is not None]
    return [*servers, *_servers_brought(len(tools), brought, table, token, {one.identity for one in servers})]


def _servers_brought(
    first: int, brought: Sequence[BroughtTool], table: ToolTable, token: Token, known: Set[tuple[str, str]]
) -> Sequence[NamedServer]:
    """Those that items of the context bring, without `known` ones. Of several with one name, the newest counts."""
    newest: dict[tuple[str, str], NamedServer] = {}
    for number, one in enumerate(brought):
        server = _brought(first + number, one, table, token)
        if server is not None and server.identity not in known:
            newest.pop(server.identity, None)
            newest[server.identity] = server
    return [*newest.values()]


def _brought(position: int, one: BroughtTool, table: ToolTable, token: Token) -> NamedServer | None:
    try:
        server = _named(position, one.tool, table, token)
    except InvalidRequest as error:
        if one.place is None:
            # The table or the token has changed since. The conversation goes on without the server.
            return None
        raise InvalidRequest(error.message, code=error.code, param=one.place) from None
    # The history has no credentials for a server of the client's own.
    return None if server is not None and one.place is None and server.server.from_client else server


def _check_labels(tools: Sequence[Mapping[str, Any]]) -> None:
    labels = [tool["server_label"] for tool in tools if tool.get("type") == "mcp"]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        sentence = f"Duplicate MCP server label '{twice[:64]}': each server needs a 'server_label' of its own."
        raise InvalidRequest(sentence, code="invalid_value", param="tools")


def _named(position: int, tool: Mapping[str, Any], table: ToolTable, token: Token) -> NamedServer | None:
    kind = str(tool.get("type"))
    if kind == "mcp":
        server = table.server_of(tool, token.tools)
        return None if server is None else _of_request(position, tool, server)
    if (found := table.hosted_by(kind, token.tools)) is not None:
        hosted, server = found
        return NamedServer(position, server, ToolFilter(frozenset({hosted.tool})), Approval.of("never"), "", hosted)
    return None


def _of_request(position: int, tool: Mapping[str, Any], server: ToolServer) -> NamedServer:
    silence, asked = server.approval, tool.get("require_approval")
    approval = silence if asked is None else Approval.of(asked)
    if not server.from_client:
        approval = silence.stricter(approval)
    allowed = tool.get("allowed_tools")
    return NamedServer(
        position,
        server,
        None if allowed is None else ToolFilter.of(allowed) or ToolFilter(frozenset()),
        approval,
        tool.get("server_description") or server.description,
    )


class Toolset:
    """The tools of one turn that the gateway runs."""

    def __init__(
        self, servers: Sequence[NamedServer], tools: Sequence[_Placed], known: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """`known`: all tools that the client has given, those that items of the context bring included."""
        self.servers = servers
        self._identities = frozenset(server.identity for server in servers)
        self.has_strangers = any(not self._serves(tool) for tool in known)
        """Whether the client has tools beside those that the gateway runs."""
        self._by_name = {placed.tool.name: placed.tool for placed in tools}
        self._by_position: dict[int, list[OfferedTool]] = {server.position: [] for server in servers}
        for placed in tools:
            self._by_position[placed.position].append(placed.tool)

    @staticmethod
    def of(
        request: Mapping[str, Any],
        servers: Sequence[NamedServer],
        listings: Mapping[str, Sequence[ListedTool]],
        brought: Sequence[BroughtTool] = (),
        listed: Callable[[], Iterable[ServerTool]] = tuple,
    ) -> Toolset:
        """The tools of a request, from the listings of its servers by their labels. `listed`: those that the context
        has had before. A hosted tool whose server has not got the tool stays as it is, as one that nothing fulfils.
        Raises InvalidRequest for a `tool_choice` that names none of them."""
        fulfilled = [one for one in servers if one.hosted is None or _search_tool(one, listings) is not None]
        known = [*request.get("tools", ()), *(one.tool for one in brought)]
        toolset = Toolset(fulfilled, [*_placed(known, fulfilled, listings, listed)], known)
        _Choice(toolset, request.get("tool_choice"), offered=True).check()
        return toolset

    def called(self, name: str) -> OfferedTool | None:
        """The tool that a called name means; None for a name that is not the gateway's to run."""
        return self._by_name.get(name)

    def tools_of(self, server: NamedServer) -> Sequence[OfferedTool]:
        """The tools that the model may call of a server."""
        return self._by_position[server.position]

    def find(self, label: str, tool: str) -> OfferedTool | None:
        """The tool of a server, as an approval names it; None if the turn does not have it."""
        offered = (one for one in self._by_name.values() if one.item_type == MCP_CALL)
        return next((one for one in offered if (one.server.label, one.tool.name) == (label, tool)), None)

    def exchange_turn(
        self,
        turn: Turn,
        rounds: Sequence[Round] = (),
        *,
        first: bool,
        offered: bool = True,
        without: Container[str] = (),
    ) -> Turn:
        """What the model gets in the next exchange: functions in place of the servers, and what was said so far.

        `first`: no model has answered in this turn yet. A forced `tool_choice` holds then only. `offered`: False once
        the limit of calls is reached; the client's own tools stay. `without`: names that an upstream has refused.
        """
        if any(server.position >= len(turn.request.get("tools", ())) for server in self.servers):
            turn = without_brought(turn, lambda tools: [tool for tool in tools if not self._serves(tool)])
        results = {item_id: result for one in rounds for item_id, result in one.results.items()}
        history = replace(turn.tool_history, names=self._names(), hosted=self._hosted_names())
        history = replace(history, results={**history.results, **results})
        return replace(
            turn,
            request=self._exchange_request(turn.request, first, offered, without),
            tool_history=history,
            **_extended(turn, rounds),
        )

    # --- the request

    def _exchange_request(
        self, request: Mapping[str, Any], first: bool, offered: bool, without: Container[str]
    ) -> JSON:
        written = {name: value for name, value in request.items() if name != "include"}
        choice = _Choice(self, request.get("tool_choice"), offered, without)
        tools = [*self._tools(request.get("tools", ()), choice.only(first), offered, without)]
        written |= {"tools": tools, "tool_choice": choice.written(first)}
        if not tools and not self._keeps_brought(request):
            written = {name: value for name, value in written.items() if name not in _WITH_TOOLS}
        elif written["tool_choice"] is None:
            del written["tool_choice"]
        if all(tool.get("type") in _CLIENT_TOOLS for tool in tools):
            written.pop("max_tool_calls", None)
        if included := [value for value in request.get("include", ()) if value not in self._own_includes()]:
            written["include"] = included
        return written

    def _tools(
        self,
        tools: Sequence[Mapping[str, Any]],
        only: Sequence[OfferedTool] | None,
        offered: bool,
        without: Container[str],
    ) -> Iterator[Mapping[str, Any]]:
        if only is not None:
            yield from (tool.function for tool in only)
            return
        for position, tool in enumerate(tools):
            if position not in self._by_position:
                yield tool
            elif offered:
                yield from self._functions(position, without)
        if offered:
            for position in self._by_position:
                if position >= len(tools):
                    yield from self._functions(position, without)

    def _functions(self, position: int, without: Container[str]) -> Iterator[JSON]:
        return (one.function for one in self._by_position[position] if one.name not in without)

    def _serves(self, tool: Mapping[str, Any]) -> bool:
        """Whether the gateway runs this tool of the client."""
        kind = str(tool.get("type"))
        named = ("mcp", tool.get("server_label")) if kind == "mcp" else ("hosted", HOSTED_TYPES.get(kind))
        return named in self._identities

    def _keeps_brought(self, request: Mapping[str, Any]) -> bool:
        """Whether items of the context bring tools that the upstream gets from them."""
        return self.has_strangers and all(map(self._serves, request.get("tools", ())))

    def _own_includes(self) -> frozenset[str]:
        hosted = (server.hosted for server in self.servers if server.hosted is not None)
        return frozenset(value for tool in hosted for value in _INCLUDED[tool.type])

    def _names(self) -> Mapping[tuple[str, str], str]:
        offered = (tool for tool in self._by_name.values() if tool.item_type == MCP_CALL)
        return {(tool.server.label, tool.tool.name): tool.name for tool in offered}

    def _hosted_names(self) -> Mapping[str, str]:
        return {tool.item_type: tool.name for tool in self._by_name.values() if tool.item_type != MCP_CALL}

    def named(self, choice: Mapping[str, Any]) -> Sequence[OfferedTool] | None:
        """The tools that an entry of `tool_choice` means; None for one that is not the gateway's to run."""
        kind = str(choice.get("type"))
        if kind == "mcp":
            label, name = choice["server_label"], choice.get("name")
            if all(server.hosted is not None or server.label != label for server in self.servers):
                return None
            offered = (tool for tool in self._by_name.values() if tool.item_type == MCP_CALL)
            return [tool for tool in offered if tool.server.label == label and name in (None, tool.tool.name)]
        item_type = _HOSTED_ITEMS.get(HOSTED_TYPES.get(kind, ""))
        hosted = [tool for tool in self._by_name.values() if tool.item_type == item_type]
        return hosted or None


#: Members that require tools.
_WITH_TOOLS = ("tools", "tool_choice", "parallel_tool_calls", "max_tool_calls")
#: Tools that only the client runs: `max_tool_calls` does not count their calls.
_CLIENT_TOOLS = frozenset({"function", "custom", "namespace"})


class _Choice:
    """The client's `tool_choice` in terms of functions."""

    def __init__(self, toolset: Toolset, choice: Any, offered: bool, without: Container[str] = ()) -> None:
        self._toolset = toolset
        self._choice = choice
        self._offered = offered
        self._without = without

    def only(self, first: bool) -> Sequence[OfferedTool] | None:
        """The only tools to offer: those of a server that the client chose as a whole; None for all."""
        choice = self._choice
        if first and isinstance(choice, Mapping) and choice.get("type") == "mcp" and choice.get("name") is None:
            return self._toolset.named(choice)
        return None

    def written(self, first: bool) -> Any:
        """For the next exchange; None if the client chose nothing. What forces a call is only for the first one, or the
        turn would never end."""
        choice = self._choice
        if not isinstance(choice, Mapping):
            return "auto" if choice == "required" and not first else choice
        if choice.get("type") == "allowed_tools":
            return self._allowed(choice, first)
        if not first:
            return "auto"
        named = self._toolset.named(choice)
        if named is None:
            return choice
        forced = choice.get("type") != "mcp" or choice.get("name") is not None
        return _function_named(named[0]) if forced else "required"

    def _allowed(self, choice: Mapping[str, Any], first: bool) -> Any:
        tools = [*self._allowed_tools(choice["tools"])]
        if not tools:
            return "none"
        return {**choice, "mode": choice["mode"] if first else "auto", "tools": tools}

    def _allowed_tools(self, entries: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        for entry in entries:
            named = self._toolset.named(entry)
            if named is None:
                yield entry
            elif self._offered:
                yield from (_function_named(tool) for tool in named if tool.name not in self._without)

    def check(self) -> None:
        """Raises InvalidRequest if the choice names only tools of the gateway that the turn does not have."""
        choice = self._choice
        if not isinstance(choice, Mapping):
            return
        entries = choice["tools"] if choice.get("type") == "allowed_tools" else [choice]
        named = [self._toolset.named(entry) for entry in entries]
        if named and not any(tools is None or tools for tools in named):
            wanted = str(entries[0].get("name") or entries[0].get("server_label"))
            sentence = f"Tool choice '{wanted[:64]}' not found in 'tools' parameter."
            raise InvalidRequest(sentence, code="invalid_value", param="tool_choice")


def _function_named(tool: OfferedTool) -> JSON:
    return {"type": "function", "name": tool.name}


# --- the tools that are offered -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Placed:
    """An offered tool and the position of its server in the request."""

    position: int
    tool: OfferedTool


def _placed(
    tools: Sequence[Mapping[str, Any]],
    servers: Sequence[NamedServer],
    listings: Mapping[str, Sequence[ListedTool]],
    listed: Callable[[], Iterable[ServerTool]],
) -> Iterator[_Placed]:
    """The tools of each server by their names, in the order of the servers: the same in every turn, so that prompt
    caches stay warm."""
    client = frozenset(function_names(tools))
    searches = {server.position: tool for server in servers if (tool := _search_tool(server, listings)) is not None}
    by_type: dict[str, int] = {}
    for server in servers:
        if server.hosted is not None and server.position in searches:
            by_type.setdefault(server.hosted.type, server.position)
    hosted = exposed([("hosted", kind) for kind in by_type], client)
    remote = {server.position: _allowed(server, listings) for server in servers if server.hosted is None}
    names = exposed(
        [(server.label, tool.name) for server in servers for tool in remote.get(server.position, ())],
        client | set(hosted.values()),
        listed,
    )
    for server in servers:
        if server.hosted is None:
            for tool in remote[server.position]:
                yield _Placed(server.position, _remote(server, tool, names[server.label, tool.name]))
        elif by_type.get(server.hosted.type) == server.position:
            name = hosted["hosted", server.hosted.type]
            yield _Placed(server.position, _hosted(server, searches[server.position], name, tools[server.position]))


def _allowed(server: NamedServer, listings: Mapping[str, Sequence[ListedTool]]) -> Sequence[ListedTool]:
    filters = [one for one in (server.server.allowed, server.allowed) if one is not None]
    fitting = (tool for tool in listings.get(server.label, ()) if all(one.matches(tool) for one in filters))
    return sorted({tool.name: tool for tool in fitting}.values(), key=lambda tool: tool.name)


def _search_tool(server: NamedServer, listings: Mapping[str, Sequence[ListedTool]]) -> ListedTool | None:
    if server.hosted is None:
        return None
    wanted = server.hosted.tool
    return next((tool for tool in listings.get(server.label, ()) if tool.name == wanted), None)


def _remote(server: NamedServer, tool: ListedTool, name: str) -> OfferedTool:
    described = "\n\n".join(text for text in (server.description, tool.description) if text)
    return OfferedTool(name, server.server, tool, MCP_CALL, server.approval.needed(tool), described)


def _hosted(server: NamedServer, tool: ListedTool, name: str, settings: Mapping[str, Any]) -> OfferedTool:
    assert server.hosted is not None
    search = HostedSearch(server.hosted.type, tool, settings)
    item_type = _HOSTED_ITEMS[server.hosted.type]
    return OfferedTool(name, server.server, tool, item_type, description=search.description, search=search)


# --- what was said ------------------------------------------------------------------------------------------------


def _extended(turn: Turn, rounds: Sequence[Round]) -> JSON:
    """The turn's context with the rounds behind its own input, as the next turn will find them."""
    if not rounds:
        return {}
    links = [_link(turn, one, turn.input if number == 0 else ()) for number, one in enumerate(rounds)]
    return {"chain": replace(turn.chain, links=(*turn.chain.links, *links)), "input": ()}


def _link(turn: Turn, one: Round, given: Sequence[Item]) -> Link:
    input, output = orjson.dumps(list(given)), orjson.dumps(list(one.items))
    return Link(turn.id, "completed", one.channel, one.family, SECRETS | TOOLS, None, None, input, output)
