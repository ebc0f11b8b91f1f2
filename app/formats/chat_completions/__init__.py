"""Upstreams that speak chat completions: the bridge between their messages and the contract's items, both ways.

What a chat cannot carry is left out of the request; `dropped` names the tools this happens to.
"""

from __future__ import annotations

from app.formats.chat_completions._answer import ChatDecoder, decode
from app.formats.chat_completions._context import shortened
from app.formats.chat_completions._errors import http_error as decode_error
from app.formats.chat_completions._request import encode
from app.formats.chat_completions._tools import Toolbox
from app.turn import Row, Turn

__all__ = ["PATH", "decode", "decode_error", "decoder", "dropped", "encode", "shortened"]

PATH = "/chat/completions"


def decoder(turn: Turn, sequence: int) -> ChatDecoder:
    return ChatDecoder(turn, sequence)


def dropped(turn: Turn, row: Row) -> list[str]:
    """The types of the tools that `encode` leaves out for this row, fit for a header."""
    return Toolbox.of(turn).dropped
