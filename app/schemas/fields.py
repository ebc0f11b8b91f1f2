"""Values of a request: marshmallow fields that convert nothing, and the errors they raise. Knows no parameter by name
and no endpoint."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Callable
from collections.abc import Mapping as AnyMapping
from typing import Any, NoReturn

from marshmallow import fields

from app.errors import InvalidRequest, missing_parameter

#: How much of a client's own text a message repeats.
_SHOWN = 64

# --- faults -----------------------------------------------------------------------------------------------------


class Violation(Exception):
    """A wrong value. Its path is collected while it is raised, so that valid values never pay for a path."""

    def __init__(self, code: str, sentence: Callable[[str], str]) -> None:
        super().__init__(code)
        self.code = code
        self.sentence = sentence
        self.path: tuple[str | int, ...] = ()

    def within(self, *outer: str | int) -> Violation:
        self.path = outer + self.path
        return self

    def at(self, param: str) -> InvalidRequest:
        param += "".join(f"[{piece}]" if isinstance(piece, int) else f".{shown(piece)}" for piece in self.path)
        return InvalidRequest(self.sentence(param), code=self.code, param=param)


def not_an_object(body: object) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid type for the request body: expected an object, but got {type_name(body)} instead.",
        code="invalid_type",
    )


def missing(name: str) -> Violation:
    return Violation("missing_required_parameter", lambda param: missing_parameter(param).message).within(name)


def wrong_type(expected: str, value: object) -> Violation:
    got = type_name(value)
    return Violation(
        "invalid_type", lambda param: f"Invalid type for '{param}': expected {expected}, but got {got} instead."
    )


def absent_or_wrong(owner: AnyMapping[str, Any], name: str, expected: str) -> Violation:
    """The error of a required member that is missing or has the wrong type."""
    return wrong_type(expected, owner[name]).within(name) if name in owner else missing(name)


def unsupported_value(value: str, supported: tuple[str, ...]) -> Violation:
    sentence = f"Invalid value: '{shown(value)}'. Supported values are: {_listed(supported, 'and')}."
    return Violation("invalid_value", lambda _: sentence)


def malformed(reason: str, value: str) -> Violation:
    """A string of the right type with a wrong value; `reason` is a whole sentence."""
    return Violation("invalid_value", lambda param: f"Invalid '{param}': '{shown(value)}'. {reason}")


def string_too_long(value: str, maximum: int) -> Violation:
    lengths = f"Expected a string with maximum length {maximum}, but got a string with length {len(value)} instead."
    return Violation("string_above_max_length", lambda param: f"Invalid '{param}': string too long. {lengths}")


def empty(kind: str) -> Violation:
    """`kind` is what is empty: string or array."""
    article = "an" if kind == "array" else "a"
    return Violation(
        f"empty_{kind}",
        lambda param: (
            f"Invalid '{param}': empty {kind}. Expected {article} {kind} with minimum length 1, "
            f"but got an empty {kind} instead."
        ),
    )


def array_too_long(value: list[Any], maximum: int) -> Violation:
    lengths = f"Expected an array with maximum length {maximum}, but got an array with length {len(value)} instead."
    return Violation("array_above_max_length", lambda param: f"Invalid '{param}': array too long. {lengths}")


def out_of_range(kind: str, value: float, bound: float, side: str) -> Violation:
    """`kind` is integer or decimal, `side` is below or above."""
    limit, sign = ("minimum", ">=") if side == "below" else ("maximum", "<=")
    expected = f"Expected a value {sign} {bound}, but got {_shown_number(value)} instead."
    return Violation(
        f"{kind}_{side}_{limit[:3]}_value", lambda param: f"Invalid '{param}': {kind} {side} {limit} value. {expected}"
    )


def type_name(value: object) -> str:
    """A JSON value's type in the words of the API's error messages."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a decimal number" if math.isfinite(value) else "a number that is not finite"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


def shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _shown_number(value: float) -> str:
    # Python refuses to print integers of thousands of digits.
    return str(value) if isinstance(value, float) or value.bit_length() <= 64 else "a number beyond 64 bits"


def _listed(values: tuple[str, ...], last: str) -> str:
    quoted = [f"'{value}'" for value in values]
    if len(quoted) < 3:
        return f" {last} ".join(quoted)
    return f"{', '.join(quoted[:-1])}, {last} {quoted[-1]}"


# --- fields -----------------------------------------------------------------------------------------------------


class Checked(fields.Field[Any]):
    """A field that converts nothing. It nests without schemas: what it finds is a `Violation` until the top knows
    where."""

    @abstractmethod
    def check(self, value: Any) -> None: ...

    def _deserialize(self, value: Any, attr: str | None, data: AnyMapping[str, Any] | None, **kwargs: Any) -> Any:
        try:
            self.check(value)
        except Violation as violation:
            raise violation.at(attr or "") from None
        return value


