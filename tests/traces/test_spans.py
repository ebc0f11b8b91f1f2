"""Spans as a collector gets them, and the `traceparent` that upstreams and tool servers get."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.gateway import open_spans
from app.metrics.spans import Spans
from app.settings import read_settings
from app.trace_context import passed_on
from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.relay.tools.conftest import ASK, ASK_BOTH, mcp
from tests.response_contract import check_stream
from tests.tool_servers import ToolServer
from tests.traces.collector import EXPORTER, Collector, Span
from tests.upstream import ScriptedUpstream, mute, refusal
from tests.websocket_client import Socket

SERVER, CLIENT = 2, 3
WORDS = "marmalade-sandwich"


@dataclass(frozen=True, slots=True)
class Traced:
    gateway: Gateway
    collector: Collector
    upstream: ScriptedUpstream
    tools: ToolServer

    def spans(self, trace: str, count: int) -> list[Span]:
        """The spans of the trace, once there are so many."""
        return eventually(
            lambda: found if len(found := self.collector.spans(trace)) >= count else None, f"{count} spans"
        )

    def attempts(self, spans: list[Span]) -> list[Span]:
        return [span for span in spans if "server.address" in span.attributes]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    # The SDK's own thread sends what it has this often.
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        collector = stack.enter_context(Collector())
        upstream = stack.enter_context(ScriptedUpstream())
        tools = stack.enter_context(ToolServer())
        rows = [
            upstream.channel("single", models={"single": "inner-single"}),
            upstream.channel("first", models=["pair"], priority=10, cooldown={"after": 1000}),
            upstream.channel("second", models=["pair"]),
            upstream.channel("passed", models=["passed"], chat=True),
        ]
        table = {"tools": {"servers": [{"label": "docs", "url": tools.url, "require_approval": "never"}]}}
        directory = tmp_path_factory.mktemp("traced")
        options = {"traces": collector.url, "worker_processes": 1, "metrics": "on"}
        with Gateway(directory, rows, table, **options) as gateway:
            gateway.token = gateway.new_token("traced", "--tools", "*")
            yield Traced(gateway, collector, upstream, tools)


@pytest.fixture(autouse=True)
def _reset(traced: Traced) -> None:
    traced.upstream.reset()


@pytest.fixture
def parent() -> str:
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def ids(parent: str) -> tuple[str, str]:
    """Its trace and span."""
    _, trace, span, _ = parent.split("-")
    return trace, span


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("stored", [False, True])
def test_a_response_and_its_attempt_are_spans_of_the_clients_trace(
    traced: Traced, parent: str, streamed: bool, stored: bool
) -> None:
    trace, caller = ids(parent)
    headers = {"traceparent": parent, "tracestate": "vendor=1"}
    body = {"model": "single", "input": WORDS, "store": stored}
    if streamed:
        answer = check_stream(traced.gateway.stream(body, headers=headers).content)[-1]["response"]
    else:
        answer = traced.gateway.post("/responses", body, headers=headers).json()
    response, attempt = traced.spans(trace, 2)
    assert (response.name, response.kind, response.parent) == ("chat single", SERVER, caller)
    assert (attempt.name, attempt.kind, attempt.parent) == ("chat inner-single", CLIENT, response.id)
    assert not response.failed
    assert response.began <= attempt.began <= attempt.ended
    assert response.attributes["gen_ai.operation.name"] == "chat"
    assert response.attributes["gen_ai.request.model"] == "single"
    assert response.attributes["gen_ai.response.id"] == answer["id"]
    assert response.attributes["gen_ai.usage.input_tokens"] == answer["usage"]["input_tokens"]
    assert response.attributes["gen_ai.usage.output_tokens"] == answer["usage"]["output_tokens"]
    assert attempt.attributes["gen_ai.request.model"] == "inner-single"
    assert attempt.attributes["server.address"] == "127.0.0.1"
    sent = traced.upstream.requests[-1].headers
    assert sent["traceparent"] == f"00-{trace}-{attempt.id}-01"
    assert sent["tracestate"] == "vendor=1"
    assert WORDS.encode() not in traced.collector.raw
    assert traced.gateway.token.encode() not in traced.collector.raw


@pytest.mark.parametrize("streamed", [False, True])
def test_each_attempt_of_a_failover_is_a_span(traced: Traced, parent: str, streamed: bool) -> None:
    traced.upstream.enqueue(refusal(500, WORDS))
    body = {"model": "pair", "input": "hello"}
    headers = {"traceparent": parent}
    ask = traced.gateway.stream if streamed else lambda body, **keys: traced.gateway.post("/responses", body, **keys)
    answer = ask(body, headers=headers)
    assert answer.status_code == 200
    assert answer.content
    spans = traced.spans(ids(parent)[0], 3)
    first, second = traced.attempts(spans)
    assert (first.attributes["antiphon.channel"], second.attributes["antiphon.channel"]) == ("first", "second")
    assert (first.failed, second.failed) == (True, False)
    assert first.attributes["error.type"] == "upstream_error"
    sent = [request.headers["traceparent"].split("-")[2] for request in traced.upstream.requests]
    assert sent == [first.id, second.id]
    assert WORDS.encode() not in traced.collector.raw


def test_a_failed_response_is_a_failed_span(traced: Traced, parent: str) -> None:
    traced.upstream.enqueue(refusal(400, "no such thing"))
    body = {"model": "single", "input": "hello"}
    assert traced.gateway.post("/responses", body, headers={"traceparent": parent}).status_code == 400
    response = traced.spans(ids(parent)[0], 2)[0]
    assert response.failed
    assert response.attributes["error.type"]


def test_a_call_of_a_tool_is_a_span_and_its_server_knows_the_trace(traced: Traced, parent: str) -> None:
    trace, _ = ids(parent)
    body = {"model": "single", "input": ASK, "tools": [mcp("echo")]}
    answer = traced.gateway.post("/responses", body, headers={"traceparent": parent})
    assert answer.status_code == 200, answer.text
    (call,) = [item for item in answer.json()["output"] if item["type"] == "mcp_call"]
    spans = traced.spans(trace, 4)
    (tool,) = [span for span in spans if span.name == "execute_tool echo"]
    assert tool.parent == spans[0].id
    assert tool.attributes["gen_ai.tool.call.id"] == call["id"]
    assert tool.attributes["antiphon.tool_server"] == "docs"
    assert len(traced.attempts(spans)) == 2
    sent = [seen.headers["traceparent"] for seen in traced.tools.requests if seen.rpc == "tools/call"]
    assert sent[-1] == f"00-{trace}-{tool.id}-01"


def test_calls_of_one_round_have_spans_of_their_own(traced: Traced, parent: str) -> None:
    trace, _ = ids(parent)
    body = {"model": "single", "input": ASK_BOTH, "tools": [mcp("echo")]}
    answer = traced.gateway.post("/responses", body, headers={"traceparent": parent})
    assert answer.status_code == 200, answer.text
    spans = traced.spans(trace, 5)
    tools = {span.id for span in spans if span.name == "execute_tool echo"}
    sent = [seen.headers["traceparent"] for seen in traced.tools.requests if seen.rpc == "tools/call"]
    assert len(tools) == 2
    assert {header.split("-")[2] for header in sent if trace in header} == tools


def test_a_relayed_chat_request_is_a_span(traced: Traced, parent: str) -> None:
    body = {"model": "passed", "messages": [{"role": "user", "content": "hello"}]}
    assert traced.gateway.post("/chat/completions", body, headers={"traceparent": parent}).status_code == 200
    response, attempt = traced.spans(ids(parent)[0], 2)
    assert attempt.parent == response.id


def test_each_turn_of_a_websocket_is_a_span_of_the_handshakes_trace(traced: Traced, parent: str) -> None:
    trace, caller = ids(parent)
    with Socket(traced.gateway, headers={"traceparent": parent}) as socket:
        socket.answer(model="single")
        socket.answer(model="single")
    spans = traced.spans(trace, 4)
    turns = [span for span in spans if span.parent == caller]
    assert len({span.id for span in turns}) == 2
    assert {span.parent for span in traced.attempts(spans)} == {span.id for span in turns}


def test_a_request_without_a_trace_begins_one(traced: Traced) -> None:
    assert traced.gateway.post("/responses", {"model": "single", "input": "hello"}).status_code == 200
    _, trace, span, flags = traced.upstream.requests[-1].headers["traceparent"].split("-")
    response, attempt = traced.spans(trace, 2)
    assert (response.parent, attempt.id, flags) == ("", span, "01")


def test_a_background_response_continues_the_clients_trace(traced: Traced, parent: str) -> None:
    trace, caller = ids(parent)
    headers = {"traceparent": parent, "tracestate": "vendor=1"}
    body = {"model": "single", "input": "hello", "background": True}
    assert traced.gateway.post("/responses", body, headers=headers).status_code == 200
    sent = traced.upstream.wait_for_request().headers
    response, attempt = traced.spans(trace, 2)
    assert (response.parent, attempt.parent) == (caller, response.id)
    assert (sent["traceparent"], sent["tracestate"]) == (f"00-{trace}-{attempt.id}-01", "vendor=1")


def test_a_background_response_without_a_trace_begins_one(traced: Traced) -> None:
    body = {"model": "single", "input": "hello", "background": True}
    assert traced.gateway.post("/responses", body).status_code == 200
    _, trace, span, _ = traced.upstream.wait_for_request().headers["traceparent"].split("-")
    response, attempt = traced.spans(trace, 2)
    assert (response.parent, attempt.id) == ("", span)


def test_a_trace_that_is_not_sampled_is_passed_on_unchanged(traced: Traced, parent: str) -> None:
    unsampled = f"{parent[:-2]}00"
    body = {"model": "single", "input": "hello"}
    assert traced.gateway.post("/responses", body, headers={"traceparent": unsampled}).status_code == 200
    assert traced.upstream.requests[-1].headers["traceparent"] == unsampled


@pytest.mark.parametrize(
    ("sampler", "argument", "client", "sampled"),
    [
        (None, None, None, True),
        (None, None, "00", False),
        ("always_off", None, "01", False),
        ("always_on", None, "00", True),
        ("parentbased_traceidratio", "0", None, False),
        ("parentbased_traceidratio", "0", "01", True),
        ("traceidratio", "0", "01", False),
    ],
)
def test_the_variables_of_the_sdk_say_which_traces_are_sampled(
    monkeypatch: pytest.MonkeyPatch, sampler: str | None, argument: str | None, client: str | None, sampled: bool
) -> None:
    for name, value in (("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", argument)):
        if value is not None:
            monkeypatch.setenv(name, value)
    header = None if client is None else f"00-{'a' * 32}-{'b' * 16}-{client}"
    trace = Spans("http://127.0.0.1:4318/v1/traces").read_trace(header, None)
    assert trace.is_sampled == bool(trace.span) == sampled
    sent = passed_on(dict(trace.headers())["traceparent"], None)
    assert sent is not None
    assert sent.is_sampled == sampled
    if header is not None:
        assert sent.trace == "a" * 32
        assert (sent.parent == "b" * 16) == (not sampled)


def test_only_a_gateway_with_a_collector_imports_the_exporter(traced: Traced) -> None:
    assert all(EXPORTER in Path(f"/proc/{pid}/maps").read_text() for pid in traced.gateway.workers)


@pytest.mark.parametrize("value", ["localhost:4318", "ftp://collector", "http://user:sesame@:4318/"])
def test_an_invalid_collector_is_refused_without_its_password(tmp_path: Path, value: str) -> None:
    done = Gateway(tmp_path, [{"name": "demo", "format": "demo", "models": ["demo"]}], traces=value).attempt("serve")
    assert done.returncode == 78, done.stderr
    assert "ANTIPHON_TRACES is not the URL of a collector" in done.stderr
    assert "sesame" not in done.stderr


def test_a_collector_that_does_not_answer_holds_up_no_answer_and_no_stop(tmp_path: Path) -> None:
    with (
        mute() as url,
        ScriptedUpstream() as upstream,
        Gateway(tmp_path, [upstream.channel("c", models=["m"])], traces=url) as gateway,
    ):
        assert gateway.post("/responses", {"model": "m", "input": "hello"}).status_code == 200
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log


def test_a_collector_without_the_package_is_an_error_that_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "app.metrics.spans", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    settings = read_settings({"ANTIPHON_SECRET_KEY": "k" * 32, "ANTIPHON_TRACES": "http://127.0.0.1:4318"}, tmp_path)
    assert settings.traces == "http://127.0.0.1:4318/v1/traces"
    with pytest.raises(ConfigurationError) as caught:
        open_spans(settings)
    assert "[otel]" in str(caught.value.fix)
