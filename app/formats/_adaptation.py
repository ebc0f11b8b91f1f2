"""Changes an encoded request as a channel's row says: members that are left out, renamed, set or fitted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from app.contract.channel import Channel, Params
from app.formats._paths import Place, places
from app.formats._schema_references import make_inlined
from app.formats._tool_schemas import follows_strict_rules, make_plain

#: Values that are steps of a scale, lowest first.
SCALES = (("none", "minimal", "low", "medium", "high", "xhigh", "max"),)
#: What replaces a value that is no step of a scale.
_INSTEAD = {"developer": "system", "system": "developer"}
#: Members at the top that say nothing without members of their own.
_NOTHING_ALONE = ("reasoning", "stream_options", "output_config", "text", "metadata")

#: Where a path leads into the schemas of all tools.
_IN_SCHEMAS = "tools.**."
#: Values that mean the same as a member that is left out.
_NONE: dict[str, tuple[Any, ...]] = {
    "tool_choice": ("auto",),
    "truncation": ("disabled", "auto"),
    "strict": (False, None),
    "logprobs": (False, None),
    "top_logprobs": (0, None),
    "n": (1,),
    "response_format": ({"type": "text"},),
    "format": ({"type": "text"},),
    "include": ([], ["reasoning.encrypted_content"]),
    "text": ({}, {"format": {"type": "text"}}),
}

Change = Callable[[dict[str, Any], Params], Iterator[str]]


def adapts(row: Channel) -> bool:
    """Whether `adapted` may change a request to this row."""
    return bool(row.params) or any(getattr(row, key) == value for key, value, _, _ in _KEYS)


def adapted(body: bytes, row: Channel) -> tuple[bytes, tuple[str, ...]]:
    """The request for this row, and what was changed in it, fit for a header."""
    if not adapts(row):
        return body, ()
    request = orjson.loads(body)
    changes = tuple(dict.fromkeys(_change(request, row)))
    return (orjson.dumps(request), changes) if changes else (body, ())


def means_none(name: str, value: Any) -> bool:
    """Whether a member with this name and value says the same as no such member."""
    return name in _NONE and value in _NONE[name]


def _change(request: dict[str, Any], row: Channel) -> Iterator[str]:
    for change in _CHANGES:
        yield from change(request, row.params)
    for key, value, fit, text in _KEYS:
        if getattr(row, key) == value and fit(request):
            yield text


# --- by a key of the row ----------------------------------------------------------------------------------------


def _one_of_two(request: dict[str, Any]) -> bool:
    """`temperature` stays where an upstream takes only one of the two."""
    return "temperature" in request and request.pop("top_p", None) is not None


def _one_strictness(request: dict[str, Any]) -> bool:
    """One value for all tools: `true` where every schema follows the strict rules already."""
    functions = [tool.get("function") or tool for tool in request.get("tools") or () if isinstance(tool, dict)]
    if len({function.get("strict") is True for function in functions}) < 2:
        return False
    strict = all(follows_strict_rules(function.get("parameters")) for function in functions)
    for function in functions:
        function["strict"] = strict
    return True


#: Keys of the row: the value that asks for a change, the change, and its name. A change returns whether it was made.
_KEYS: tuple[tuple[str, str, Callable[[dict[str, Any]], bool], str], ...] = (
    ("tool_schemas", "plain", make_plain, "tool_schemas: plain"),
    ("tool_schemas", "inlined", make_inlined, "tool_schemas: inlined"),
    ("tool_strictness", "uniform", _one_strictness, "tool_strictness: uniform"),
    ("sampling", "one", _one_of_two, "drop top_p"),
)


# --- by a member ------------------------------------------------------------------------------------------------


def _drop(request: dict[str, Any], params: Params) -> Iterator[str]:
    for path in params.drop:
        for holder, name in _dropped(request, path):
            del holder[name]
            yield f"drop {path}"
    for name in _NOTHING_ALONE:
        if request.get(name) == {}:
            del request[name]


def _dropped(request: dict[str, Any], path: str) -> list[Place]:
    if not path.startswith(_IN_SCHEMAS):
        return places(request, path)
    # An enforced schema needs all its keywords.
    tools = [tool for tool in request.get("tools") or () if isinstance(tool, dict)]
    lenient = [tool for tool in tools if not any(holder[name] for holder, name in places(tool, "**.strict"))]
    return [place for tool in lenient for place in places(tool, path.removeprefix("tools."))]


def _omit(request: dict[str, Any], params: Params) -> Iterator[str]:
    for path in params.omit:
        for holder, name in places(request, path):
            if means_none(name, holder[name]):
                del holder[name]
                yield f"drop {path}"


def _rename(request: dict[str, Any], params: Params) -> Iterator[str]:
    for path, new in params.rename.items():
        for holder, name in places(request, path):
            value = holder.pop(name)
            holder.setdefault(new, value)
            yield f"rename {path} {new}"


def _set(request: dict[str, Any], params: Params) -> Iterator[str]:
    for path, value in params.set.items():
        *outer, last = path.split(".")
        for holder in _made(request, outer):
            if last not in holder or holder[last] != value:
                holder[last] = value
                yield f"set {path}"


def _made(value: Any, names: list[str]) -> Iterator[dict[str, Any]]:
    """The objects at this path; missing ones are made, except the elements of lists."""
    if not names:
        if isinstance(value, dict):
            yield value
        return
    if not isinstance(value, dict):
        return
    first, rest = names[0], names[1:]
    name = first.removesuffix("[]")
    if name == first:
        inner = value.get(name)
        value[name] = inner if isinstance(inner, dict) else {}
        yield from _made(value[name], rest)
    else:
        inner = value.get(name)
        for element in inner if isinstance(inner, list) else ():
            yield from _made(element, rest)


def _allow(request: dict[str, Any], params: Params) -> Iterator[str]:
    for path, allowed in params.allow.items():
        for holder, name in places(request, path):
            better = nearest(holder[name], allowed)
            if better != holder[name]:
                holder[name] = better
                yield f"set {path} {better}"


def nearest(value: Any, allowed: tuple[str, ...]) -> Any:
    """The allowed value that is nearest to this one; the value itself where none is near."""
    if value in allowed:
        return value
    if _INSTEAD.get(value) in allowed:
        return _INSTEAD[value]
    for scale in SCALES:
        steps = [step for step in allowed if step in scale]
        if value in scale and steps:
            at, middle = scale.index(value), scale.index("medium")
            return min(steps, key=lambda step: (abs(scale.index(step) - at), abs(scale.index(step) - middle)))
    return value


def _hash(request: dict[str, Any], params: Params) -> Iterator[str]:
    for path in params.hash:
        for holder, name in places(request, path):
            holder[name] = hashlib.sha256(str(holder[name]).encode()).hexdigest()
            yield f"hash {path}"


def _at_most(request: dict[str, Any], params: Params) -> Iterator[str]:
    for path, most in params.at_most.items():
        for holder, name in places(request, path):
            value = holder[name]
            if isinstance(value, int) and value > most:
                holder[name] = most
                yield f"set {path} {most}"


#: In order: a renamed member is fitted under its old path, and what the row sets wins.
_CHANGES: tuple[Change, ...] = (_allow, _hash, _at_most, _drop, _omit, _rename, _set)
