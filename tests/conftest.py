"""Fixtures that start scripted upstreams and the gateway. The fixtures of a folder are in its own conftest.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests import gateway as gateway_module
from tests.databases import DATABASES, Server, database_url, mariadb, module_database_url, shared_database_url
from tests.gateway import Gateway
from tests.server_tests import starts_a_gateway_on_any_database, starts_a_server
from tests.upstream import ScriptedUpstream
from tests.upstream_formats import _format_cases, bridge, format_case, format_cases, model, served

__all__ = [
    "_format_cases",
    "bridge",
    "database_url",
    "format_case",
    "format_cases",
    "mariadb",
    "model",
    "module_database_url",
    "served",
    "shared_database_url",
]

if TYPE_CHECKING:
    from tests.tool_servers import ToolServer

# Processes that tests start leave their bytecode to those that start later. Otherwise each would compile the package,
# which takes longer than all that most of them do.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell ignores SIGINT in its background jobs. The commands that tests interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test depends on the speed of the machine: neither an example nor its making has a deadline.
settings.register_profile("at any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Continuous integration tries the same examples each time, and everyone else new ones.
settings.register_profile("repeatable", settings.get_profile("at any speed"), derandomize=True)
settings.load_profile("at any speed")

MakeUpstream = Callable[..., ScriptedUpstream]
MakeGateway = Callable[..., Gateway]
MakeToolServer = Callable[..., "ToolServer"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database",
        choices=DATABASES,
        default=DATABASES[0],
        help="the database of gateways whose test does not choose one; with mariadb no other tests run",
    )


# Before pytest selects by markers.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the tests that start the gateway, its command or a server of another kind. With another database than the
    usual one it leaves out the tests on which that makes no difference.
    """
    functions = [item for item in items if isinstance(item, pytest.Function)]
    for item in functions:
        if starts_a_server(item):
            item.add_marker("server")
    if config.getoption("database") != DATABASES[0]:
        chosen = [item for item in functions if starts_a_gateway_on_any_database(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen


@pytest.fixture(scope="session", autouse=True)
def _database_of_gateways(request: pytest.FixtureRequest) -> Iterator[None]:
    """Gives every gateway a database of its own on the server of the session, when that was chosen."""
    with pytest.MonkeyPatch.context() as patch:
        if request.config.getoption("database") == "mariadb":
            server: Server = request.getfixturevalue("mariadb")
            patch.setattr(gateway_module, "new_database", lambda directory: server.new_database())
        yield


@pytest.fixture
def make_upstream() -> Iterator[MakeUpstream]:
    """Starts upstreams, with the keywords of ScriptedUpstream: `make_upstream(models=["m"])`."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(ScriptedUpstream(**options))


@pytest.fixture
def upstream(make_upstream: MakeUpstream) -> ScriptedUpstream:
    """An upstream that serves any model and accepts any key."""
    return make_upstream()


@pytest.fixture
def make_tool_server() -> Iterator[MakeToolServer]:
    """Starts tool servers, with the keywords of ToolServer: `make_tool_server(protocol="legacy")`."""
    # The SDK of these servers takes half a second to import.
    from tests.tool_servers import ToolServer

    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(ToolServer(**options))


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
