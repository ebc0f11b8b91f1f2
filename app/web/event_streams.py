"""Server-sent events as a Flask response."""

from __future__ import annotations

from collections.abc import Iterable

from flask import Response

EVENT_STREAM = "text/event-stream; charset=utf-8"


def sse_response(events: Iterable[bytes]) -> Response:
    """A stream that proxies neither buffer nor compress. Closing the response closes `events`."""
    response = Response(events, content_type=EVENT_STREAM)
    response.headers["X-Accel-Buffering"] = "no"
    return response
