"""The marker `server` follows what a test starts, also through fixtures, helpers, methods and modules."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests import databases, queues
from tests import gateway as gateway_module
from tests.deploy.conftest import Service
from tests.gateway import Gateway, portions
from tests.ports import closed_port
from tests.server_tests import reaches_subprocess
from tests.sse_reader import follow
from tests.upstream import ScriptedUpstream


def _through_a_function() -> Any:
    return [_in_a_lambda() for _ in range(2)]


def _in_a_lambda() -> Any:
    return (lambda: Gateway)()


def _through_a_module() -> Any:
    return gateway_module.Gateway


def _name(function: object) -> str:
    """The same in every process of a test run, as an address is not."""
    return getattr(function, "__name__", type(function).__name__)


@pytest.mark.parametrize(
    "function",
    [
        Gateway,
        Service,
        databases.running_server,
        queues.running_redis,
        _through_a_function,
        _through_a_module,
        partial(_in_a_lambda),
    ],
    ids=_name,
)
def test_code_that_starts_a_process_is_found(function: Callable[..., Any]) -> None:
    assert reaches_subprocess(function)


def _with_an_upstream() -> Any:
    with ScriptedUpstream() as upstream:
        return upstream


@pytest.mark.parametrize("function", [_with_an_upstream, portions, follow, closed_port], ids=_name)
def test_code_that_starts_none_is_not(function: Callable[..., Any]) -> None:
    assert not reaches_subprocess(function)


def test_a_test_of_the_gateway_has_the_marker(gateway: object, request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("server")


def test_a_test_of_a_scripted_upstream_has_none(upstream: ScriptedUpstream, request: pytest.FixtureRequest) -> None:
    assert not request.node.get_closest_marker("server")


@pytest.mark.parametrize("database", ["sqlite", "mariadb"])
def test_a_test_that_is_run_on_a_server_has_the_marker(database: str, request: pytest.FixtureRequest) -> None:
    assert bool(request.node.get_closest_marker("server")) is (database == "mariadb")
