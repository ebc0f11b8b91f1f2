"""Finds the tests that start a process: the names in the code of a test and of its fixtures lead to `subprocess`. The
tests that start a gateway are found in the same way.

A fixture that a test requests by `getfixturevalue` is not among its fixtures, so the parameter that selects it counts.
"""

from __future__ import annotations

import inspect
import subprocess
from collections.abc import Callable, Iterator
from functools import cache, partial
from types import CodeType, ModuleType
from typing import Any

import pytest

from tests.databases import DATABASES
from tests.gateway import Gateway


def starts_a_server(item: pytest.Function) -> bool:
    return "mariadb" in _parameters(item) or any(reaches_subprocess(function) for function in _functions(item))


def starts_a_gateway_on_any_database(item: pytest.Function) -> bool:
    """Whether the database of its gateway is the choice of `pytest --database`."""
    chooses = set(_parameters(item)) & {*DATABASES} or item.get_closest_marker("sqlite")
    return not chooses and any(reaches(Gateway, function) for function in _functions(item))


def _parameters(item: pytest.Function) -> list[str]:
    found = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return [value for value in found if isinstance(value, str)]


def _functions(item: pytest.Function) -> list[Callable[..., Any]]:
    """The test and its fixtures."""
    fixtures = [definitions[-1].func for definitions in item._fixtureinfo.name2fixturedefs.values() if definitions]
    return [item.function, *fixtures]


def reaches_subprocess(start: Callable[..., Any]) -> bool:
    return reaches(subprocess, start)


@cache
def reaches(goal: Any, start: Callable[..., Any]) -> bool:
    """Whether names in this code lead to `goal`. A member of a module counts as the module."""
    seen: set[Any] = set()
    waiting: list[Any] = [start]
    while waiting:
        value = waiting.pop()
        if value is goal or (isinstance(goal, ModuleType) and getattr(value, "__module__", None) == goal.__name__):
            return True
        if _is_of_the_tests(value) and value not in seen:
            seen.add(value)
            waiting.extend(_names_used_by(value))
    return False


def _is_of_the_tests(value: Any) -> bool:
    if isinstance(value, partial):
        return True
    return (inspect.isroutine(value) or inspect.isclass(value)) and str(value.__module__).startswith("tests.")


def _names_used_by(value: Any) -> Iterator[Any]:
    """The values that a function or the methods of a class name."""
    if isinstance(value, partial):
        yield value.func
    elif inspect.isclass(value):
        yield from value.__bases__
        for member in vars(value).values():
            yield from _functions_of(member)
    else:
        function = inspect.unwrap(value)
        for name in _names(function.__code__):
            found = function.__globals__.get(name)
            # A module of the tests is not searched: which of its names the code uses is among the names as well.
            yield found
            if isinstance(found, ModuleType) and found.__name__.startswith("tests."):
                yield from (getattr(found, attribute, None) for attribute in _names(function.__code__))


def _functions_of(member: Any) -> Iterator[Any]:
    if isinstance(member, property):
        yield member.fget
    elif isinstance(member, staticmethod | classmethod):
        yield member.__func__
    elif inspect.isfunction(member):
        yield member


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
