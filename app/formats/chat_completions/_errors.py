"""The ways in which chat upstreams say no in a 200: OpenAI's envelope, read as loosely as it is followed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from app.errors import UpstreamError
from app.formats import _openai
from app.formats._failures import http_error, is_too_long


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
    if is_too_long(error):
        return http_error(400, {}, orjson.dumps({"error": error}))
    return _openai.stream_error(error)
