"""Rewrites the schemas of tools without references, for upstreams that refuse `$ref`: what a reference names stands in
its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.formats._tool_schemas import make_plain, referred, schemas

_DEFINITIONS = ("$defs", "definitions")
#: Values that one schema may have when its references are followed: a few definitions can name each other without end.
_MOST = 5000


def make_inlined(request: Mapping[str, Any]) -> bool:
    """Rewrites the schemas of the request's tools in place, also without unions at their top. Returns whether one was
    changed."""
    changed = make_plain(request)
    for tool, name in schemas(request.get("tools")):
        if _refers(tool[name]):
            tool[name] = inlined(tool[name])
            changed = True
    return changed


def has_references(request: Mapping[str, Any]) -> bool:
    return any(_refers(tool[name]) for tool, name in schemas(request.get("tools")))


def inlined(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with what its references name. A reference within what it names, and one that leads nowhere, become a
    schema that accepts everything."""
    whole: dict[str, Any] = _Inliner(schema).value(
        {name: inner for name, inner in schema.items() if name not in _DEFINITIONS}, ()
    )
    return whole


class _Inliner:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = _MOST

    def value(self, value: Any, within: tuple[str, ...]) -> Any:
        """`within`: the references that led here."""
        self._left -= 1
        if isinstance(value, list):
            return [self.value(inner, within) for inner in value]
        if not isinstance(value, dict):
            return value
        reference = value.get("$ref")
        others = {name: inner for name, inner in value.items() if name != "$ref" or not isinstance(inner, str)}
        if not isinstance(reference, str):
            return {name: self.value(inner, within) for name, inner in others.items()}
        beside = {name: self.value(inner, within) for name, inner in others.items()}
        if reference in within or self._left <= 0:
            return beside
        return {**self.value(dict(referred(reference, self._root)), (*within, reference)), **beside}


def _refers(schema: object) -> bool:
    if isinstance(schema, list):
        return any(map(_refers, schema))
    return isinstance(schema, dict) and (isinstance(schema.get("$ref"), str) or any(map(_refers, schema.values())))
