"""Parses an upstream's HTTP/1.1 answer, a head and a body in one of three framings, from pieces of any size. It knows
no sockets and no models.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Protocol

MAX_HEAD = 65536
_MAX_LINE = 4096
_MAX_UNZIPPED = 1024 * 1024

_BEGIN = b"HTTP/1."
_STATUS = re.compile(rb"HTTP/1\.([0-9]) +([1-9][0-9]{2})(?: [^\n]*)?\n")
_END = re.compile(rb"\n\r?\n")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: Obsolete line folding, which RFC 9112 still asks a client to accept.
_FOLD = re.compile(r"[ \t]*\n[ \t]+")
#: The end of a chunk and the size line of the next one; extensions are ignored.
_SIZE = re.compile(rb"\r\n([0-9A-Fa-f]{1,15})[ \t]{0,64}(?:;[^\r\n]{0,4000})?\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\r\n\0]*")
_LENGTH = re.compile(r"[0-9]{1,18}")
_WITHOUT_BODY = frozenset({204, 304})
_SWITCHING = 101


@dataclass(frozen=True, slots=True)
class Head:
    status: int
    headers: Mapping[str, str]
    """Names in lower case; the values of a repeated header are joined by commas."""
    persistent: bool
    """Whether the connection can be reused after a body that ends by its own framing."""


class HeadReader:
    """Collects the head of the final answer. Interim answers (100, 103) are skipped."""

    def __init__(self) -> None:
        self._data = b""
        self.begun = False
        """Whether a byte has come, even of an interim answer."""
        self.head: Head | None = None

    def feed(self, data: bytes) -> bytes:
        """The first bytes of the body, once the head is complete. Raises HTTPException."""
        self.begun = True
        seen = max(0, len(self._data) - 3)
        self._data += data
        if not self._data.startswith(_BEGIN[: len(self._data)]):
            raise HTTPException("this is not HTTP")
        while end := _END.search(self._data, seen, MAX_HEAD):
            head, rest = _head(self._data[: end.start() + 1]), self._data[end.end() :]
            if head.status >= 200:
                self.head = head
                return rest
            self._data, seen = rest, 0
        if len(self._data) > MAX_HEAD:
            raise HTTPException("the head is too long")
        return b""


def _head(text: bytes) -> Head:
    text = text.replace(b"\r\n", b"\n")
    if b"\r" in text or b"\0" in text:
        raise HTTPException("the head has a character that no header may have")
    line = _STATUS.match(text)
    if line is None:
        raise HTTPException("the status line is wrong")
    version, status = line[1], int(line[2])
    if status == _SWITCHING:
        raise HTTPException("the server switches to a protocol that the request did not offer")
    headers = _headers(text[line.end() :].decode("latin-1"))
    return Head(status, headers, _persistent(version, headers))


def _headers(text: str) -> dict[str, str]:
    if "\n " in text or "\n\t" in text:
        text = _FOLD.sub(" ", text)
    found: dict[str, str] = {}
    for line in filter(None, text.split("\n")):
        name, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise HTTPException("a header is wrong")
        name = name.lower()
        value = value.strip(" \t")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _persistent(version: bytes, headers: Mapping[str, str]) -> bool:
    """`version`: the digit after `HTTP/1.`"""
    connection = headers.get("connection", "").lower()
    if "transfer-encoding" in headers and ("content-length" in headers or version == b"0"):
        # Two parsers may disagree on the end of the answer.
        return False
    return "keep-alive" in connection if version == b"0" else "close" not in connection


# --- bodies -----------------------------------------------------------------------------------------------------


class Body(Protocol):
    """Takes the bytes after a head, in pieces of any size, and returns the payload without its framing."""

    @property
    def ended(self) -> bool: ...
    @property
    def clean(self) -> bool:
        """Whether the body ended by its framing and no byte came after it."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Raises HTTPException."""
        ...

    def close(self) -> None:
        """Notes that the other side has closed. Raises HTTPException when the body is not complete."""
        ...


def body_of(head: Head) -> Body:
    """Raises HTTPException for a Content-Length that is not a number, and for an unknown transfer coding."""
    if head.status in _WITHOUT_BODY:
        return Sized(0)
    # Some servers repeat the header, each layer of theirs with its own; the body is chunked once.
    codings = {coding.strip().lower() for coding in head.headers.get("transfer-encoding", "identity").split(",")}
    if codings == {"chunked"}:
        return Chunks()
    if codings != {"identity"}:
        raise HTTPException("the body has an unknown transfer coding")
    if "content-length" not in head.headers:
        return Open()
    lengths = {value.strip() for value in head.headers["content-length"].split(",")}
    length = lengths.pop()
    if lengths or not _LENGTH.fullmatch(length):
        raise HTTPException("the length is not a number")
    return Sized(int(length))


