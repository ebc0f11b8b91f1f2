"""Reads JSON that is not strict: what servers write whose own parsers are looser than the standard."""

from __future__ import annotations

import codecs
import json
from typing import Any

from app import lone_surrogates

_MAX_DIGITS = 18


def loads(data: bytes) -> Any:
    """The value of JSON that may begin with a byte order mark, and may hold NaN and Infinity (read as null), control
    characters in strings, and lone surrogates (replaced by U+FFFD). Raises ValueError.
    """
    plain = lone_surrogates.replace_escapes(lone_surrogates.as_escapes(data.removeprefix(codecs.BOM_UTF8)))
    try:
        return json.loads(plain.decode(), strict=False, parse_constant=lambda _: None, parse_int=_number)
    except RecursionError:
        raise ValueError("nested too deep to be read") from None


def _number(digits: str) -> int | float:
    """Longer integers could not be written again."""
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)
