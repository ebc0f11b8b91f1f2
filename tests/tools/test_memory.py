"""The SDK of tool servers takes half a second to import and 55 MiB: only gateways whose table names a server have it,
and they import it before they fork, so that all their processes share it.
"""

from __future__ import annotations

from pathlib import Path

from tests.conftest import MakeGateway, MakeToolServer
from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.tools.conftest import PATIENCE

#: A library that the SDK loads, and nothing else of the gateway.
LIBRARY = "_pydantic_core"


def processes_with_sdk(gateway: Gateway) -> list[bool]:
    """Of the master, its worker, and its worker for background responses."""
    eventually(lambda: gateway.workers and gateway.background_workers, "both workers", within=PATIENCE)
    pids = [gateway.pid, *gateway.workers, *gateway.background_workers]
    return [LIBRARY in Path(f"/proc/{pid}/maps").read_text() for pid in pids]


def test_a_gateway_without_tool_servers_does_not_import_the_sdk(gateway: MakeGateway) -> None:
    started = gateway([{"name": "demo", "format": "demo", "models": ["demo"]}], worker_processes=1)
    answer = started.post("/responses", {"model": "demo", "input": "hi"})
    assert answer.status_code == 200
    assert processes_with_sdk(started) == [False, False, False]


def test_the_processes_of_a_gateway_with_a_tool_server_share_the_sdk(
    gateway: MakeGateway, make_tool_server: MakeToolServer
) -> None:
    tools = {"servers": [{"label": "docs", "url": make_tool_server().url}]}
    channels = [{"name": "demo", "format": "demo", "models": ["demo"]}]
    started = gateway(channels, {"tools": tools}, worker_processes=1)
    assert processes_with_sdk(started) == [True, True, True]


def test_the_sdk_is_imported_when_a_reload_brings_the_first_tool_server(
    gateway: MakeGateway, make_tool_server: MakeToolServer
) -> None:
    channels = [{"name": "demo", "format": "demo", "models": ["demo"]}]
    started = gateway(channels, worker_processes=1)
    assert processes_with_sdk(started) == [False, False, False]
    started.write_channels(channels, {"tools": {"servers": [{"label": "docs", "url": make_tool_server().url}]}})
    eventually(lambda: processes_with_sdk(started)[0], "the master's import of the SDK", within=PATIENCE)
