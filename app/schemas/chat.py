"""The body of `POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Any

from app.schemas.fields import Boolean, CheckedBy, Object, empty, wrong_type
from app.schemas.passthrough import PassthroughSchema, read_passthrough


def read_chat(body: object) -> dict[str, Any]:
    """The client's body as it came. Raises InvalidRequest."""
    return read_passthrough(body, CHAT)


def _check_messages(value: Any) -> None:
    if not isinstance(value, list):
        raise wrong_type("an array of objects", value)
    if not value:
        raise empty("array")


class ChatSchema(PassthroughSchema):
    messages = CheckedBy(_check_messages, required=True)
    stream = Boolean()
    stream_options = Object({"include_usage": Boolean()})


CHAT = ChatSchema()
