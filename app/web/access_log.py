"""The request log: one line when a request has ended. It tells who asked, what became of it, how long it took and what
it used; never what was said, and no key.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

from app.contract.records import Attempt, Draft, Outcome, Token
from app.log import Line, requests
from app.relay.request_context import Entry

_MAX_PATH = 200


@dataclass(frozen=True, slots=True)
class Visit:
    """A request as the border saw it."""

    request_id: str
    began: float
    method: str
    path: str
    status: int
    token: Token | None = None
    error: str | None = None
    """Code of the refusal."""


def write(visit: Visit, entry: Entry) -> None:
    if requests.isEnabledFor(logging.INFO):
        requests.info(Line(partial(_facts, visit, monotonic(), entry.draft, entry.outcome)))


def _facts(visit: Visit, ended: float, draft: Draft | None, outcome: Outcome | None) -> Iterator[tuple[str, Any]]:
    yield from _of_visit(visit, ended)
    error = visit.error
    if draft is not None and outcome is not None:
        yield from _of_response(draft, outcome)
        error = (outcome.error or {}).get("code") or error
    yield "error", error


def _of_visit(visit: Visit, ended: float) -> Iterator[tuple[str, Any]]:
    yield "request_id", visit.request_id
    yield "method", visit.method
    yield "path", visit.path[:_MAX_PATH]
    yield "status", visit.status
    yield "ms", round((ended - visit.began) * 1000)
    if visit.token is not None:
        yield "token", visit.token.name
        yield "owner", visit.token.owner


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
    yield "attempts", len(outcome.attempts)
    yield "failures", ",".join(map(_failure, filter(_failed, outcome.attempts))) or None
    yield "client_gone", True if outcome.status == "cancelled" else None


def _failed(attempt: Attempt) -> bool:
    return attempt.error is not None or (attempt.status or 200) != 200


def _failure(attempt: Attempt) -> str:
    return f"{attempt.channel}:{attempt.error or attempt.status}"
