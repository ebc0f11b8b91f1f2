"""Answers as they come off the wire: heads, framings, codings."""

from __future__ import annotations

import zlib
from http.client import HTTPException
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.channels.http1 import Chunks, HeadReader, Zipped, body_of, coding_of


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    extension=st.sampled_from([b"", b";a=b", b" ", b";x"]),
    trailer=st.sampled_from([b"", b"X-Checksum: 1\r\n", b"A: 1\r\nB: 2\r\n"]),
    behind=st.binary(max_size=5),
    data=st.data(),
)
def test_chunks_are_undone_however_they_are_split(
    chunks: list[bytes], extension: bytes, trailer: bytes, behind: bytes, data: st.DataObject
) -> None:
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    body += b"0" + extension + b"\r\n" + trailer + b"\r\n" + behind
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=12).map(sorted))
    reader, out = Chunks(), b""
    for start, end in pairwise([0, *cuts, len(body)]):
        if not reader.ended and start < end:
            out += reader.feed(body[start:end])
            left = body[end:]
    assert out == b"".join(chunks)
    assert reader.ended
    assert reader.rest + left == behind


@pytest.mark.parametrize("size", [b"zz", b"-1", b"+5", b"0x5", b"1_0", b"5 5", b"", b"1" * 16])
def test_a_size_that_is_no_number_is_an_error(size: bytes) -> None:
    with pytest.raises(HTTPException):
        Chunks().feed(size + b"\r\nabcde\r\n")


@pytest.mark.parametrize("piece", [b"5" * 5000, b"0\r\n" + b"x" * 5000])
def test_a_line_without_an_end_is_an_error(piece: bytes) -> None:
    with pytest.raises(HTTPException):
        Chunks().feed(piece)


# --- heads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        b"SSH-2.0",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA b: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 65536,
    ],
)
def test_a_malformed_head_is_an_error(head: bytes) -> None:
    with pytest.raises(HTTPException):
        HeadReader().feed(head)


@pytest.mark.parametrize(
    "lengths", [b"Content-Length: x", b"Content-Length: -1", b"Content-Length: 1\r\nContent-Length: 2"]
)
def test_a_length_that_is_none_is_an_error(lengths: bytes) -> None:
    reader = HeadReader()
    reader.feed(b"HTTP/1.1 200 OK\r\n" + lengths + b"\r\n\r\n")
    assert reader.head is not None
    with pytest.raises(HTTPException):
        body_of(reader.head)


def test_a_folded_header_is_one_line() -> None:
    reader = HeadReader()
    reader.feed(b"HTTP/1.1 200 OK\r\nA: b\r\n  c\r\nB: d\r\n\r\n")
    assert reader.head is not None
    assert reader.head.headers == {"a": "b c", "b": "d"}


# --- codings ----------------------------------------------------------------------------------------------------


def test_a_body_that_decompresses_to_much_more_comes_in_pieces() -> None:
    zipped = Zipped()
    pieces = [zipped.feed(zlib.compress(b" " * 5_000_000))]
    while zipped.pending:
        pieces.append(zipped.feed(b""))
    assert sum(map(len, pieces)) == 5_000_000
    assert max(map(len, pieces)) <= 1024 * 1024


def test_an_unknown_content_encoding_is_an_error() -> None:
    reader = HeadReader()
    reader.feed(b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\n")
    assert reader.head is not None
    with pytest.raises(HTTPException):
        coding_of(reader.head)
    with pytest.raises(HTTPException):
        Zipped().feed(b"this is not zipped")