class CheckedBy(Checked):
    """A field whose rule is a plain function: for unions, and for what the request path must do fast."""

    def __init__(self, rule: Callable[[Any], None], *, required: bool = False) -> None:
        super().__init__(required=required)
        self._rule = rule

    def check(self, value: Any) -> None:
        self._rule(value)


class String(Checked):
    def __init__(
        self, *, min: int = 0, max: int | None = None, pattern: str | None = None, required: bool = False
    ) -> None:
        super().__init__(required=required)
        self._min = min
        self._max = max
        self._pattern = None if pattern is None else re.compile(pattern)

    def check(self, value: Any) -> None:
        if not isinstance(value, str):
            raise wrong_type("a string", value)
        if len(value) < self._min:
            raise empty("string")
        if self._max is not None and len(value) > self._max:
            raise string_too_long(value, self._max)
        if self._pattern is not None and not self._pattern.fullmatch(value):
            self._refuse_pattern(self._pattern.pattern)

    def _refuse_pattern(self, pattern: str) -> NoReturn:
        expected = f"Expected a string that matches the pattern '^{pattern}$'."
        raise Violation("invalid_value", lambda param: f"Invalid '{param}': string does not match pattern. {expected}")


class Boolean(Checked):
    def check(self, value: Any) -> None:
        if not isinstance(value, bool):
            raise wrong_type("a boolean", value)


class Integer(Checked):
    def __init__(self, *, min: int | None = None, max: int | None = None) -> None:
        super().__init__()
        self._min = min
        self._max = max

    def check(self, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise wrong_type("an integer", value)
        if self._min is not None and value < self._min:
            raise out_of_range("integer", value, self._min, "below")
        if self._max is not None and value > self._max:
            raise out_of_range("integer", value, self._max, "above")


class Number(Checked):
    def __init__(self, *, min: int, max: int) -> None:
        super().__init__()
        self._min = min
        self._max = max

    def check(self, value: Any) -> None:
        if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
            raise wrong_type("a decimal", value)
        if value < self._min:
            raise out_of_range("decimal", value, self._min, "below")
        if value > self._max:
            raise out_of_range("decimal", value, self._max, "above")


class OneOf(Checked):
    def __init__(self, *values: str) -> None:
        super().__init__()
        self._values = values

    def check(self, value: Any) -> None:
        if not isinstance(value, str):
            raise wrong_type(f"one of {_listed(self._values, 'or')}", value)
        if value not in self._values:
            raise unsupported_value(value, self._values)


class Object(Checked):
    """An object whose known members are checked: null stands for absent, unknown keys pass."""

    def __init__(self, members: AnyMapping[str, Checked] | None = None, *, needs: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._members = dict(members or {})
        self._needs = needs

    def check(self, value: Any) -> None:
        if not isinstance(value, dict):
            raise wrong_type("an object", value)
        for name, member in self._members.items():
            inner = value.get(name)
            if inner is None and name not in self._needs:
                continue
            if inner is None and name not in value:
                raise missing(name)
            try:
                member.check(inner)
            except Violation as violation:
                violation.within(name)
                raise


class Array(Checked):
    """An array; `of` names its elements in messages."""

    def __init__(self, member: Checked, *, of: str = "objects") -> None:
        super().__init__()
        self._member = member
        self._of = of

    def check(self, value: Any) -> None:
        if not isinstance(value, list):
            raise wrong_type(f"an array of {self._of}", value)
        for index, inner in enumerate(value):
            try:
                self._member.check(inner)
            except Violation as violation:
                violation.within(index)
                raise


class StringMap(Checked):
    """An object of strings, such as `metadata`."""

    def __init__(self, *, max: int, max_key: int, max_value: int) -> None:
        super().__init__()
        self._max = max
        self._max_key = max_key
        self._value = String(max=max_value)

    def check(self, value: Any) -> None:
        if not isinstance(value, dict):
            raise wrong_type("an object", value)
        if len(value) > self._max:
            raise self._too_many(len(value))
        for key, text in value.items():
            if len(key) > self._max_key:
                raise self._key_too_long(key)
            try:
                self._value.check(text)
            except Violation as violation:
                violation.within(key)
                raise

    def _too_many(self, count: int) -> Violation:
        expected = f"Expected an object with at most {self._max} properties"
        counts = f"{expected}, but got an object with {count} properties instead."
        return Violation(
            "object_above_max_properties", lambda param: f"Invalid '{param}': too many properties. {counts}"
        )

    def _key_too_long(self, key: str) -> Violation:
        sentence = (
            f"is too long. Expected a string with maximum length {self._max_key}, "
            f"but got a string with length {len(key)} instead."
        )
        return Violation(
            "property_name_above_max_length",
            lambda param: f"Invalid property name in '{param}': '{shown(key)}' {sentence}",
        )
