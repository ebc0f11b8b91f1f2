"""The body of an HTTP request: read into one buffer, with a deadline and a memory budget. Large bodies are parsed one
at a time.

Behind a proxy that buffers request bodies, a body arrives at once and the deadlines do not matter.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from time import monotonic
from typing import Any, Protocol

from gunicorn.http.errors import ParseException

from app import nesting
from app.errors import InvalidRequest, Overloaded, PayloadTooLarge, RequestTimeout
from app.memory import MIB, Share

#: Bytes from which a body counts against the budget.
COUNTED = 4 * 1024
#: Bytes from which bodies are parsed one after the other.
LARGE = MIB
_PIECE = 256 * 1024

#: Longest timeout in seconds for an upload that brings no byte.
SILENCE = 30.0
#: Least bytes a second of an upload that lasts longer than that.
SLOWEST = 64 * 1024
#: Timeouts in seconds for discarding an unread body: in all, and without a byte.
_DISCARDING, _DISCARDED_SILENCE = 10.0, 5.0
#: Seconds for which a large body may wait for the bodies before it.
_TURN = 10.0

#: Bytes that orjson and Python need for an object, an array and one more value, beside the text itself; measured.
_OBJECT, _ARRAY, _VALUE = 230, 72, 64
#: Copies of a string's bytes during the parse: the parser's and the result.
_COPIES = 2
#: The text outside of strings, then the next string.
_OUTSIDE = re.compile(rb'([^"]*)(?:"[^"\\]*(?:\\.[^"\\]*)*")?', re.DOTALL)


class Input(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Uploads:
    """The uploads in progress. A silent one ends by its socket's timeout; `look`, called regularly, ends slow ones."""

    def __init__(self) -> None:
        self._running: dict[int, _Upload] = {}
        self._lock = threading.Lock()

    @contextmanager
    def watch(self, environ: Mapping[str, Any], silence: float, until: float | None = None) -> Iterator[_Upload]:
        """Watches an upload while its body is read. `until`: the monotonic time at which it ends in any case."""
        sock = environ.get("gunicorn.socket")
        if sock is None or not environ.get("SERVER_PROTOCOL", "").startswith("HTTP/1."):
            # A multiplexed connection: only the server can read it.
            yield _Upload(None, silence, until)
            return
        upload = _Upload(sock, silence, until)
        sock.settimeout(silence)
        with self._lock:
            self._running[id(upload)] = upload
        try:
            yield upload
        finally:
            with self._lock:
                del self._running[id(upload)]
            with suppress(OSError):
                sock.settimeout(None)

    def look(self) -> None:
        now = monotonic()
        with self._lock:
            for upload in self._running.values():
                if upload.is_late(now):
                    upload.end()


class _Upload:
    __slots__ = ("_began", "_silence", "_sock", "_until", "ended", "received")

    def __init__(self, sock: Any, silence: float, until: float | None) -> None:
        self._sock = sock
        self._began = monotonic()
        self._silence = silence
        self._until = until
        self.received = 0
        self.ended = False

    def is_late(self, now: float) -> bool:
        if self._until is not None:
            return now >= self._until
        return is_too_slow(self.received, now - self._began - self._silence)

    def end(self) -> None:
        """Shuts down reading: the reader gets an end of the body, and an answer can still be sent."""
        self.ended = True
        with suppress(OSError), socket.socket(fileno=os.dup(self._sock.fileno())) as plain:
            plain.shutdown(socket.SHUT_RD)


def is_too_slow(received: int, seconds: float) -> bool:
    """Whether `received` bytes are too few for so many seconds, counted after the allowed silence."""
    return received < seconds * SLOWEST - _PIECE


