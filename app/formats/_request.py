"""Reads the members of a request that all translating formats treat alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.contract.items import Item
from app.errors import InvalidRequest
from app.formats._caching import Marks, marks_of
from app.formats.responses import instructions_text


def refuse_prompt(request: Mapping[str, Any]) -> None:
    if "prompt" in request:
        raise InvalidRequest(
            "Stored prompts are not available with this model.", code="unsupported_parameter", param="prompt"
        )


def instructions(request: Mapping[str, Any]) -> str | None:
    given = request.get("instructions")
    return instructions_text(given) if isinstance(given, Mapping) else given


def instruction_marks(request: Mapping[str, Any]) -> Marks:
    """Marks for the cache of instructions that are a message."""
    given = request.get("instructions")
    if not isinstance(given, Mapping):
        return {}
    content = given.get("content")
    parts = content if isinstance(content, list) else []
    return next(filter(None, map(marks_of, (given, *reversed(parts)))), {})


def in_force(request: Mapping[str, Any], items: Iterable[Item]) -> Mapping[str, Any]:
    """The request with the settings of `configuration_update` items in its context; its own settings win."""
    merged = dict(request)
    for item in items:
        if item.get("type") == "configuration_update":
            for name in ("reasoning", "text"):
                merged[name] = {**merged.get(name, {}), **(item.get(name) or {}), **request.get(name, {})}
    return merged


def text_format(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """`text.format`; empty for plain text. Settings of the context are not validated, so it may be anything."""
    form = (request.get("text") or {}).get("format")
    return form if isinstance(form, Mapping) else {}


def effort_of(request: Mapping[str, Any]) -> str | None:
    effort = (request.get("reasoning") or {}).get("effort")
    return effort if isinstance(effort, str) else None
