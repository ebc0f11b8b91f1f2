"""Readers of the channel table's values: functions that also say as JSON Schema what they read.

The schema is for editors. It describes the values as YAML 1.2 has them, and takes a reference to a variable in place of
any single value. It knows no rule between two rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar

#: A JSON Schema of draft 7, which every editor knows.
JSONSchema = dict[str, Any]

P = ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)

DEFINITIONS = "#/definitions/"
#: `${NAME}`, `${NAME:-default}`, alone or within other text.
REFERENCE: JSONSchema = {"type": "string", "pattern": r"(?:^|[^$])\$\{[A-Za-z_][A-Za-z0-9_]*(?::-[^{}]*)?\}"}

#: YAML makes numbers and booleans of some texts without quotes.
_TEXT = ["string", "number", "boolean"]


class Reader(Generic[P, T_co]):
    """Reads a value as it was written, or raises ValidationError."""

    def __init__(self, read: Callable[P, T_co], schema: JSONSchema, names: JSONSchema | None = None) -> None:
        """`schema`: of the values. `names`: of the keys under which they stand, if the operator chooses those."""
        self.schema = schema
        self.names = names
        self._read = read

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        return self._read(*args, **kwargs)


def reads(schema: JSONSchema, names: JSONSchema | None = None) -> Callable[[Callable[P, T_co]], Reader[P, T_co]]:
    """Makes a reader of a function."""
    return lambda read: Reader(read, schema, names)


# --- schemas ----------------------------------------------------------------------------------------------------


def either(*schemas: JSONSchema) -> JSONSchema:
    """The values of any of them."""
    alternatives: list[JSONSchema] = []
    for schema in schemas:
        nested = schema["anyOf"] if set(schema) == {"anyOf"} else [schema]
        alternatives += [one for one in nested if one not in alternatives]
    return {"anyOf": alternatives}


def single(*schemas: JSONSchema) -> JSONSchema:
    """A single value: one of these, or a reference to a variable."""
    return either(*schemas, {"$ref": f"{DEFINITIONS}reference"})


def a_text(pattern: str | None = None, **more: Any) -> JSONSchema:
    """A text that is not empty; `pattern` matches all of it."""
    return {"type": _TEXT, "minLength": 1, **({} if pattern is None else {"pattern": f"^(?:{pattern})$"}), **more}


def a_string(pattern: str) -> JSONSchema:
    """A text that looks like no number; `pattern` matches all of it."""
    return {"type": "string", "pattern": f"^(?:{pattern})$"}


def a_list(items: JSONSchema, **more: Any) -> JSONSchema:
    return {"type": "array", "items": items, **more}


def or_null(schema: JSONSchema) -> JSONSchema:
    return either(schema, {"type": "null"})


def a_mapping(
    properties: Mapping[str, JSONSchema], required: Iterable[str] = (), rules: Iterable[JSONSchema] = ()
) -> JSONSchema:
    """A mapping with these keys and no others. `rules`: further schemas that it fits, for what holds between keys."""
    rest = {"required": sorted(required), "allOf": list(rules)}
    return {
        "type": "object",
        "properties": dict(properties),
        "additionalProperties": False,
        **{name: value for name, value in rest.items() if value},
    }


def caseless(word: str) -> str:
    """A pattern for a word in any case."""
    return "".join(f"[{letter.upper()}{letter.lower()}]" if letter.isalpha() else letter for letter in word)
