"""Rewrites the schemas of tools without a union at their top, for upstreams that refuse one there.

The properties of all branches come together, and the model reads the original rule in the description.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

_UNIONS = ("anyOf", "oneOf", "allOf")
#: Other members that these upstreams refuse at the top.
_ALSO_REFUSED = ("enum", "not")
_SCHEMAS = ("parameters", "input_schema")
_MAX_RULE = 2000


def make_plain(request: Mapping[str, Any]) -> bool:
    """Rewrites the schemas of the request's tools in place. Returns whether one was changed."""
    changed = [_rewrite(tool, name) for tool, name in schemas(request.get("tools"))]
    return any(changed)


def has_unions(request: Mapping[str, Any]) -> bool:
    return any(_refused(tool[name]) for tool, name in schemas(request.get("tools")))


def follows_strict_rules(schema: object) -> bool:
    """Whether an upstream would enforce this schema: every object names all its members and allows no others."""
    if isinstance(schema, list):
        return all(map(follows_strict_rules, schema))
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if isinstance(properties, dict) or schema.get("type") == "object":
        named = set(properties) if isinstance(properties, dict) else set()
        if schema.get("additionalProperties") is not False or named != set(schema.get("required") or ()):
            return False
    return all(map(follows_strict_rules, schema.values()))


def schemas(tools: object) -> Iterator[tuple[dict[str, Any], str]]:
    """Each tool of a request that has a schema, and the member that holds it."""
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict):
            yield from schemas(tool.get("tools"))
            inner = tool.get("function")
            function = inner if isinstance(inner, dict) else tool
            yield from ((function, name) for name in _SCHEMAS if isinstance(function.get(name), dict))


def _refused(schema: Mapping[str, Any]) -> list[str]:
    return [name for name in (*_UNIONS, *_ALSO_REFUSED) if name in schema]


def _rewrite(tool: dict[str, Any], name: str) -> bool:
    schema = tool[name]
    refused = _refused(schema)
    if not refused:
        return False
    tool[name] = without_union(schema)
    rule = orjson.dumps({member: schema[member] for member in refused}).decode()
    if len(rule) <= _MAX_RULE:
        said = f"The arguments must also match this JSON schema: {rule}"
        tool["description"] = f"{tool['description']}\n\n{said}" if tool.get("description") else said
    return True


def without_union(schema: Mapping[str, Any]) -> dict[str, Any]:
    """An object schema that accepts all that this one accepts, with the properties of every branch."""
    plain = {name: value for name, value in schema.items() if name not in (*_UNIONS, *_ALSO_REFUSED)}
    plain["type"] = "object"
    properties: dict[str, Any] = {}
    required = list(schema.get("required") or ())
    for union in _UNIONS:
        branches = [_flat(branch, schema) for branch in schema.get(union) or () if isinstance(branch, dict)]
        for branch in branches:
            for name, value in (branch.get("properties") or {}).items():
                properties.setdefault(name, value)
        required += _required_by(union, branches)
    plain["properties"] = {**properties, **(schema.get("properties") or {})}
    plain.pop("required", None)
    if known := [name for name in dict.fromkeys(required) if name in plain["properties"]]:
        plain["required"] = known
    return plain


def _required_by(union: str, branches: list[dict[str, Any]]) -> list[str]:
    """The members that every call must have: those of all branches, or for `allOf` of any."""
    named = [branch.get("required") or [] for branch in branches]
    if not named:
        return []
    if union == "allOf":
        return [name for names in named for name in names]
    return [name for name in named[0] if all(name in names for names in named[1:])]


def _flat(branch: Mapping[str, Any], root: Mapping[str, Any]) -> dict[str, Any]:
    """A branch with its reference followed and its own unions merged."""
    reference = branch.get("$ref")
    if isinstance(reference, str):
        branch = referred(reference, root)
    nested = any(name in branch for name in _UNIONS)
    return without_union({**branch, "$defs": {}}) if nested and branch is not root else dict(branch)


def referred(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that a local reference names; an empty one if it names none, or the root."""
    if not reference.startswith("#/"):
        return {}
    found: Any = root
    for name in reference[2:].split("/"):
        found = found.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}
