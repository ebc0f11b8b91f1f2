"""One gateway with metrics: two workers and one for background responses, two channels of one model, a tool server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from tests import ports
from tests.gateway import Gateway
from tests.metrics.scrapes import listens
from tests.relay.conftest import eventually
from tests.tool_servers import ToolServer
from tests.upstream import ScriptedUpstream


@dataclass(frozen=True, slots=True)
class Measured:
    gateway: Gateway
    address: str
    """Of the listener."""
    first: ScriptedUpstream
    second: ScriptedUpstream
    """Serves the model `pair` when the first has failed."""
    token: str
    """It may read /metrics."""


def free_address() -> str:
    with closing(ports.reserve()) as reserved:
        return f"127.0.0.1:{ports.number(reserved)}"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    reserved = ports.reserve()
    address = f"127.0.0.1:{ports.number(reserved)}"
    with closing(reserved), ScriptedUpstream() as first, ScriptedUpstream() as second, ToolServer() as tools:
        rows = [
            first.channel("single", models=["single", "any-*"]),
            first.channel("first", models=["pair"], priority=10, cooldown={"after": 1000}),
            second.channel("second", models=["pair"]),
            first.channel("down", models=["down"], cooldown={"after": 1, "for": 300}),
            first.channel("passed", models=["passed"], chat=True),
            first.channel("denied", models=["denied"]),
        ]
        table = {
            "tools": {"servers": [{"label": "docs", "url": tools.url, "require_approval": "never"}]},
            "models": {"single": {"price": {"input": 2, "output": 10}}},
        }
        directory = tmp_path_factory.mktemp("measured")
        with Gateway(directory, rows, table, workers=2, worker_processes=1, metrics_bind=address) as gateway:
            gateway.token = gateway.new_token("measured", "--tools", "*")
            eventually(lambda: listens(address), "the listener")
            yield Measured(gateway, address, first, second, gateway.new_token("reader", "--metrics"))


@pytest.fixture(autouse=True)
def _reset(request: pytest.FixtureRequest) -> None:
    if "measured" in request.fixturenames:
        measured: Measured = request.getfixturevalue("measured")
        measured.first.reset()
        measured.second.reset()
