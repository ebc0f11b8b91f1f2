"""Answers: JSON, event streams, and the start of a stream that leaves before its view returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import orjson
from flask import Response

JSON = "application/json"
EVENT_STREAM = "text/event-stream; charset=utf-8"

Headers = list[tuple[str, str]]

#: The key of a request's `Start` in its WSGI environment.
START = "antiphon.start_response"


def json_response(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, content_type=JSON)


def sse_response(events: Iterable[bytes]) -> Response:
    """A stream that proxies neither buffer nor compress. Closing the response closes `events`."""
    response = Response(events, content_type=EVENT_STREAM)
    response.headers["X-Accel-Buffering"] = "no"
    return response


class Start:
    """WSGI's `start_response`, which a stream may call before its view returns; the second call changes nothing."""

    __slots__ = ("_start_response", "more_headers", "write")

    def __init__(self, start_response: Any) -> None:
        self._start_response = start_response
        self.more_headers: Headers = []
        """The headers that every answer of the request has. Flask's own class for headers takes ten times as long to
        add them."""
        self.write: Callable[[bytes], object] | None = None

    def __call__(self, status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
        if self.write is None:
            self.write = self._start_response(status, [*headers, *self.more_headers], exc_info)
        return self.write
