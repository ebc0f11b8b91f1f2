"""Upstreams of the chat completions API: translates between their messages and the contract's items.

The request leaves out what a chat cannot express; `dropped` lists the tools among it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.contract.channel import Channel
from app.contract.turn import Turn
from app.errors import ContextTooLong, UpstreamError
from app.formats import _openai
from app.formats._context import shortened, wants_truncation
from app.formats._failures import http_error as decode_error
from app.formats._toolbox import Toolbox
from app.formats.chat_completions import passthrough
from app.formats.chat_completions._answer import ChatDecoder, decode
from app.formats.chat_completions._request import cache_key, encode

__all__ = ["amended", "cache_key", "decode", "decode_error", "decoder", "dropped", "encode", "headers", "path"]


def path(model: str, stream: bool) -> str:
    return passthrough.PATH


def decoder(turn: Turn, sequence: int) -> ChatDecoder:
    return ChatDecoder(turn, sequence)


def headers(api_key: str | None) -> Mapping[str, str]:
    return _openai.bearer(api_key)


def dropped(turn: Turn, row: Channel) -> Sequence[str]:
    return Toolbox.of(turn).dropped


def amended(turn: Turn, row: Channel, error: UpstreamError) -> Turn | None:
    """A shorter turn if the context was too long and the client allows truncation."""
    too_long = isinstance(error, ContextTooLong)
    return shortened(turn) if too_long and wants_truncation(turn.request) else None
