"""The request log: one line a request, with the facts for an operator and no content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.log import LogLine
from tests.conftest import MakeGateway, MakeUpstream
from tests.gateway import Gateway
from tests.relay.conftest import SOME_TEXT, eventually, read_until
from tests.upstream import ScriptedUpstream, rate_limited, stalled

CONTENT, KEY = "canary-said-81f2", "sk-canary-key-77aa"

#: The first words of what a server prints before its log.
BANNER = ["antiphon", "database", "Ctrl-C"]


@pytest.fixture
def failing(make_upstream: MakeUpstream) -> ScriptedUpstream:
    upstream = make_upstream(api_key=KEY)
    upstream.always(rate_limited())
    return upstream


@pytest.fixture
def running(gateway: MakeGateway, failing: ScriptedUpstream, upstream: ScriptedUpstream) -> Iterator[Gateway]:
    channels = [
        failing.channel("first", priority=1, cooldown={"after": 1, "for": "1s"}),
        upstream.channel("second", models=["m", "unpriced"]),
    ]
    running = gateway(channels, {"models": {"m": {"price": {"input": 2, "output": 10}}}}, log="json")
    yield running
    assert CONTENT not in running.log
    assert KEY not in running.log
    assert running.token not in running.log
    running.stop()
    banner = [line for line in running.log.splitlines() if not line.startswith("{")]
    # A last line says how to run commands, where that is not simply `antiphon`.
    assert [Path(line.split()[0]).name for line in banner] in (BANNER, [*BANNER, "antiphon"])


def _lines(running: Gateway) -> list[dict[str, Any]]:
    lines = [orjson.loads(line) for line in running.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["logger"] == "app.requests"]


def _line(running: Gateway) -> dict[str, Any]:
    """The one line there is."""
    (line,) = eventually(lambda: _lines(running), "a line of the request log")
    return line


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_one_line(running: Gateway, stream: bool) -> None:
    answer = running.post("/responses?key=canary", {"model": "m", "input": CONTENT, "stream": stream})
    line = _line(running)
    assert line["request_id"] == answer.headers["X-Request-Id"]
    assert answer.content
    assert (line["method"], line["path"], line["status"], line["level"]) == ("POST", "/v1/responses", 200, "info")
    assert (line["token"], line["owner"], line["model"]) == ("tests", "tests", "m")
    assert (line["channel"], line["outcome"], line["stream"]) == ("second", "completed", stream)
    assert (line["attempts"], line["failures"]) == (2, "first:rate_limit_exceeded")
    assert line["input_tokens"] > 0
    assert line["output_tokens"] > 0
    assert line["cost"] == pytest.approx((2 * line["input_tokens"] + 10 * line["output_tokens"]) / 1e6)
    assert line["ms"] >= 0
    assert line["response"].startswith("resp_")
    assert ("first_byte_ms" in line) == stream
    assert not {"client_gone", "error"} & line.keys()


def test_a_cost_that_is_not_known_is_left_out(running: Gateway) -> None:
    assert running.post("/responses", {"model": "unpriced", "input": CONTENT}).status_code == 200
    assert "cost" not in _line(running)


def test_a_client_that_left_differs_from_a_failure(running: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(stalled(SOME_TEXT))
    with running.dial({"model": "m", "input": CONTENT, "stream": True}) as sock:
        read_until(sock, b"output_text.delta")
    line = _line(running)
    assert (line["outcome"], line["client_gone"], line["channel"]) == ("cancelled", True, "second")


def test_a_failure_has_its_code(running: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(rate_limited())
    assert running.post("/responses", {"model": "m", "input": CONTENT}).status_code == 429
    line = _line(running)
    assert (line["status"], line["outcome"], line["error"]) == (429, "failed", "rate_limit_exceeded")


@pytest.mark.parametrize(
    ("method", "path", "keys", "status", "error"),
    [
        ("POST", "/responses", {"token": "ap_nobody", "json": {}}, 401, "invalid_api_key"),
        ("POST", "/responses", {"json": {"input": CONTENT}}, 400, "missing_required_parameter"),
        ("POST", "/responses", {"json": {"model": CONTENT[:3], "input": CONTENT}}, 400, "model_not_found"),
        ("GET", "/responses/resp_unknown", {}, 404, "invalid_request_error"),
        ("GET", "/nothing\n2026 made up", {}, 404, "unknown_url"),
        ("GET", "/models", {}, 200, None),
    ],
)
def test_a_request_that_reaches_no_channel_is_a_line_too(
    running: Gateway, method: str, path: str, keys: dict[str, Any], status: int, error: str | None
) -> None:
    assert running.request(method, path, **keys).status_code == status
    line = _line(running)
    assert (line["method"], line["path"], line["status"]) == (method, f"/v1{path}", status)
    assert line.get("error") == error
    assert ("token" in line) == (status not in (401,) and error != "unknown_url")


def test_text_is_the_default_and_probes_are_not_worth_a_line(gateway: MakeGateway) -> None:
    running = gateway([{"name": "demo", "format": "demo", "models": ["demo"]}])
    running.post("/responses", {"model": "demo", "input": CONTENT})
    running.wait_for_log("app.requests: request_id=req_")
    (line,) = [line for line in running.log.splitlines() if "app.requests" in line]
    assert " path=/v1/responses status=200 " in line
    assert " token=tests owner=tests " in line
    assert " stream=false " in line
    assert "/readyz" not in running.log


def test_a_log_of_another_shape_is_a_matter_of_configuration(tmp_path: Path) -> None:
    Gateway(tmp_path, [], log="xml").command("tokens", "list", exit_code=78)


@given(st.text())
def test_no_value_can_begin_a_line_or_a_name_of_its_own(value: str) -> None:
    text = str(LogLine({"path": value, "status": 200}.items))
    assert text.endswith(" status=200")
    assert "\n" not in text
    shown = text.removeprefix("path=").removesuffix(" status=200")
    assert (orjson.loads(shown) if shown.startswith('"') else shown) == value
