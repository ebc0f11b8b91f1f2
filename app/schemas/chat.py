"""The body of `POST /v1/chat/completions`: only members that the gateway itself needs are checked."""

from __future__ import annotations

from typing import Any

from marshmallow import INCLUDE, Schema, ValidationError

from app.errors import missing_parameter
from app.schemas.fields import Boolean, CheckedBy, Object, String, empty, not_an_object, wrong_type


def read_chat(body: object) -> dict[str, Any]:
    """The client's body as it came, nulls and unknown keys included; or `InvalidRequest`."""
    if not isinstance(body, dict):
        raise not_an_object(body)
    members = {name: value for name, value in body.items() if value is not None}
    try:
        CHAT.load(members)
    except ValidationError as error:
        raise missing_parameter(next(iter(error.messages_dict))) from None
    if "messages" not in members:
        raise missing_parameter("messages")
    return body


def _check_messages(value: Any) -> None:
    if not isinstance(value, list):
        raise wrong_type("an array of objects", value)
    if not value:
        raise empty("array")


class ChatSchema(Schema):
    """Members in the order in which their errors are reported."""

    class Meta:
        unknown = INCLUDE

    model = String(min=1, required=True)
    messages = CheckedBy(_check_messages)
    stream = Boolean()
    stream_options = Object({"include_usage": Boolean()})


CHAT = ChatSchema()
