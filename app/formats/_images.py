"""The type of an image, by its first bytes: some upstreams refuse an image whose label says something else."""

from __future__ import annotations

import base64
import binascii
import re

#: Base64 characters that hold the longest signature, a multiple of four.
_BEGINNING = 24
_SIGNATURES = (
    (re.compile(rb"\x89PNG"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
)
_DATA_URL = re.compile(r"data:([^;,]*)((?:;[^;,]*)*;base64),", re.IGNORECASE)


def true_type(label: str, data: str) -> str:
    """The media type that base64 data really has; the label if the data does not show it."""
    try:
        start = base64.b64decode(data[:_BEGINNING], validate=True)
    except (binascii.Error, ValueError):
        return label
    return next((kind for signature, kind in _SIGNATURES if signature.match(start)), label)


def relabelled(url: str) -> str:
    """A data URL with the type that its image really has. Any other URL stays."""
    match = _DATA_URL.match(url)
    if match is None:
        return url
    kind = true_type(match[1], url[match.end() : match.end() + _BEGINNING])
    return url if kind == match[1] else f"data:{kind}{match[2]},{url[match.end() :]}"
