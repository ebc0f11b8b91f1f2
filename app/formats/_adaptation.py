"""Changes an encoded request as a channel's row says: members that are left out, renamed, set or fitted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from app.contract.channel import Channel, Params
from app.formats._paths import places
from app.formats._tool_schemas import make_plain

#: Values that are steps of a scale, lowest first.
SCALES = (("none", "minimal", "low", "medium", "high", "xhigh", "max"),)
#: What replaces a value that is no step of a scale.
_INSTEAD = {"developer": "system"}
#: Members at the top that say nothing without members of their own.
_NOTHING_ALONE = ("reasoning", "stream_options", "output_config", "text", "metadata")

Change = Callable[[dict[str, Any], Params], Iterator[str]]


def adapts(row: Channel) -> bool:
    """Whether `adapted` may change a request to this row."""
    return bool(row.params) or row.tool_schemas == "plain"


def adapted(body: bytes, row: Channel) -> tuple[bytes, tuple[str, ...]]:
    """The request for this row, and what was changed in it, fit for a header."""
    if not adapts(row):
        return body, ()
    request = orjson.loads(body)
    changes = tuple(dict.fromkeys(_change(request, row)))
    return (orjson.dumps(request), changes) if changes else (body, ())


def _change(request: dict[str, Any], row: Channel) -> Iterator[str]:
    for change in _CHANGES:
        yield from change(request, row.params)
    if row.tool_schemas == "plain" and make_plain(request):
        yield "plain tool schemas"


def _drop(request: dict[str, Any], params: Params) -> Iterator[str]:
    for path in params.drop:
        for holder, name in places(request, path):
            del holder[name]
            yield f"drop {path}"
    for name in _NOTHING_ALONE:
        if request.get(name) == {}:
            del request[name]


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
_CHANGES: tuple[Change, ...] = (_allow, _hash, _at_most, _drop, _rename, _set)
