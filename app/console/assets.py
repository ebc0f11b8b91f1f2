"""The files of the console: read once, and named by their content, so that browsers may keep them."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

_STATIC = files("app.console") / "static"

#: The types of the files, by their endings.
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@cache
def names() -> frozenset[str]:
    return frozenset(file.name for file in _STATIC.iterdir() if file.name.endswith(tuple(TYPES)))


@cache
def content(name: str) -> bytes:
    return (_STATIC / name).read_bytes()


@cache
def url_of(name: str) -> str:
    """The URL of a file of `static/`."""
    return f"/console/static/{name}?v={hashlib.sha256(content(name)).hexdigest()[:12]}"
