"""The format of the answer, for upstreams that cannot enforce it: as an instruction, and as far as they can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

_JSON = "Answer with one JSON object and nothing else, without a code fence."
_SCHEMA = "Answer with one JSON value that fits the following JSON schema and nothing else, without a code fence.\n"

#: Any object as a schema, for upstreams that know no other way to it.
_ANY_OBJECT = {"type": "json_schema", "name": "object", "schema": {"type": "object"}}
_OBJECT = {"type": "json_object"}

Form = Mapping[str, Any]


def instruction(form: Form) -> str | None:
    """What the model reads of `text.format`; None for plain text."""
    if form.get("type") == "json_object":
        return _JSON
    if form.get("type") == "json_schema":
        return _SCHEMA + orjson.dumps(form.get("schema")).decode()
    return None


def unenforced(request: Mapping[str, Any], accepted: str) -> tuple[str, ...]:
    """What to tell of a request whose format of the answer is not enforced as the client asked; empty for others."""
    form = (request.get("text") or {}).get("format")
    replaced = isinstance(form, Mapping) and fitted(form, accepted)[1] is not None
    return (f"text_format: {accepted}",) if replaced else ()


def fitted(form: Form, accepted: str) -> tuple[Form, str | None]:
    """The format for an upstream, and the instruction that replaces what it does not take. `accepted` is a row's
    `text_format`."""
    kind = form.get("type")
    if accepted == "instruction":
        return {}, instruction(form)
    if accepted == "object" and kind == "json_schema":
        return _OBJECT, instruction(form)
    if accepted == "schema_only" and kind == "json_object":
        return _ANY_OBJECT, _JSON
    return form, None
