"""The start of a response, which a stream may make before its view returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: The key of a request's `Start` in its WSGI environment.
START = "antiphon.start_response"


class Start:
    """WSGI's `start_response`, which a stream may call before its view returns; the second call changes nothing."""

    __slots__ = ("_start_response", "write")

    def __init__(self, start_response: Any) -> None:
        self._start_response = start_response
        self.write: Callable[[bytes], object] | None = None

    def __call__(self, status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], object]:
        if self.write is None:
            self.write = self._start_response(status, headers, exc_info)
        return self.write
