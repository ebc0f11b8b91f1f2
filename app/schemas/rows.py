"""The forms that the rows of the table share: a mapping with fixed keys, and the value of a key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validates_schema

from app.schemas import table_values
from app.schemas.readers import JSONSchema, Reader, a_list, a_mapping, or_null

#: How the message about an unknown key begins; it belongs to the key, every other one to the value.
UNKNOWN_KEY = "unknown key"

#: More unknown keys of one mapping than anybody reads.
MAX_UNKNOWN = 200


class Value(fields.Field[Any]):
    """The value of a key, taken by a reader that raises its error."""

    default_error_messages = {"null": "must have a value"}

    def __init__(self, read: Reader[[Any], Any], **options: Any) -> None:
        super().__init__(**options)
        self.read = read

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return self.read(value)


class Row(Schema):
    """A mapping with fixed keys."""

    error_messages = {"type": "must be a mapping"}

    between: ClassVar[Sequence[JSONSchema]] = ()
    """What holds between the keys, as `violations` checks it."""

    class Meta:
        unknown = EXCLUDE

    @classmethod
    def reader(cls) -> Reader[[Any], Any]:
        return Reader(cls().load, cls.described())

    @classmethod
    def described(cls) -> JSONSchema:
        """The JSON Schema of the mappings that are read without an error."""
        bound = {field.data_key or name: field for name, field in cls().fields.items()}
        required = [name for name, field in bound.items() if field.required]
        return a_mapping({name: _described(field) for name, field in bound.items()}, required, cls.between)

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        field_obj.error_messages["required"] = f"missing key '{field_name}'"

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _as_a_whole(self, data: Any, original: Any, **kwargs: Any) -> None:
        if isinstance(original, dict) and (wrong := self._unknown(original) | self.violations(data, original)):
            raise ValidationError({key: [message] for key, message in wrong.items()})

    def _unknown(self, original: dict[str, Any]) -> dict[str, str]:
        known = keys_of(self)
        unknown = [key for key in original if key not in known][:MAX_UNKNOWN]
        return {key: f"{UNKNOWN_KEY} '{shown_key(key)}'{table_values.suggestion(key, known)}" for key in unknown}

    def violations(self, data: Any, original: dict[str, Any]) -> dict[str, str]:
        """Errors between keys, each under the key that it names."""
        return {}


def _described(field: fields.Field[Any]) -> JSONSchema:
    if isinstance(field, fields.List):
        return a_list(_described(field.inner))
    if isinstance(field, fields.Nested):
        return field.nested.described()  # type: ignore[union-attr,no-any-return]
    assert isinstance(field, Value)
    return or_null(field.read.schema) if field.allow_none else field.read.schema


def keys_of(row: Row) -> frozenset[str]:
    return frozenset(bound.data_key or name for name, bound in row.fields.items())


def shown_key(key: str) -> str:
    """A key as a message may quote it: `{api_key:sk-…}` without its blank makes the secret a part of the key."""
    start = re.split(r"[^A-Za-z0-9_.-]", key[:40], maxsplit=1)[0]
    return start if start == key else f"{start}…"
