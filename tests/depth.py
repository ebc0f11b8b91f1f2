"""JSON of a given depth."""

from __future__ import annotations

from typing import Any

import orjson


def nested(levels: int, shape: str = "[") -> Any:
    """A value of so many levels: arrays, objects, or both in turn."""
    return orjson.loads(nested_text(levels, shape))


def nested_text(levels: int, shape: str = "[") -> bytes:
    opening = {"[": [b"["], "{": [b'{"a":'], "mixed": [b"[1,", b'{"b":2,"a":']}[shape]
    closing = {"[": [b"]"], "{": [b"}"], "mixed": [b"]", b"}"]}[shape]
    pairs = [(opening[at % len(opening)], closing[at % len(closing)]) for at in range(levels)]
    return b"".join(opened for opened, _ in pairs) + b"0" + b"".join(closed for _, closed in reversed(pairs))
