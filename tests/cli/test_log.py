"""antiphon log, beside a gateway that answers."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest

from tests.conftest import MakeGateway
from tests.gateway import COMMAND, Gateway
from tests.upstream import ScriptedUpstream

PATIENCE = 60.0


@pytest.fixture
def running(gateway: MakeGateway, upstream: ScriptedUpstream, database_url: str) -> Gateway:
    table = {"models": {"m": {"price": {"input": 2, "output": 10}}}}
    return gateway([upstream.channel(models=["m", "unpriced"])], table, database_url=database_url)


def _ask(gateway: Gateway, **keys: Any) -> str:
    token = keys.pop("token", None)
    return str(gateway.post("/responses", {"model": "m", "input": "a secret", **keys}, token=token).json()["id"])


def test_the_newest_requests_are_lines_and_filters_choose_among_them(
    running: Gateway, upstream: ScriptedUpstream
) -> None:
    bob = running.new_token("bob-mac", "--owner", "bob")
    ours, his = _ask(running), _ask(running, token=bob)
    lines = running.command("log").splitlines()
    assert [ours in lines[0], his in lines[1], len(lines)] == [True, True, 2]
    assert "completed" in lines[0]
    assert "secret" not in "".join(lines)
    assert "tests" in lines[0]
    for filters in (["--token", "bob-mac"], ["--owner", "bob"], ["-n", "1"]):
        (found,) = map(orjson.loads, running.command("log", "--json", *filters).splitlines())
        assert (found["id"], found["owner"], found["model"], found["status"]) == (his, "bob", "m", "completed")
        assert found["output_tokens"] > 0
    for filters in (["--model", "other"], ["--status", "failed"], ["--owner", "bo"], ["-n", "0"]):
        assert running.command("log", *filters) == ""
    running.command("log", "--status", "strange", exit_code=2)
    running.command("log", "--owner", "", exit_code=2)


def test_a_line_has_the_cost_where_it_is_known(running: Gateway) -> None:
    _ask(running)
    _ask(running, model="unpriced")
    (priced, unpriced) = map(orjson.loads, running.command("log", "--json").splitlines())
    assert priced["cost_micros"] == 2 * priced["input_tokens"] + 10 * priced["output_tokens"]
    assert unpriced["cost_micros"] is None
    first, second = running.command("log").splitlines()
    assert "cost 0." in first
    assert "cost" not in second


def test_following_shows_each_request_once_when_it_ends(running: Gateway, upstream: ScriptedUpstream) -> None:
    first = _ask(running)
    with _followed(running, "-n", "1", "--json") as lines:
        assert next(lines)["id"] == first
        second = _ask(running)
        assert next(lines)["id"] == second
        streamed = running.post("/responses", {"model": "m", "input": "hello", "stream": True})
        assert streamed.status_code == 200
        third = next(lines)
        assert (third["status"], third["id"] in streamed.text) == ("completed", True)


def test_following_keeps_to_the_filters(running: Gateway, upstream: ScriptedUpstream) -> None:
    bob = running.new_token("bob-mac", "--owner", "bob")
    first = _ask(running, token=bob)
    with _followed(running, "--owner", "bob", "--json") as lines:
        assert next(lines)["id"] == first
        _ask(running)
        his = _ask(running, token=bob)
        assert next(lines)["id"] == his


@contextmanager
def _followed(gateway: Gateway, *options: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The lines of `antiphon log -f`, which ends without an error when it is interrupted."""
    process = subprocess.Popen(
        [*COMMAND, "log", "-f", *options],
        cwd=gateway.directory,
        env=gateway.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # A line that never comes must not hold the tests.
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        yield map(orjson.loads, process.stdout)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, b"")
    finally:
        timer.cancel()
        process.kill()
        process.wait()
