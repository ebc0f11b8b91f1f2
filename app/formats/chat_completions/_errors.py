"""Errors that chat upstreams send with status 200: OpenAI's envelope, also in loose forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.errors import UpstreamError
from app.formats._failures import stream_error


def error_of(chunk: Mapping[str, Any]) -> UpstreamError | None:
    """The failure in a body or chunk with status 200; None if there is none."""
    error = chunk.get("error")
    if isinstance(error, str) and error:
        error = {"message": error}
    if isinstance(error, dict) and error:
        return stream_error(error)
    return stream_error(chunk) if chunk.get("object") == "error" else None
