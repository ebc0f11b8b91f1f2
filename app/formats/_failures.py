"""Failures as the servers of open models and other people's APIs tell them: a context that is too long is known by
its sentence, few have a code for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.errors import UpstreamError, UpstreamRefused
from app.formats import _openai

_TOO_LONG = re.compile(
    r"maximum context length|maximum model length|prompt is too long|exceed\w* (?:\w+ ){0,4}context|"
    r"context (?:size|length|window)\w* (?:\w+ ){0,3}exceeded",
    re.IGNORECASE,
)
_TOO_LONG_TYPE = "exceed_context_size_error"


def http_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """The failure behind an HTTP status."""
    error = _openai.error_object(body)
    if status < 600 and status not in (401, 403, 404, 429) and is_too_long(error):
        return UpstreamRefused(str(error.get("message")), code="context_length_exceeded", param="input")
    return _openai.http_error(status, headers, body)


def is_too_long(error: Mapping[str, Any]) -> bool:
    return error.get("type") == _TOO_LONG_TYPE or bool(_TOO_LONG.search(str(error.get("message"))))
