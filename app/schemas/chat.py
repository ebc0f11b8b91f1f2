"""The body of `POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Any

from app.schemas.fields import Anything, Array, Boolean, Object
from app.schemas.passthrough import PassthroughSchema, read_passthrough


def read_chat(body: object) -> dict[str, Any]:
    """The client's body as it came. Raises InvalidRequest."""
    return read_passthrough(body, CHAT)


class ChatSchema(PassthroughSchema):
    messages = Array(Anything(), min=1, required=True)
    stream = Boolean()
    stream_options = Object({"include_usage": Boolean()})


CHAT = ChatSchema()
