"""Tokens of a response, as OpenAI counts them, and their estimate where an upstream counts none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

#: Of JSON and of text in UTF-8: a rule of thumb for English, too high for most other languages.
_BYTES_A_TOKEN = 4


def estimate(size: int) -> int:
    """Tokens in `size` bytes."""
    return size // _BYTES_A_TOKEN


def estimate_items(items: Sequence[Any]) -> int:
    """Tokens in items, written as JSON."""
    return estimate(len(orjson.dumps(list(items)))) if items else 0
