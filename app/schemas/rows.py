"""The forms that the rows of the table share: a mapping with fixed keys, and the value of a key."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validates_schema

from app.schemas import table_values

#: How the message about an unknown key begins; it belongs to the key, every other one to the value.
UNKNOWN_KEY = "unknown key"

#: More unknown keys of one mapping than anybody reads.
MAX_UNKNOWN = 200


class Value(fields.Field[Any]):
    """The value of a key, read by a function that raises its error."""

    default_error_messages = {"null": "must have a value"}

    def __init__(self, read: Callable[[Any], Any], **options: Any) -> None:
        super().__init__(**options)
        self.read = read

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return self.read(value)


class Row(Schema):
    """A mapping with fixed keys."""

    error_messages = {"type": "must be a mapping"}

    class Meta:
        unknown = EXCLUDE

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


def keys_of(row: Row) -> frozenset[str]:
    return frozenset(bound.data_key or name for name, bound in row.fields.items())


def shown_key(key: str) -> str:
    """A key as a message may quote it: `{api_key:sk-…}` without its blank makes the secret a part of the key."""
    start = re.split(r"[^A-Za-z0-9_.-]", key[:40], maxsplit=1)[0]
    return start if start == key else f"{start}…"
