"""Errors of the Messages API. In a stream, the error's type takes the place of the HTTP status."""

from __future__ import annotations

import re
from collections.abc import Mapping

from app.errors import UpstreamBroken, UpstreamError
from app.formats import _error_body, _openai
from app.formats._failures import error_in_answer, http_error

#: An exhausted balance comes as `invalid_request_error`.
_SPENT = re.compile(r"credit balance is too low|(?:usage|spend\w*) limits?\b", re.IGNORECASE)


def decode_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """The failure for an HTTP status."""
    if status in (400, 403) and _SPENT.search(words := _error_body.read(body).words):
        return _openai.limited("insufficient_quota", words, None, exhausted=True)
    return http_error(status, headers, body)


def failure(event: object) -> UpstreamError:
    """The failure for an error object with status 200."""
    return failure_in(event, "The model's server broke off with an error that it did not name.")


def failure_in(answer: object, otherwise: str) -> UpstreamError:
    """The failure for a body with status 200 that is no message. `otherwise`: the sentence for one without a reason."""
    error = error_in_answer(answer, 500)
    if error is None:
        return UpstreamBroken(otherwise)
    if _SPENT.search(error.upstream_message or ""):
        return _openai.limited("insufficient_quota", error.upstream_message or "", None, exhausted=True)
    return error
