"""Turns sent to chat completions, and streams read from it."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import orjson

from app.contract.turn import Turn
from app.formats import Decoder, chat_completions
from tests.formats import conversations
from tests.formats.conversations import row


def encoded(request_turn: Turn, **keys: Any) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(chat_completions.encode(request_turn, row(**keys), "up"))
    return body


def read(pieces: list[bytes], request_turn: Turn, sequence: int = 2) -> tuple[bytes, Decoder]:
    return conversations.read("chat_completions", pieces, request_turn, sequence)


def results_after(messages: list[dict[str, Any]], position: int) -> list[str]:
    following = takewhile(lambda message: message["role"] == "tool", messages[position + 1 :])
    return [message["tool_call_id"] for message in following]
