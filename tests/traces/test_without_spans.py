"""A gateway without a collector: it passes a client's trace on, and the exporter of OpenTelemetry is not imported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.gateway import Gateway
from tests.relay.tools.conftest import ASK, mcp
from tests.tool_servers import ToolServer
from tests.traces.collector import EXPORTER
from tests.upstream import ScriptedUpstream
from tests.websocket_client import Socket

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


@dataclass(frozen=True, slots=True)
class Untraced:
    gateway: Gateway
    upstream: ScriptedUpstream
    tools: ToolServer


@pytest.fixture(scope="module")
def untraced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Untraced]:
    with ScriptedUpstream() as upstream, ToolServer() as tools:
        servers = [{"label": "docs", "url": tools.url, "require_approval": "never"}]
        table = {"tools": {"servers": servers}}
        with Gateway(tmp_path_factory.mktemp("untraced"), [upstream.channel("c", models=["m"])], table) as gateway:
            gateway.token = gateway.new_token("untraced", "--tools", "*")
            yield Untraced(gateway, upstream, tools)


@pytest.fixture(autouse=True)
def _reset(untraced: Untraced) -> None:
    untraced.upstream.reset()


@pytest.mark.parametrize("stream", [False, True])
def test_a_trace_is_passed_on_unchanged(untraced: Untraced, stream: bool) -> None:
    headers = {"traceparent": PARENT, "tracestate": "vendor=1,other=2"}
    body = {"model": "m", "input": "hello", "stream": stream}
    assert untraced.gateway.post("/responses", body, headers=headers).status_code == 200
    sent = untraced.upstream.requests[-1].headers
    assert (sent["traceparent"], sent["tracestate"]) == (PARENT, "vendor=1,other=2")


def test_a_background_response_passes_on_the_trace_of_its_request(untraced: Untraced) -> None:
    body = {"model": "m", "input": "hello", "background": True}
    with untraced.gateway.worker():
        for headers in ({"traceparent": PARENT, "tracestate": "vendor=1"}, {}):
            untraced.upstream.reset()
            assert untraced.gateway.post("/responses", body, headers=headers).status_code == 200
            sent = untraced.upstream.wait_for_request().headers
            assert {name: sent[name] for name in ("traceparent", "tracestate") if name in sent} == headers


def test_the_trace_of_one_request_is_not_that_of_the_next(untraced: Untraced) -> None:
    body = {"model": "m", "input": "hello"}
    for headers in ({"traceparent": PARENT}, {}, {"traceparent": "00-0-0-00"}):
        assert untraced.gateway.post("/responses", body, headers=headers).status_code == 200
    traces = [request.headers.get("traceparent") for request in untraced.upstream.requests]
    assert traces == [PARENT, None, None]


def test_a_websocket_passes_on_the_trace_of_its_handshake(untraced: Untraced) -> None:
    with Socket(untraced.gateway, headers={"traceparent": PARENT}) as socket:
        socket.answer()
    assert untraced.upstream.requests[-1].headers["traceparent"] == PARENT


def test_a_tool_server_of_the_operator_gets_the_trace(untraced: Untraced) -> None:
    body = {"model": "m", "input": ASK, "tools": [mcp("echo")]}
    answer = untraced.gateway.post("/responses", body, headers={"traceparent": PARENT})
    assert answer.status_code == 200, answer.text
    calls = [seen for seen in untraced.tools.requests if seen.rpc == "tools/call"]
    assert [seen.headers["traceparent"] for seen in calls] == [PARENT]


def test_the_exporter_of_opentelemetry_is_not_imported(untraced: Untraced) -> None:
    assert untraced.gateway.post("/responses", {"model": "m", "input": "hello"}).status_code == 200
    for pid in (untraced.gateway.pid, *untraced.gateway.workers):
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert EXPORTER not in maps
