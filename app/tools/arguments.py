"""The arguments of a call, as a model writes them."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def parsed(text: str) -> dict[str, Any] | None:
    """The object that a model has written as text; None if it is none. Nothing at all means no arguments."""
    if not text.strip():
        return {}
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
