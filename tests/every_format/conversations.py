"""Words that the tests of every format share: tools, items, and short ways to read a response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.endpoints.vocabulary import PIXEL, WEATHER, answered, calls_of, message_item, text_of

__all__ = ["CLOSED", "CUSTOM", "IMAGE", "PIXEL", "SKY", "WEATHER", "answered", "called", "calls_of", "essence"]
__all__ += ["form", "message_item", "refused", "text_of", "tool"]

JSON = dict[str, Any]
CUSTOM: JSON = {"type": "custom", "name": "run", "description": "Runs a script."}
SKY: JSON = {"type": "namespace", "name": "sky", "description": "All about the sky.", "tools": [WEATHER]}
CLOSED: JSON = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "array", "items": {"type": "integer"}}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
IMAGE: JSON = {"type": "input_image", "image_url": PIXEL, "detail": "auto"}
#: What differs between two answers that say the same.
PERSONAL = {"id", "call_id", "encrypted_content"}


def form(schema: JSON) -> JSON:
    """`text` with this schema."""
    return {"format": {"type": "json_schema", "name": "s", "schema": schema, "strict": True}}


def tool(name: str = "get_weather", **properties: Any) -> JSON:
    """A function whose arguments are these constants: the scripted model fills them in as they are."""
    fixed = {key: {"type": "string", "const": value} for key, value in properties.items()}
    parameters = {"type": "object", "properties": fixed, "required": list(fixed), "additionalProperties": False}
    return {"type": "function", "name": name, "parameters": parameters}


def called(call_id: str, name: str = "get_weather", arguments: str = '{"city":"Oslo"}', **keys: Any) -> JSON:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, **keys}


def essence(response: Mapping[str, Any]) -> JSON:
    """What a response says, without what makes it this one."""
    output = [{key: value for key, value in item.items() if key not in PERSONAL} for item in response["output"]]
    return {"output": output, **{key: response[key] for key in ("status", "incomplete_details", "usage", "model")}}


def refused(response: Mapping[str, Any]) -> str:
    """The words of a refusal, which a response is that refuses."""
    (message,) = [item for item in response["output"] if item["type"] == "message"]
    (part,) = message["content"]
    assert part["type"] == "refusal"
    return str(part["refusal"])
