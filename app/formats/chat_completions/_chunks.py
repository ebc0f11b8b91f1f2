"""Reads the objects of a chat upstream, for translation and for passthrough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app import sse
from app.contract.usage import Usage
from app.errors import UpstreamBroken, UpstreamError
from app.formats import _openai
from app.formats._decoding import whole
from app.formats._failures import error_in_answer
from app.formats.chat_completions._errors import error_of

DONE = b"[DONE]"


def completion_of(body: bytes) -> dict[str, Any]:
    """The object of an unstreamed answer. Raises UpstreamError, also if the object is an error."""
    completion = whole(body)
    if error := error_of(completion) if isinstance(completion, dict) else error_in_answer(completion):
        raise error
    if not isinstance(completion, dict):
        raise UpstreamBroken("The model's server answered with something that is not a chat completion.")
    return completion


def data_of(raw: bytes) -> tuple[str | None, bytes | None]:
    """Name and data of one event."""
    name, data = sse.parse(raw)
    if data is None and raw.startswith(b"error:"):
        # Older llama.cpp has a field of its own for errors.
        return "error", raw.removeprefix(b"error:").strip()
    return name, data.strip() if data is not None else None


def error_in(name: str | None, chunk: Mapping[str, Any]) -> UpstreamError | None:
    """The failure in an event, found by its name or its data; None if there is none."""
    return error_of({"error": chunk} if name == "error" and "error" not in chunk else chunk)


def usage_of(value: object) -> Usage | None:
    """Usage of a chat completion; None if the upstream counted nothing."""
    if not isinstance(value, dict):
        return None
    read, written = value.get("prompt_tokens_details"), value.get("completion_tokens_details")
    details = dict(read) if isinstance(read, dict) else {}
    if not details.get("cached_tokens"):
        details["cached_tokens"] = value.get("prompt_cache_hit_tokens")
    return _openai.usage(
        {
            "input_tokens": value.get("prompt_tokens"),
            "input_tokens_details": details,
            "output_tokens": value.get("completion_tokens"),
            "output_tokens_details": written,
        }
    )
