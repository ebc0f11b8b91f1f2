"""Replaces lone surrogates, which JSON can spell and UTF-8 cannot encode, with U+FFFD. Model servers send them when
they cut a text inside a character.
"""

from __future__ import annotations

import re

#: An escape of JSON: a whole pair, or half of one (the only group), or any other.
_ESCAPES = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_ANY = re.compile(rb"\\u[dD]")
_CHARACTERS = re.compile("[\ud800-\udfff]")


def replace_escapes(json: bytes) -> bytes:
    """The JSON without escapes of lone surrogates; the same object if it has none."""
    # Most blocks of a stream have no escape at all, and one byte is found much faster than three.
    if b"\\" not in json or _ANY.search(json) is None:
        return json
    return _ESCAPES.sub(lambda escape: rb"\ufffd" if escape[1] else escape[0], json)


def replace_characters(text: str) -> str:
    return _CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", text)