class Bodies:
    """Reads and parses the bodies of one process."""

    def __init__(self, longest: int, silence: float) -> None:
        """`longest`: bytes of a body. `silence`: seconds without a byte that an upload may take, at most `SILENCE`."""
        self._longest = longest
        self._silence = min(SILENCE, silence)
        self.uploads = Uploads()
        self._turn = threading.Lock()

    def read(self, environ: Mapping[str, Any], share: Share) -> bytearray:
        """The whole body. Raises PayloadTooLarge, Overloaded, RequestTimeout, and InvalidRequest for half a body or
        wrong chunks."""
        length = length_of(environ)
        if length is None:
            return self._read_chunks(environ, share) if is_chunked(environ) else bytearray()
        if length > self._longest:
            raise self._too_large()
        if length >= COUNTED:
            share.grow(length)
        source = environ["wsgi.input"]
        if length <= _received(source):
            # Most bodies: without a wait there is nothing to watch.
            return bytearray(source.read(length))
        body = bytearray(length)
        view, at = memoryview(body), 0
        with self._reading(environ) as upload:
            while at < length and (piece := source.read(min(length - at, _PIECE))):
                view[at : at + len(piece)] = piece
                at += len(piece)
                upload.received = at
        view.release()
        if at < length:
            raise RequestTimeout() if upload.ended else _half(at, length)
        return body

    def _read_chunks(self, environ: Mapping[str, Any], share: Share) -> bytearray:
        body, source = bytearray(), environ["wsgi.input"]
        with self._reading(environ) as upload:
            while piece := source.read(_PIECE):
                if len(body) + len(piece) > self._longest:
                    raise self._too_large()
                share.grow(len(piece))
                body += piece
                upload.received = len(body)
        if upload.ended:
            raise RequestTimeout()
        return body

    @contextmanager
    def _reading(self, environ: Mapping[str, Any]) -> Iterator[_Upload]:
        with self.uploads.watch(environ, self._silence) as upload:
            try:
                yield upload
            except TimeoutError:
                raise RequestTimeout() from None
            except ParseException as error:
                raise InvalidRequest("The body of the request is not chunked as HTTP requires.") from error
            except OSError as error:
                # The server also raises an OSError for a body that ends early.
                raise RequestTimeout() if upload.ended else _half(upload.received, None) from error

    def discard(self, environ: Mapping[str, Any]) -> None:
        """Reads and drops the rest of a body. Many clients read the answer only after they have sent all, and the next
        request would start with the rest. A body that is too slow or too large is left to the server."""
        left = length_of(environ)
        if left is None and not is_chunked(environ):
            return
        left = self._longest if left is None else left
        if left > self._longest:
            return
        source = environ["wsgi.input"]
        with (
            suppress(OSError, ParseException),
            self.uploads.watch(environ, _DISCARDED_SILENCE, monotonic() + _DISCARDING),
        ):
            while left > 0 and (piece := source.read(min(left, _PIECE))):
                left -= len(piece)

    def parse(self, body: bytearray, share: Share) -> Any:
        """The body's value; empties `body`. `share` grows by the memory of the parse and keeps the part of the value.
        Raises ValueError for bad JSON, PayloadTooLarge for a body whose values need more memory than allowed, and
        Overloaded.
        """
        size = len(body)
        if size < COUNTED:
            return nesting.take(body, nesting.FROM_CLIENTS)
        needed = needed_to_parse(body, share.limit - size)
        if size < LARGE:
            return _taken(body, share, needed)
        if not self._turn.acquire(timeout=_TURN):
            raise Overloaded("This server has other large requests to read first. Please try again.")
        try:
            return _taken(body, share, needed)
        finally:
            self._turn.release()

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"The body of the request is larger than {self._longest} bytes.")


def _taken(body: bytearray, share: Share, needed: int) -> Any:
    size = len(body)
    share.grow(needed)
    value = nesting.take(body, nesting.FROM_CLIENTS)
    # The body is gone, and so is the parser's copy of it.
    share.shrink(share.size - 2 * size)
    return value


def needed_to_parse(body: bytes | bytearray, most: int) -> int:
    """An upper bound of the bytes that parsing needs beside the body. Only when the quick bound is above `most`, the
    characters inside strings are left out of the count."""
    bound = _bound(len(body), body.count(b"{"), body.count(b"["), body.count(b","))
    if bound <= most:
        return bound
    bound = _COPIES * len(body)
    for match in _OUTSIDE.finditer(body):
        outside = match[1]
        bound += _OBJECT * outside.count(b"{") + _ARRAY * outside.count(b"[") + _VALUE * outside.count(b",")
        if bound > most:
            break
    return bound


def _bound(size: int, objects: int, arrays: int, values: int) -> int:
    return _COPIES * size + _OBJECT * objects + _ARRAY * arrays + _VALUE * values


def _received(source: object) -> int:
    """Bytes of the body that the server has received with the header; it does not report them."""
    buffer = getattr(getattr(getattr(source, "reader", None), "unreader", None), "buf", None)
    return len(buffer.getbuffer()) if isinstance(buffer, BytesIO) else 0


def length_of(environ: Mapping[str, Any]) -> int | None:
    """The Content-Length; None without one."""
    length = environ.get("CONTENT_LENGTH") or ""
    return int(length) if length.isdecimal() else None


def is_chunked(environ: Mapping[str, Any]) -> bool:
    return "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower()


def _half(received: int, length: int | None) -> InvalidRequest:
    whole = "" if length is None else f" of {length}"
    return InvalidRequest(f"The body of the request ended after {received}{whole} bytes.")
