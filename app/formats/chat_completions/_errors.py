"""Errors that chat upstreams send with status 200: OpenAI's envelope, also in loose forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.errors import UpstreamError
from app.formats._failures import error_in_answer, stream_error

#: Members of an answer, or of a piece of one.
_ANSWERS = ("choices", "usage")
#: The status of MiniMax's `base_resp` for an answer.
_SUCCESS = (None, 0, "0")


def error_of(chunk: Mapping[str, Any]) -> UpstreamError | None:
    """The failure in a body or chunk with status 200; None if there is none."""
    if error := chunk.get("error"):
        return stream_error({**chunk, "error": error})
    if _has_failed(chunk.get("base_resp")) or chunk.get("object") == "error":
        return stream_error(chunk)
    choices = chunk.get("choices")
    if isinstance(choices, list):
        return next((stream_error(choice["error"]) for choice in choices if _failed_choice(choice)), None)
    return None if any(chunk.get(name) for name in _ANSWERS) else error_in_answer(chunk)


def _has_failed(base_resp: object) -> bool:
    return isinstance(base_resp, Mapping) and base_resp.get("status_code") not in _SUCCESS


def _failed_choice(choice: object) -> bool:
    """OpenRouter puts the failure of the server behind it into the choice."""
    return isinstance(choice, Mapping) and bool(choice.get("error"))
