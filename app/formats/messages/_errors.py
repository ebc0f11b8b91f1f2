"""Errors of the Messages API. In a stream, the error's type takes the place of the HTTP status."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from app.errors import UpstreamBroken, UpstreamError
from app.formats import _openai
from app.formats._failures import http_error

_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
#: An exhausted balance comes as `invalid_request_error`.
_SPENT = re.compile(r"credit balance is too low|(?:usage|spend\w*) limits?\b", re.IGNORECASE)


def decode_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """The failure for an HTTP status."""
    message = str(_openai.error_object(body).get("message"))
    if status == 402 or (status in (400, 403) and _SPENT.search(message)):
        return _openai.limited("insufficient_quota", "The model's server has no quota left for this gateway.", None)
    return http_error(status, headers, body)


def failure(event: Mapping[str, Any]) -> UpstreamError:
    """The failure for an error object with status 200."""
    error = event.get("error")
    if not isinstance(error, dict):
        return UpstreamBroken("The model's server broke off with an error that it did not name.")
    status = _STATUSES.get(str(error.get("type")), 500)
    return decode_error(status, {}, orjson.dumps({"error": error}))
