"""The body of a request to an endpoint of passthrough: only members that the gateway itself needs are checked."""

from __future__ import annotations

from typing import Any

from marshmallow import INCLUDE, Schema, ValidationError

from app.errors import missing_parameter
from app.schemas.fields import String, not_an_object


class PassthroughSchema(Schema):
    """Members in the order in which their errors are reported."""

    class Meta:
        unknown = INCLUDE

    model = String(min=1, required=True)


def read_passthrough(body: object, schema: PassthroughSchema) -> dict[str, Any]:
    """The client's body as it came, nulls and unknown keys included. A null counts as absent. Raises InvalidRequest."""
    if not isinstance(body, dict):
        raise not_an_object(body)
    try:
        schema.load({name: value for name, value in body.items() if value is not None})
    except ValidationError as error:
        raise missing_parameter(next(iter(error.messages_dict))) from None
    return body
