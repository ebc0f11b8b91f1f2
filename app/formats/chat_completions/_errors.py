"""The ways in which chat upstreams say no in a 200: OpenAI's envelope, read as loosely as it is followed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.errors import UpstreamError
from app.formats._failures import stream_error


def error_of(chunk: Mapping[str, Any]) -> UpstreamError | None:
    """The failure that a body or a chunk of a 200 tells of, if it does."""
    error = chunk.get("error")
    if isinstance(error, str) and error:
        error = {"message": error}
    if isinstance(error, dict) and error:
        return stream_error(error)
    return stream_error(chunk) if chunk.get("object") == "error" else None
