"""Lone surrogates, which JSON can spell and UTF-8 cannot encode. Model servers send them when they cut a text inside a
character: `Joiner` puts the halves together again over the events of a stream, and U+FFFD replaces all others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

#: An escape of JSON: a whole pair, or half of one (the only group), or any other.
_ESCAPES = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_ANY = re.compile(rb"\\u[dD]")
_CHARACTERS = re.compile("[\ud800-\udfff]")
#: A lone surrogate as three bytes, as some servers write it.
_BYTES = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
#: A string of JSON, and the colon that shows that it names a member.
_STRING = re.compile(rb'"((?:[^"\\]|\\.)*)"(\s*:)?', re.DOTALL)
_FIRST_HALF = re.compile(rb"[dD][89abAB]")
_REPLACEMENT = rb"\ufffd"


def replace_escapes(json: bytes) -> bytes:
    """The JSON without escapes of lone surrogates; the same object if it has none."""
    # Most blocks of a stream have no escape at all, and one byte is found much faster than three.
    if b"\\" not in json or _ANY.search(json) is None:
        return json
    return _ESCAPES.sub(lambda escape: _REPLACEMENT if escape[1] else escape[0], json)


def as_escapes(json: bytes) -> bytes:
    """The JSON with escapes in place of the bytes of lone surrogates; the same object if it has none."""
    return _BYTES.sub(_as_escape, json) if b"\xed" in json else json


def replace_characters(text: str) -> str:
    return _CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", text)


class Joiner:
    """Joins halves of characters over the events of one stream.

    A half at the end of a text waits for the next text of the same member: its first character completes it, or U+FFFD
    replaces the half. Only texts of deltas wait. A whole text just loses a half at its end, as its deltas did.
    """

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: dict[bytes, bytes] = {}
        """Escapes of first halves, by the member whose text they ended."""

    def join(self, block: bytes) -> bytes:
        """Whole events with their halves joined or replaced; the same object if they hold none."""
        if not self.waiting and not _may_have_halves(block):
            return block
        block = as_escapes(block)
        return b"\n\n".join(map(self._join_event, block.split(b"\n\n")))

    def _join_event(self, event: bytes) -> bytes:
        if not self.waiting and not _has_halves(event):
            return event
        return b"".join(self._strings(event, b'"delta"' in event or b'"choices"' in event))

    def _strings(self, event: bytes, grows: bool) -> Iterator[bytes]:
        member, at = b"", 0
        for string in _STRING.finditer(event):
            yield event[at : string.start(1)]
            at = string.end(1)
            if string[2]:
                member = string[1]
                yield replace_escapes(string[1])
            elif grows:
                yield self._grown(member, string[1])
            else:
                yield replace_escapes(_without_half(string[1])[0])
        yield event[at:]

    def _grown(self, member: bytes, text: bytes) -> bytes:
        """The text of a delta, with the half that waited for it and without the half that will wait."""
        if not text:
            return text
        first = self.waiting.pop(member, b"")
        text, half = _without_half(text)
        if half:
            self.waiting[member] = half
        return replace_escapes(first + text)


def _may_have_halves(json: bytes) -> bool:
    # Most blocks have neither byte, and one byte is found much faster than several.
    return (b"\\" in json and _ANY.search(json) is not None) or (b"\xed" in json and _BYTES.search(json) is not None)


def _has_halves(json: bytes) -> bool:
    if b"\\" not in json or _ANY.search(json) is None:
        return False
    return any(escape[1] for escape in _ESCAPES.finditer(json))


def _without_half(text: bytes) -> tuple[bytes, bytes]:
    """The text and the first half of a character at its end, each as JSON spells it."""
    last = next(reversed([*_ESCAPES.finditer(text)]), None)
    if last is None or last.end() < len(text) or not last[1] or not _FIRST_HALF.match(last[1], 1):
        return text, b""
    return text[: last.start()], last[0]


def _as_escape(surrogate: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(surrogate[0].decode("utf-8", "surrogatepass"))
