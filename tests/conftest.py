"""Fixtures for tests that need real things: upstreams with a script, and the gateway as it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.databases import mariadb, module_database_url, shared_database_url
from tests.gateway import Gateway
from tests.server_tests import starts_a_server
from tests.upstream import ScriptedUpstream
from tests.upstream_formats import _format_cases, bridge, format_case, format_cases, model, served

__all__ = [
    "_format_cases",
    "bridge",
    "format_case",
    "format_cases",
    "mariadb",
    "model",
    "module_database_url",
    "served",
    "shared_database_url",
]

MakeUpstream = Callable[..., ScriptedUpstream]
MakeGateway = Callable[..., Gateway]


# Before pytest selects by markers.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that start the gateway, its command or a server of another kind."""
    for item in items:
        if isinstance(item, pytest.Function) and starts_a_server(item):
            item.add_marker("server")


@pytest.fixture
def make_upstream() -> Iterator[MakeUpstream]:
    """Upstreams, as many as a test needs; keywords as ScriptedUpstream takes them."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(ScriptedUpstream(**options))


@pytest.fixture
def upstream(make_upstream: MakeUpstream) -> ScriptedUpstream:
    """One upstream that serves any model and takes any key."""
    return make_upstream()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[MakeGateway]:
    """Starts gateways: `gateway([upstream.channel()], workers=2)`. They end with the test."""
    with ExitStack() as stack:
        started = 0

        def start(
            channels: Sequence[Mapping[str, Any]], table: Mapping[str, Any] | None = None, **settings: Any
        ) -> Gateway:
            nonlocal started
            started += 1
            directory = tmp_path / f"gateway-{started}"
            directory.mkdir()
            return stack.enter_context(Gateway(directory, channels, table, **settings))

        yield start


@pytest.fixture(scope="session")
def _session_upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="session")
def _session_gateway(
    tmp_path_factory: pytest.TempPathFactory, _session_upstream: ScriptedUpstream
) -> Iterator[Gateway]:
    channels = [_session_upstream.channel()]
    with Gateway(tmp_path_factory.mktemp("gateway"), channels) as gateway:
        yield gateway


@pytest.fixture
def standing(
    _session_gateway: Gateway, _session_upstream: ScriptedUpstream
) -> Iterator[tuple[Gateway, ScriptedUpstream]]:
    """A gateway and its exact upstream (model `m`), shared by all tests of a run that change nothing in it."""
    _session_upstream.reset()
    yield _session_gateway, _session_upstream
    _session_upstream.reset()
