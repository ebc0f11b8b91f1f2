"""Upstreams of Anthropic's Messages API: translates between their content blocks and the contract's items.

Their models accept different settings. A retry leaves out the setting that a refusal names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.contract.channel import Channel
from app.contract.token_estimate import AREA
from app.contract.turn import Turn
from app.formats._openai import decode_count
from app.formats._toolbox import Toolbox
from app.formats.messages._answer import MessagesDecoder, decode
from app.formats.messages._errors import decode_error
from app.formats.messages._request import encode, encode_count
from app.formats.messages._retry_without import amended

__all__ = [
    "IMAGES",
    "amended",
    "count_path",
    "decode",
    "decode_count",
    "decode_error",
    "decoder",
    "dropped",
    "encode",
    "encode_count",
    "headers",
    "list_path",
    "path",
]

IMAGES = AREA

_VERSION = {"anthropic-version": "2023-06-01"}


def path(model: str, stream: bool) -> str:
    return "/messages"


def count_path(model: str) -> str:
    return "/messages/count_tokens"


def list_path() -> str:
    """Without a limit the list ends after twenty models."""
    return "/models?limit=1000"


def decoder(turn: Turn, sequence: int) -> MessagesDecoder:
    return MessagesDecoder(turn, sequence)


def headers(api_key: str | None) -> Mapping[str, str]:
    return {"x-api-key": api_key, **_VERSION} if api_key else _VERSION


def dropped(turn: Turn, row: Channel) -> Sequence[str]:
    return Toolbox.of(turn).dropped
