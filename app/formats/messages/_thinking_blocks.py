"""Thinking blocks inside the `encrypted_content` of a reasoning item: whole, as the API refuses changed ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from app.formats._ids import MESSAGES_SECRET as PREFIX

#: The members that have to come back unchanged, by the type of the block.
_MEMBERS = {"thinking": ("thinking", "signature"), "redacted_thinking": ("data",)}


def sealed(block: Mapping[str, Any], model: str) -> str:
    """The block and the model that wrote it, encoded."""
    members = {name: block[name] for name in ("type", *_MEMBERS[block["type"]])}
    return PREFIX + orjson.dumps({"model": model, "block": members}).decode()


def opened(secret: object, model: str) -> dict[str, Any] | None:
    """The block if this model wrote it; None for the content of other models and formats."""
    if not isinstance(secret, str) or not secret.startswith(PREFIX):
        return None
    try:
        members = orjson.loads(secret.removeprefix(PREFIX))
    except ValueError:
        return None
    if not isinstance(members, dict) or members.get("model") != model:
        return None
    block = members.get("block")
    is_whole = isinstance(block, dict) and block.keys() == {"type", *_MEMBERS.get(str(block.get("type")), ())}
    return block if is_whole else None
