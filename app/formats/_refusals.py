"""Reads a refusal: its sentences, and the members of the request that it names in a member of its own.

Servers word refusals differently: OpenAI's `error` with a `param`, FastAPI's list `detail` with a `loc`, Google's
`fieldViolations`, errors inside a string. All words are read wherever they stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from app import nesting
from app.errors import Refusal

#: Statuses of a refusal that concerns the request.
STATUSES = frozenset({400, 404, 415, 422})

_MAX_WORDS = 4096
_MAX_DEPTH = 8
_WORDS = ("message", "msg", "detail", "details", "error", "errors", "description", "title", "reason", "raw", "metadata")
_VIOLATIONS = ("fieldViolations", "violations", "issues", "invalid_params")
_NAMES = ("param", "parameter", "field", "loc", "path", "name")
#: A list of pydantic's errors as Python prints it, and pydantic's own text.
_PRINTED_LOC = re.compile(r"'loc': [(\[]([^)\]]{1,300})[)\]]")
_PRINTED_LINE = re.compile(
    r"^([\w.\[\]$-]{1,200})\n +(?:Extra inputs|Input should|Field|Value|Unexpected)", re.MULTILINE
)


def refusal_of_body(status: int, body: bytes) -> Refusal | None:
    """The refusal in an answer with this status; None for any other failure."""
    if status not in STATUSES:
        return None
    try:
        return refusal_of(status, nesting.from_upstream(body))
    except ValueError:
        text = body[:_MAX_WORDS].decode("utf-8", "replace")
        return None if text.lstrip().startswith("<") else Refusal(status, text)


def refusal_of(status: int, answer: object) -> Refusal:
    """The refusal in a parsed answer, or in its error object."""
    sentences = "\n".join(dict.fromkeys(_sentences(answer, 0)))[:_MAX_WORDS]
    names = [*_names(answer, 0), *_printed(sentences)]
    return Refusal(status, sentences, tuple(dict.fromkeys(filter(None, names))))


def _sentences(value: Any, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, str):
        if (inner := _as_json(value)) is not None:
            yield from _sentences(inner, depth + 1)
        elif value:
            yield value
    elif isinstance(value, list):
        for element in value[:50]:
            yield from _sentences(element, depth + 1)
    elif isinstance(value, Mapping):
        for name in (*_WORDS, *_VIOLATIONS):
            if name in value:
                yield from _sentences(value[name], depth + 1)


def _names(value: Any, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, str):
        if (inner := _as_json(value)) is not None:
            yield from _names(inner, depth + 1)
    elif isinstance(value, list):
        for element in value[:50]:
            yield from _names(element, depth + 1)
    elif isinstance(value, Mapping):
        for name in _NAMES:
            yield _path(value.get(name))
        for name in (*_WORDS, *_VIOLATIONS):
            if name in value:
                yield from _names(value[name], depth + 1)


def _as_json(text: str) -> Any:
    """The value of a string that holds JSON; None if it does not."""
    if not text.startswith(("{", "[")):
        return None
    try:
        return orjson.loads(text)
    except ValueError:
        return None


def _path(value: object) -> str:
    """A path as text; empty if this is none."""
    if isinstance(value, str):
        return value if len(value) <= 300 else ""
    if isinstance(value, list) and all(isinstance(part, str | int) for part in value):
        return ".".join(map(str, value))
    return ""


def _printed(sentences: str) -> Iterator[str]:
    for match in _PRINTED_LOC.finditer(sentences):
        yield ".".join(part.strip(" '\"") for part in match[1].split(",") if part.strip(" '\""))
    for match in _PRINTED_LINE.finditer(sentences):
        yield match[1]
