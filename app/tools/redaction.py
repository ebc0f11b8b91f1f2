"""Removes what only the gateway may know of a tool server from the server's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from urllib.parse import parse_qsl, unquote, urlsplit

from app.contract.tools import ToolServer

#: Headers that hold a key, by a part of their names.
_KEYS = re.compile("auth|key|token|secret|cookie|passw|credential", re.IGNORECASE)
#: Shorter texts are words that any sentence may hold.
_SHORTEST = 6
#: Values of other headers count as keys from this length on.
_LONG = 20
_REDACTED = "***"


def redaction(server: ToolServer) -> Callable[[str], str]:
    """A function that replaces the keys in the server's headers, its URL, and what is secret in its URL."""
    secrets = sorted({secret for secret in _secrets(server) if len(secret) >= _SHORTEST}, key=len, reverse=True)

    def redact(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, _REDACTED)
        return text

    return redact


def _secrets(server: ToolServer) -> Iterator[str]:
    for name, given in server.headers.items():
        value = str(given)
        if len(value) < _LONG and not _KEYS.search(name):
            continue
        yield value
        # Without the scheme, as in "Bearer".
        yield value.partition(" ")[2].strip()
    parts = urlsplit(str(server.url))
    yield str(server.url)
    for part in (parts.query, *(value for _, value in parse_qsl(parts.query))):
        yield part
        yield unquote(part)
