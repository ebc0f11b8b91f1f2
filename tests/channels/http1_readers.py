"""Three readers of HTTP/1 answers: the gateway's, h11's and the standard library's. Each says what an answer means.

Every reader gets the bytes of one connection, which ends after them, and gives None for an answer that it refuses.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any, cast

import h11

from app.channels import http1

_BLANKS = re.compile(r"[ \t\r\n]+")


@dataclass(frozen=True, slots=True)
class Reading:
    status: int
    headers: Mapping[str, str]
    """Names in lower case, repeated values joined by commas, each run of blanks as one."""
    body: bytes
    reusable: bool
    """Whether the answer leaves its connection fit for another request, which its end is not considered for."""


def ours(pieces: Sequence[bytes]) -> Reading | None:
    """Any exception except HTTPException is a defect of the gateway."""
    try:
        return _ours(pieces)
    except HTTPException:
        return None


def _ours(pieces: Sequence[bytes]) -> Reading | None:
    reader, left = http1.HeadReader(), iter(pieces)
    for piece in left:
        early = reader.feed(piece)
        if reader.head is not None:
            break
    else:
        return None
    head, body = reader.head, http1.body_of(reader.head)
    payload = rest = b""
    for piece in (early, *left):
        # As an exchange does: a body that has ended takes no more, and what comes then is no part of it.
        if body.ended:
            rest += piece
        elif piece:
            payload += body.feed(piece)
    if not body.ended:
        body.close()
    return Reading(head.status, _joined(head.headers.items()), payload, head.persistent and body.clean and not rest)


def by_h11(pieces: Sequence[bytes]) -> Reading | None:
    connection = h11.Connection(h11.CLIENT, http1.MAX_HEAD)
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "h"), ("Content-Length", "0")]))
    connection.send(h11.EndOfMessage())
    try:
        return _by_h11(connection, [*pieces, b""])
    except h11.RemoteProtocolError:
        return None


def _by_h11(connection: h11.Connection, pieces: Sequence[bytes]) -> Reading | None:
    """The last piece is the empty one by which h11 knows the end."""
    head, body = h11.Response(status_code=200, headers=[]), b""
    for number, piece in enumerate(pieces, 1):
        connection.receive_data(piece)
        while (event := connection.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                rest = connection.trailing_data[0] + b"".join(pieces[number:])
                headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers]
                # The end of a connection ends a body without a length; h11 leaves that to its caller.
                reusable = bool(piece) and connection.their_state is h11.DONE and not rest
                return Reading(head.status_code, _joined(headers), body, reusable)
    return None


def by_library(pieces: Sequence[bytes]) -> Reading | None:
    """http.client blocks until it has what it wants, so it gets the bytes in one piece."""
    file = _File(b"".join(pieces))
    response = HTTPResponse(cast(Any, file), method="POST")
    try:
        response.begin()
        body = response.read()
    except (HTTPException, ValueError):
        # It also lets the ValueError of a size through that is no number.
        return None
    return Reading(
        response.status, _joined(response.headers.items()), body, not response.will_close and not file.read()
    )


class _File(io.BytesIO):
    """Its own socket. It stays readable, so that one can see what the reader has left."""

    def makefile(self, mode: str) -> _File:
        return self

    def close(self) -> None:
        pass


def _joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(_BLANKS.sub(" ", value).strip(" "))
    joined = {name: ", ".join(values).strip(" ") for name, values in found.items()}
    if "transfer-encoding" in joined:
        # h11 gives the coding in lower case, in which every reader compares it.
        joined["transfer-encoding"] = joined["transfer-encoding"].lower()
    return joined
