"""One gateway with a model of every format, and real tool servers behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest

from app.settings import TRANSPORTS
from tests.gateway import Gateway
from tests.tool_servers import ToolServer
from tests.upstream import STRICT, Script, ScriptedUpstream
from tests.upstream_formats import FORMAT_SETUPS, CheckedRequests, row_of, rows_of

JSON = dict[str, Any]

#: What makes the scripted model call the first tool that it is offered, and both the first and the last one.
ASK, ASK_BOTH = "What is the weather?", "What is the weather in both towns?"

#: Of every model, for a million tokens.
PRICE = {"input": 2, "cached_input": 0.5, "cache_write": 2.5, "output": 10, "above": {"100k": {"input": 4}}}


@dataclass(frozen=True, slots=True)
class ToolCase(CheckedRequests):
    """A model that `upstream` serves, and a tool server that its requests name."""

    gateway: Gateway
    upstream: ScriptedUpstream
    second: ScriptedUpstream
    """Serves `model-first` when the first has failed."""
    native: ScriptedUpstream
    """Calls MCP servers itself, and serves `model-native` when the first has failed."""
    server: ToolServer
    model: str
    stranger: str
    """The token of another owner."""
    dialect: tuple[Script, ...] = ()
    token: str | None = None

    def on(self, model: str) -> ToolCase:
        return replace(self, model=model)

    @property
    def bodies(self) -> list[JSON]:
        """What the model has been sent."""
        return self.upstream.bodies

    def body(self, **keys: Any) -> JSON:
        return {"model": self.model, "input": ASK, "tools": [mcp("echo")], **keys}


def mcp(*allowed: str, label: str = "docs", **keys: Any) -> JSON:
    """A tool of the operator's table that needs no approval."""
    named = {"type": "mcp", "server_label": label, "server_url": f"https://tools.antiphon.invalid/{label}"}
    return {**named, "allowed_tools": [*allowed], "require_approval": "never", **keys}


def kinds_of(response: Mapping[str, Any]) -> list[str]:
    """The types of the items, without reasoning, which not every model shows."""
    return [item["type"] for item in response["output"] if item["type"] != "reasoning"]


def table(server: ToolServer) -> Mapping[str, Any]:
    """The tool servers of the channel table: one that asks for nothing, one that always asks,
    one that no other test lists, one that is gone."""
    rows = [
        {"label": "docs", "url": server.url, "require_approval": "never"},
        {"label": "careful", "url": server.url},
        {"label": "unlisted", "url": f"{server.url}?unlisted", "require_approval": "never"},
        {"label": "gone", "url": "http://127.0.0.1:1/mcp", "require_approval": "never"},
    ]
    hosted = {"web_search": {"server": "docs", "tool": "search"}, "file_search": {"server": "docs", "tool": "search"}}
    return {"tools": {"servers": rows, "hosted": hosted}, "models": {"*": {"price": PRICE}}}


@pytest.fixture(scope="session")
def tool_server() -> Iterator[ToolServer]:
    with ToolServer() as server:
        yield server


@pytest.fixture(scope="session")
def tool_transport(request: pytest.FixtureRequest) -> str:
    """The transport of streams: the pump, unless a test names another."""
    return str(getattr(request, "param", TRANSPORTS[0]))


@pytest.fixture(scope="session")
def _tool_cases(
    tmp_path_factory: pytest.TempPathFactory, tool_server: ToolServer, tool_transport: str
) -> Iterator[dict[str, ToolCase]]:
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(ScriptedUpstream(dialect=STRICT)) for name in FORMAT_SETUPS}
        native = stack.enter_context(ScriptedUpstream(dialect=STRICT))
        channels = [row for name in upstreams for row in rows_of(name, upstreams)[:2]]
        before = {name: f"{name}-native" for name in upstreams}
        others = [
            row_of(name, upstreams[name], name=f"before-{before[name]}", models=[before[name]], priority=10)
            for name in upstreams
        ]
        others.append(
            native.channel(
                "native", models=[*before.values(), "native"], mcp="native", encrypted_reasoning=True, family="native"
            )
        )
        directory = tmp_path_factory.mktemp("tools")
        gateway = stack.enter_context(
            Gateway(directory, [*channels, *others], table(tool_server), mover=tool_transport, worker_processes=1)
        )
        gateway.token = gateway.new_token("with-tools", "--tools", "*")
        stranger = gateway.new_token("stranger", "--tools", "*")
        yield {
            name: ToolCase(
                gateway,
                upstreams[name],
                upstreams[channels[2 * place + 1]["name"].partition("-")[0]],
                native,
                tool_server,
                name,
                stranger,
                FORMAT_SETUPS[name].dialect,
            )
            for place, name in enumerate(FORMAT_SETUPS)
        }


@pytest.fixture(params=FORMAT_SETUPS)
def tool_case(request: pytest.FixtureRequest, _tool_cases: dict[str, ToolCase]) -> Iterator[ToolCase]:
    """Each format in turn."""
    for case in _tool_cases.values():
        case.upstream.reset()
        case.upstream.always(*case.dialect)
    yield _tool_cases[request.param]
    for case in _tool_cases.values():
        case.upstream.reset()


@pytest.fixture
def bridged_tool_case(_tool_cases: dict[str, ToolCase]) -> Iterator[ToolCase]:
    """One whose format is not the client's own."""
    case = _tool_cases["chat"]
    case.upstream.reset()
    yield case
    case.upstream.reset()
