"""Spans of responses, attempts and tool calls after OpenTelemetry's conventions for GenAI, sent to a collector.

A span is made when what it describes has ended, from the same record that becomes a row. It holds no content.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib.metadata import version
from time import time_ns
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from app import trace_context
from app.contract.records import Attempt, Draft, Outcome, ToolCall
from app.contract.usage import Usage
from app.metrics.measures import Measures
from app.metrics.results import failure_of
from app.metrics.sample import Sampled
from app.trace_context import TraceContext

#: Seconds for one export, with its retries.
_EXPORT = 5.0
#: Seconds for the last export of a process that ends.
_FAREWELL = 3.0

#: The conventions' names of providers, by the end of an upstream's host.
_PROVIDERS = {
    "openai.com": "openai",
    "openai.azure.com": "azure.ai.openai",
    "services.ai.azure.com": "azure.ai.inference",
    "anthropic.com": "anthropic",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "amazonaws.com": "aws.bedrock",
    "mistral.ai": "mistral_ai",
    "groq.com": "groq",
    "deepseek.com": "deepseek",
    "x.ai": "x_ai",
    "perplexity.ai": "perplexity",
    "cohere.com": "cohere",
}

_MILLISECOND = 1_000_000
_SCOPE = InstrumentationScope("antiphon")

Attributes = Mapping[str, str | int | None]


class Spans(Measures):
    """The spans of one process. They wait in a queue of the SDK, whose thread sends them."""

    def __init__(self, collector: str) -> None:
        """`collector`: the URL that takes traces by OTLP over HTTP."""
        self._collector = collector
        self._resource = Resource.create({"service.name": "antiphon", "service.version": version("antiphon")})
        # OTEL_TRACES_SAMPLER and its argument; without them, every trace but those that a client has not sampled.
        self._sampler = TracerProvider(resource=self._resource, shutdown_on_exit=False).sampler
        self._processor: BatchSpanProcessor | None = None

    def read_trace(self, parent: str | None, state: str | None) -> TraceContext:
        """The client's trace or a new one, sampled as the SDK's variables say."""
        return trace_context.traced(parent, state, self._is_sampled)

    def _is_sampled(self, trace: str, client: TraceContext | None) -> bool:
        above = None
        if client is not None:
            above = set_span_in_context(NonRecordingSpan(_context(client, client.parent, is_remote=True)))
        decision = self._sampler.should_sample(above, int(trace, 16), "chat", SpanKind.SERVER).decision
        return decision is Decision.RECORD_AND_SAMPLE

    def start(self, sampled: Sampled) -> None:
        # After the fork: a child has no thread of its parent's.
        self._processor = BatchSpanProcessor(OTLPSpanExporter(self._collector, timeout=_EXPORT))

    def close(self) -> None:
        """Waits a moment for the last export: a collector that does not answer must not keep the process."""
        if self._processor is not None:
            last = threading.Thread(target=self._processor.shutdown, name="last spans", daemon=True)
            last.start()
            last.join(_FAREWELL)

    def response_ended(self, draft: Draft, outcome: Outcome, status: str) -> None:
        trace = trace_context.current()
        if trace is None or not trace.span:
            return
        for attempt in outcome.attempts:
            self._attempt_ended(trace, attempt)
        attributes: Attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": self._provider_of(outcome),
            "gen_ai.request.model": draft.model,
            "gen_ai.response.model": outcome.upstream_model,
            "gen_ai.response.id": draft.id,
            "gen_ai.conversation.id": draft.conversation,
            "antiphon.channel": outcome.channel,
            "antiphon.status": status,
            "error.type": failure_of((outcome.error or {}).get("code")) if status == "failed" else None,
            **_tokens(outcome.usage),
        }
        self._end(trace, trace.span, f"chat {draft.model}", SpanKind.SERVER, attributes, trace.started_at, time_ns())

    def tool_called(self, call: ToolCall) -> None:
        trace = trace_context.current()
        if trace is None or not trace.span or not call.started_at or call.milliseconds is None:
            return
        attributes: Attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": call.tool,
            "gen_ai.tool.call.id": call.item_id,
            "antiphon.tool_server": call.server,
            "error.type": call.error,
        }
        began = call.started_at * _MILLISECOND
        ended = began + call.milliseconds * _MILLISECOND
        name = f"execute_tool {call.tool}"
        self._end(trace, trace.span_of(call.item_id), name, SpanKind.CLIENT, attributes, began, ended)

    def _attempt_ended(self, trace: TraceContext, attempt: Attempt) -> None:
        span = attempt.span
        if span is None:
            return
        attributes: Attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": _provider(span.host),
            "gen_ai.request.model": span.model,
            "server.address": span.host or None,
            "server.port": span.port,
            "antiphon.channel": attempt.channel,
            "error.type": None if attempt.error is None else failure_of(attempt.error),
            **_tokens(attempt.usage),
        }
        ended = span.started_at + attempt.milliseconds * _MILLISECOND
        self._end(trace, span.id, f"chat {span.model}", SpanKind.CLIENT, attributes, span.started_at, ended)

    def _provider_of(self, outcome: Outcome) -> str | None:
        """That of the upstream which has answered."""
        spans = [attempt.span for attempt in outcome.attempts if attempt.channel == outcome.channel]
        return _provider(spans[-1].host) if spans and spans[-1] is not None else None

    def _end(
        self, trace: TraceContext, span: str, name: str, kind: SpanKind, attributes: Attributes, began: int, ended: int
    ) -> None:
        parent = trace.parent if span == trace.span else trace.span
        failed = attributes.get("error.type") is not None
        if self._processor is not None:
            self._processor.on_end(
                ReadableSpan(
                    name,
                    context=_context(trace, span, is_remote=False),
                    parent=_context(trace, parent, is_remote=span == trace.span) if parent else None,
                    resource=self._resource,
                    attributes={key: value for key, value in attributes.items() if value is not None},
                    kind=kind,
                    status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
                    start_time=began,
                    end_time=ended,
                    instrumentation_scope=_SCOPE,
                )
            )


def _context(trace: TraceContext, span: str, **remote: Any) -> SpanContext:
    return SpanContext(int(trace.trace, 16), int(span, 16), trace_flags=TraceFlags(int(trace.flags, 16)), **remote)


def _provider(host: str) -> str | None:
    labels = host.split(".")
    ends = (".".join(labels[start:]) for start in range(len(labels)))
    return next((_PROVIDERS[end] for end in ends if end in _PROVIDERS), None)


def _tokens(usage: Usage | None) -> Attributes:
    if usage is None:
        return {}
    return {"gen_ai.usage.input_tokens": usage.input_tokens, "gen_ai.usage.output_tokens": usage.output_tokens}
