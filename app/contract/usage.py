"""Tokens of a response, as OpenAI counts them, and their estimate where an upstream counts none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one response as OpenAI counts them; `estimated` when the upstream gave none."""

    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.estimated or other.estimated,
        )

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def wire(self) -> dict[str, Any]:
        """The contract's `usage` object, every field present."""
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {
                "cached_tokens": self.cached_tokens,
                "cache_write_tokens": self.cache_write_tokens,
            },
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.total_tokens,
        }


#: Of JSON and of text in UTF-8: a rule of thumb for English, too high for most other languages.
_BYTES_A_TOKEN = 4


def estimate(size: int) -> int:
    """Tokens in `size` bytes."""
    return size // _BYTES_A_TOKEN


def estimate_items(items: Sequence[Any]) -> int:
    """Tokens in items, written as JSON."""
    return estimate(len(orjson.dumps(list(items)))) if items else 0
