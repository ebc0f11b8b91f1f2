"""The fillers of an order in which user and assistant alternate, and how two contents become one."""

from __future__ import annotations

from typing import Any

#: What the user says where the model has to answer and the user said nothing. It stands there in later turns as well:
#: the provider then has the beginning of the prompt in its cache.
GO_ON = "[Please go on.]"
#: What the assistant says between the results of its calls and the next words of the user.
NOTED = "OK."


def merged(first: Any, second: Any, text_type: str) -> Any:
    """Two contents as one: text while both are text, else parts, in which text has the type `text_type`."""
    if not first or not second:
        return first or second
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    return [part for content in (first, second) for part in _parts(content, text_type)]


def _parts(content: Any, text_type: str) -> list[Any]:
    return [{"type": text_type, "text": content}] if isinstance(content, str) else list(content)
