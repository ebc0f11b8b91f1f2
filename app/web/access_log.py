"""The request log: one line when a request has ended, with its token, outcome, duration and usage. It contains neither
content nor keys.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

from app.contract.money import MICRO
from app.contract.records import Attempt, Draft, Outcome, Token
from app.log import LogLine, request_log
from app.relay.request_context import ResponseFacts

_MAX_PATH = 200


@dataclass(frozen=True, slots=True)
class AccessRecord:
    """The facts of a request that the edge knows."""

    request_id: str
    started_at: float
    method: str
    path: str
    status: int
    token: Token | None = None
    error: str | None = None
    """Code of the refusal."""


def log_access(record: AccessRecord, facts: ResponseFacts) -> None:
    if request_log.isEnabledFor(logging.INFO):
        request_log.info(LogLine(partial(_facts, record, monotonic(), facts.draft, facts.outcome)))


def _facts(
    record: AccessRecord, ended_at: float, draft: Draft | None, outcome: Outcome | None
) -> Iterator[tuple[str, Any]]:
    yield from _of_request(record, ended_at)
    error = record.error
    if draft is not None and outcome is not None:
        yield from _of_response(draft, outcome)
        error = (outcome.error or {}).get("code") or error
    yield "error", error


def _of_request(record: AccessRecord, ended_at: float) -> Iterator[tuple[str, Any]]:
    yield "request_id", record.request_id
    yield "method", record.method
    yield "path", record.path[:_MAX_PATH]
    yield "status", record.status
    yield "ms", round((ended_at - record.started_at) * 1000)
    if record.token is not None:
        yield "token", record.token.name
        yield "owner", record.token.owner


def _of_response(draft: Draft, outcome: Outcome) -> Iterator[tuple[str, Any]]:
    yield "response", draft.id
    yield "model", draft.model
    yield "channel", outcome.channel
    yield "outcome", outcome.status
    yield "stream", draft.streamed
    yield "first_byte_ms", outcome.first_byte_ms
    if usage := outcome.usage:
        yield "input_tokens", usage.input_tokens
        yield "cached_tokens", usage.cached_tokens
        yield "output_tokens", usage.output_tokens
        yield "estimated", usage.estimated or None
        yield "cost", None if usage.cost is None else usage.cost / MICRO
    yield "attempts", len(outcome.attempts)
    yield "failures", ",".join(map(_failure, filter(_failed, outcome.attempts))) or None
    yield "client_gone", True if outcome.status == "cancelled" else None


def _failed(attempt: Attempt) -> bool:
    return attempt.error is not None or (attempt.status or 200) != 200


def _failure(attempt: Attempt) -> str:
    return f"{attempt.channel}:{attempt.error or attempt.status}"
