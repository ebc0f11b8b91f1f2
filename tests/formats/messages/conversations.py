"""Turns sent to a Messages upstream, and streams read from it."""

from __future__ import annotations

from typing import Any

import orjson

from app.contract.turn import Turn
from app.formats import Decoder, messages
from tests.formats import conversations
from tests.formats.conversations import row


def encoded(request_turn: Turn, **keys: Any) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(messages.encode(request_turn, row(**keys), "claude-x"))
    return body


def read(pieces: list[bytes], request_turn: Turn, sequence: int = 2) -> tuple[bytes, Decoder]:
    return conversations.read("messages", pieces, request_turn, sequence)


def event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def without_marks(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks without cache marks."""
    return [{name: value for name, value in block.items() if name != "cache_control"} for block in blocks]
