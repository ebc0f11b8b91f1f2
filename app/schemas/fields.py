"""Values of a request: marshmallow fields that convert nothing, the errors they raise, and their description as JSON
Schema. Knows no parameter by name and no endpoint."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Callable
from collections.abc import Mapping as AnyMapping
from typing import Any, NoReturn, Self

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


#: A JSON Schema of the dialect of OpenAPI 3.1.
JSONSchema = dict[str, Any]

_NULL: JSONSchema = {"type": "null"}


class Components(dict[str, JSONSchema]):
    """The named schemas of a description."""

    def of(self, field: Checked) -> JSONSchema:
        """The schema of a field, or a reference to it."""
        name = field.component
        if name is None:
            return field.describe(self)
        if name not in self:
            self[name] = {}
            self[name] = field.describe(self)
        return {"$ref": f"#/components/schemas/{name}"}


class Checked(fields.Field[Any]):
    """A field that converts nothing. It nests without schemas: what it finds is a `Violation` until the top knows
    where."""

    component: str | None = None
    """The name under which the description of the API has these values."""

    @abstractmethod
    def check(self, value: Any) -> None: ...

    @property
    def rule(self) -> Callable[[Any], object]:
        """The plain function that checks a value."""
        return self.check

    def named(self, component: str) -> Self:
        self.component = component
        return self

    @abstractmethod
    def describe(self, components: Components) -> JSONSchema:
        """The values that `check` takes, a null of an optional member left aside."""
        ...

    def _deserialize(self, value: Any, attr: str | None, data: AnyMapping[str, Any] | None, **kwargs: Any) -> Any:
        try:
            self.check(value)
        except Violation as violation:
            raise violation.at(attr or "") from None
        return value


def or_null(schema: JSONSchema) -> JSONSchema:
    """The schema of an optional member: null stands for absent."""
    return {"anyOf": [schema, _NULL]} if "type" not in schema else {**schema, **_nullable(schema)}


def _nullable(schema: JSONSchema) -> JSONSchema:
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    with_null = {"type": [*kinds, "null"]}
    return {**with_null, "enum": [*schema["enum"], None]} if "enum" in schema else with_null


class Anything(Checked):
    """Any value."""

    def check(self, value: Any) -> None:
        pass

    def describe(self, components: Components) -> JSONSchema:
        return {}


class CheckedBy(Checked):
    """A field whose rule is a plain function: for unions, and for what the request path must do fast.

    `shape` describes the same values: a field, or several for a union.
    """

    def __init__(self, rule: Callable[[Any], object], *shape: Checked, required: bool = False) -> None:
        super().__init__(required=required)
        self._rule = rule
        self._shape = shape

    @property
    def rule(self) -> Callable[[Any], object]:
        return self._rule

    def check(self, value: Any) -> None:
        self._rule(value)

    def describe(self, components: Components) -> JSONSchema:
        described = [components.of(shape) for shape in self._shape]
        return described[0] if len(described) == 1 else {"anyOf": described}


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

    def describe(self, components: Components) -> JSONSchema:
        limits = {
            "minLength": self._min or None,
            "maxLength": self._max,
            "pattern": self._pattern and f"^{self._pattern.pattern}$",
        }
        return {"type": "string", **_given(limits)}

    def _refuse_pattern(self, pattern: str) -> NoReturn:
        expected = f"Expected a string that matches the pattern '^{pattern}$'."
        raise Violation("invalid_value", lambda param: f"Invalid '{param}': string does not match pattern. {expected}")


def _given(limits: JSONSchema) -> JSONSchema:
    return {name: limit for name, limit in limits.items() if limit is not None}


class Boolean(Checked):
    def check(self, value: Any) -> None:
        if not isinstance(value, bool):
            raise wrong_type("a boolean", value)

    def describe(self, components: Components) -> JSONSchema:
        return {"type": "boolean"}


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

    def describe(self, components: Components) -> JSONSchema:
        return {"type": "integer", **_given({"minimum": self._min, "maximum": self._max})}


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

    def describe(self, components: Components) -> JSONSchema:
        return {"type": "number", "minimum": self._min, "maximum": self._max}


class OneOf(Checked):
    def __init__(self, *values: str) -> None:
        super().__init__()
        self._values = values

    def check(self, value: Any) -> None:
        if not isinstance(value, str):
            raise wrong_type(f"one of {_listed(self._values, 'or')}", value)
        if value not in self._values:
            raise unsupported_value(value, self._values)

    def describe(self, components: Components) -> JSONSchema:
        return {"type": "string", "enum": list(self._values)}


class Other(Checked):
    """A string that is none of these: the type of what the gateway does not know and passes on."""

    def __init__(self, *known: str) -> None:
        super().__init__()
        self._known = frozenset(known)

    def check(self, value: Any) -> None:
        if not isinstance(value, str):
            raise wrong_type("a string", value)

    def describe(self, components: Components) -> JSONSchema:
        return {"type": "string", "not": {"enum": sorted(self._known)}}


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

    def describe(self, components: Components) -> JSONSchema:
        described = {
            name: components.of(member) if name in self._needs else or_null(components.of(member))
            for name, member in self._members.items()
        }
        more: JSONSchema = {"properties": described} if described else {}
        return {"type": "object", **more, **({"required": list(self._needs)} if self._needs else {})}


class Either(Checked):
    """A value of one of several JSON types, each with a field of its own. `expected` names them in messages."""

    def __init__(self, expected: str, members: AnyMapping[type, Checked]) -> None:
        super().__init__()
        self._expected = expected
        self._members = members

    def check(self, value: Any) -> None:
        member = self._members.get(type(value))
        if member is None:
            raise wrong_type(self._expected, value)
        member.check(value)

    def describe(self, components: Components) -> JSONSchema:
        return {"anyOf": [components.of(member) for member in self._members.values()]}


class Array(Checked):
    """An array; `of` names its elements in messages."""

    def __init__(
        self, member: Checked, *, of: str = "objects", min: int = 0, max: int | None = None, required: bool = False
    ) -> None:
        super().__init__(required=required)
        self._member = member
        self._of = of
        self._min = min
        self._max = max

    def check(self, value: Any) -> None:
        if not isinstance(value, list):
            raise wrong_type(f"an array of {self._of}", value)
        if len(value) < self._min:
            raise empty("array")
        if self._max is not None and len(value) > self._max:
            raise array_too_long(value, self._max)
        for index, inner in enumerate(value):
            try:
                self._member.check(inner)
            except Violation as violation:
                violation.within(index)
                raise

    def describe(self, components: Components) -> JSONSchema:
        limits = {"minItems": self._min or None, "maxItems": self._max}
        return {"type": "array", "items": components.of(self._member), **_given(limits)}


class Typed(Checked):
    """An object with a type, checked as the table says for that type. An unknown type passes."""

    def __init__(
        self, types: AnyMapping[str, Checked], suffix: str, *, implied: tuple[str, ...] = (), **members: Checked
    ) -> None:
        """`suffix`: of the names that the types have as components. `implied`: types that need not be named.
        `members`: optional ones of every type, which the caller checks."""
        super().__init__()
        self._types = types
        self._rules = {kind: shape.rule for kind, shape in types.items()}
        self._suffix = suffix
        self._implied = implied
        self._members = members

    def check(self, value: Any) -> None:
        check_typed(value, self._rules)

    def describe(self, components: Components) -> JSONSchema:
        other = Object({"type": Other(*self._types), **self._members}, needs=("type",)).named(f"Other{self._suffix}")
        known = [self._described(kind, components) for kind in self._types]
        return {"anyOf": [*known, components.of(other)]}

    def _described(self, kind: str, components: Components) -> JSONSchema:
        name = "".join(word.capitalize() for word in kind.split("_")) + self._suffix
        if name not in components:
            components[name] = {}
            shape = self._types[kind].describe(components)
            needs = shape.get("required", [])
            implied = kind in self._implied
            members = {name: or_null(components.of(member)) for name, member in self._members.items()}
            named = {"enum": [kind, None]} if implied else {"const": kind}
            components[name] = {
                **shape,
                "type": "object",
                "properties": {"type": named, **members, **shape.get("properties", {})},
                "required": needs if implied else ["type", *needs],
            }
        return {"$ref": f"#/components/schemas/{name}"}


def check_typed(value: object, rules: AnyMapping[str, Callable[[Any], object]]) -> None:
    """An object with a type, checked by the rule of that type; an unknown type passes."""
    if not isinstance(value, dict):
        raise wrong_type("an object", value)
    kind = value.get("type")
    if not isinstance(kind, str):
        raise absent_or_wrong(value, "type", "a string")
    rule = rules.get(kind)
    if rule is not None:
        rule(value)


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

    def describe(self, components: Components) -> JSONSchema:
        return {
            "type": "object",
            "maxProperties": self._max,
            "propertyNames": {"maxLength": self._max_key},
            "additionalProperties": components.of(self._value),
        }

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
