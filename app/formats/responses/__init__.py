"""Upstreams of the Responses API itself: their output is relayed under the gateway's response ids and history.

Output events that keep the contract are relayed as bytes, unless items of the gateway precede them; others are
repaired. Lifecycle events are never relayed: the relay writes the head and the end of a stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.contract.channel import Channel
from app.contract.events import CREATED, IN_PROGRESS, terminal
from app.contract.response import in_progress
from app.contract.turn import Turn
from app.formats import _openai
from app.formats._events import Emitter
from app.formats._failures import http_error as decode_error
from app.formats._openai import decode_count
from app.formats._toolbox import Toolbox
from app.formats.responses._answer import decode
from app.formats.responses._request import (
    cache_key,
    encode,
    encode_compaction,
    encode_count,
    instructions_text,
    uncallable,
)
from app.formats.responses._retry_without import amended
from app.formats.responses._stream import FunctionsDecoder, ResponsesDecoder

__all__ = [
    "ResponsesDecoder",
    "amended",
    "cache_key",
    "compaction_path",
    "count_path",
    "decode",
    "decode_count",
    "decode_error",
    "decoder",
    "dropped",
    "encode",
    "encode_compaction",
    "encode_count",
    "headers",
    "instructions_text",
    "path",
    "stream",
]


SENDS_MCP = True


def path(model: str, stream: bool) -> str:
    return "/responses"


def compaction_path(model: str) -> str:
    return "/responses/compact"


def count_path(model: str) -> str:
    return "/responses/input_tokens"


def headers(api_key: str | None) -> Mapping[str, str]:
    return _openai.bearer(api_key)


def dropped(turn: Turn, row: Channel) -> Sequence[str]:
    """MCP servers that it cannot call, and with functions only all other tools: the upstream itself refuses those that
    it cannot run."""
    if row.tools == "functions":
        return Toolbox.of(turn).dropped
    return ("mcp",) if uncallable(turn, row) else ()


def decoder(turn: Turn, sequence: int) -> ResponsesDecoder:
    return FunctionsDecoder(turn, sequence) if turn.functions_only else ResponsesDecoder(turn, sequence)


def stream(answer: Mapping[str, Any]) -> Iterable[bytes]:
    """A whole response object as the event stream of an upstream."""
    emitter = Emitter()
    begun = in_progress(answer)
    yield emitter.event(CREATED, response=begun)
    yield emitter.event(IN_PROGRESS, response=begun)
    for item in answer["output"]:
        yield from emitter.item(item)
    yield emitter.event(terminal(answer["status"]), response=answer)
