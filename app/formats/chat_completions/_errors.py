"""The ways in which chat upstreams say no: OpenAI's envelope, read as loosely as it is followed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from app.errors import UpstreamError, UpstreamRefused
from app.formats import _openai

#: What servers say of a context that is too long; few have a code for it.
_TOO_LONG = re.compile(
    r"maximum context length|maximum model length|prompt is too long|exceed\w* (?:\w+ ){0,4}context|"
    r"context (?:size|length|window)\w* (?:\w+ ){0,3}exceeded",
    re.IGNORECASE,
)
_TOO_LONG_TYPE = "exceed_context_size_error"


def http_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """The failure behind an HTTP status."""
    error = _openai.error_object(body)
    if status < 600 and status not in (401, 403, 404, 429) and _too_long(error):
        return UpstreamRefused(str(error.get("message")), code="context_length_exceeded", param="input")
    return _openai.http_error(status, headers, body)


def error_of(chunk: Mapping[str, Any]) -> UpstreamError | None:
    """The failure that a body or a chunk of a 200 tells of, if it does."""
    error = chunk.get("error")
    if isinstance(error, str) and error:
        error = {"message": error}
    if isinstance(error, dict) and error:
        return _failure(error)
    return _failure(chunk) if chunk.get("object") == "error" else None


def _failure(error: Mapping[str, Any]) -> UpstreamError:
    """Many servers put the HTTP status they could no longer send where a code should stand."""
    code = str(error.get("code"))
    if re.fullmatch("[45][0-9][0-9]", code):
        return http_error(int(code), {}, orjson.dumps({"error": error}))
    if _too_long(error):
        return http_error(400, {}, orjson.dumps({"error": error}))
    return _openai.stream_error(error)


def _too_long(error: Mapping[str, Any]) -> bool:
    return error.get("type") == _TOO_LONG_TYPE or bool(_TOO_LONG.search(str(error.get("message"))))