class Open:
    """A body that ends with its connection."""

    __slots__ = ("clean", "ended")

    def __init__(self) -> None:
        self.ended = False
        self.clean = False

    def feed(self, data: bytes) -> bytes:
        return data

    def close(self) -> None:
        self.ended = True


class Sized:
    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def ended(self) -> bool:
        return self._left <= 0

    @property
    def clean(self) -> bool:
        return self._left == 0

    def feed(self, data: bytes) -> bytes:
        before = self._left
        self._left -= len(data)
        return data if self._left >= 0 else data[: max(0, before)]

    def close(self) -> None:
        raise HTTPException("the body is shorter than its length")


class Chunks:
    """Removes chunked framing, however the bytes were split."""

    __slots__ = ("_doubtful", "_left", "_trailer", "ended", "rest")

    def __init__(self) -> None:
        self.ended = False
        # Every size line follows the end of a chunk, so that one expression reads both; the first one lacks it.
        self.rest = b"\r\n"
        self._left = 0
        """Bytes of the present chunk that are still to come."""
        self._trailer = False
        self._doubtful = False
        """Whether a line of the trailer is no header. The answer is whole, but another parser may see its end
        elsewhere."""

    @property
    def clean(self) -> bool:
        return self.ended and not self.rest and not self._doubtful

    def close(self) -> None:
        raise HTTPException("the body ended inside a chunk")

    def feed(self, data: bytes) -> bytes:
        if self.rest:
            data = self.rest + data
        at = self._left
        out = [data[:at]] if at else []
        while at < len(data) and not self._trailer:
            line = _SIZE.match(data, at)
            if line is None:
                _check_unended(data, at)
                break
            start, size = line.end(), int(line[1], 16)
            if size:
                out.append(data[start : start + size])
                at = start + size
            else:
                self._trailer, at = True, start
        if self._trailer:
            at = self._skip_trailer(data, at)
        self._left = at - len(data) if at > len(data) else 0
        self.rest = data[at:]
        return out[0] if len(out) == 1 else b"".join(out)

    def _skip_trailer(self, data: bytes, at: int) -> int:
        while not self.ended:
            end = data.find(b"\r\n", at)
            if (len(data) if end < 0 else end) - at > _MAX_LINE:
                raise HTTPException("a trailer is too long")
            if end < 0:
                break
            self.ended = end == at
            self._doubtful = self._doubtful or not (self.ended or _TRAILER.fullmatch(data, at, end))
            at = end + 2
        return at


def _check_unended(data: bytes, at: int) -> None:
    """Raises HTTPException for a size line that is wrong or too long. One whose end is missing may still become
    valid."""
    if data[at : at + 2] not in (b"\r", b"\r\n"):
        raise HTTPException("a chunk is longer than its size")
    if data.find(b"\r\n", at + 2) >= 0:
        raise HTTPException("the size of a chunk is not a number")
    if len(data) - at > _MAX_LINE:
        raise HTTPException("the size line of a chunk has no end")


class Zipped:
    """A compressed body, sent although the request asked for `identity`."""

    def __init__(self) -> None:
        self._zip = zlib.decompressobj(zlib.MAX_WBITS | 32)

    @property
    def pending(self) -> bool:
        """Whether `feed` can return more without new input. The output comes in pieces, because few bytes may unpack to
        many."""
        return bool(self._zip.unconsumed_tail)

    def feed(self, data: bytes) -> bytes:
        try:
            return self._zip.decompress(self._zip.unconsumed_tail + data, _MAX_UNZIPPED)
        except zlib.error as error:
            raise HTTPException("the body cannot be unzipped") from error


def coding_of(head: Head) -> Zipped | None:
    """None for an uncompressed body. Raises HTTPException for an unknown coding."""
    coding = head.headers.get("content-encoding", "identity").strip().lower()
    if coding in ("", "identity"):
        return None
    if coding in ("gzip", "x-gzip", "deflate"):
        return Zipped()
    raise HTTPException("the body has an unknown content coding")
