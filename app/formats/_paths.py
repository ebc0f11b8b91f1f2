"""Paths to members of a request, such as `tools[].function.strict`: `[]` is any element of a list, `**` any depth."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

ANY, DEEP = "[]", "**"

_PART = re.compile(r"\[(\d*)\]|([^.\[\]/\s]+)")
_CAMEL = re.compile(r"(?<=[a-z0-9])([A-Z])")
#: What servers put before the path proper.
_ROOTS = frozenset({"body", "$", "#", "request", "root", "__root__"})

#: Objects of a schema whose names the client chooses.
_FREE_NAMES = frozenset({"properties", "$defs", "definitions", "patternProperties"})

Place = tuple[dict[str, Any], str]


def parts(path: str) -> tuple[str, ...]:
    """The parts of a path; an index becomes `[]`."""
    return tuple(ANY if name is None or name.isdecimal() else name for name in _names(path))


def joined(names: Sequence[str]) -> str:
    text = ""
    for name in names:
        text += name if name == ANY or not text else f".{name}"
    return text


def places(request: Any, path: str) -> list[Place]:
    """The objects that hold the path's last member, with its name."""
    return list(_places(request, parts(path)))


def _places(value: Any, names: Sequence[str]) -> Iterator[Place]:
    if not names:
        # A path that ends in an index leads to an element, which no object holds by a name.
        return
    first, rest = names[0], names[1:]
    if first == DEEP:
        yield from _places(value, rest)
        for element in _below(value):
            yield from _places(element, names)
    elif first == ANY:
        for element in value if isinstance(value, list) else ():
            yield from _places(element, rest)
    elif isinstance(value, dict) and first in value:
        if rest:
            yield from _places(value[first], rest)
        else:
            yield value, first


def _below(value: Any) -> Iterator[Any]:
    """The objects and lists below a value. The names of a schema's properties are the client's, no members."""
    if isinstance(value, list):
        yield from (element for element in value if isinstance(element, dict | list))
    elif isinstance(value, dict):
        for name, element in value.items():
            if name in _FREE_NAMES and isinstance(element, dict):
                yield from (inner for inner in element.values() if isinstance(inner, dict))
            elif isinstance(element, dict | list):
                yield element


def resolved(request: Any, named: str) -> str | None:
    """The path of the member that a refusal names; None if the request has none.

    A refusal may hold parts that are no members: the name of a variant (`tools.0.custom.strict`), or of a type behind
    the member. It may write camelCase.
    """
    names = [name or ANY for name in _names(named)]
    while names and names[0] in _ROOTS:
        names = names[1:]
    # A path may go on with the type that the server expected of its last member.
    ends = (names[:end] for end in range(len(names), 0, -1))
    found = next((found for end in ends if (found := _resolved(request, end))), None) or []
    # An element of a list is refused as a part of its member.
    while found and found[-1] == ANY:
        found = found[:-1]
    return joined(found) if found else None


def _resolved(value: Any, names: Sequence[str]) -> list[str] | None:
    if not names:
        return []
    first, rest = names[0], names[1:]
    if isinstance(value, list):
        return _in_list(value, first, names, rest)
    if not isinstance(value, dict):
        return None
    for name in (first, _snake(first)):
        if name in value and (found := _resolved(value[name], rest)) is not None:
            return [name, *found]
    return _resolved(value, rest) if rest else None


def _in_list(value: list[Any], first: str, names: Sequence[str], rest: Sequence[str]) -> list[str] | None:
    if first.isdecimal():
        found = _resolved(value[int(first)], rest) if int(first) < len(value) else None
        return None if found is None else [ANY, *found]
    below = rest if first == ANY else names
    for element in value:
        if isinstance(element, dict | list) and (found := _resolved(element, below)):
            return [ANY, *found]
    return None


def _names(path: str) -> list[str | None]:
    return [name or (index or None) for index, name in _PART.findall(path)]


def _snake(name: str) -> str:
    return _CAMEL.sub(lambda match: f"_{match[1].lower()}", name)
