"""Bodies as they come off the wire."""

from __future__ import annotations

from http.client import HTTPException
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.channels.upstream import _Chunks


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
    reader, out = _Chunks(), b""
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
        _Chunks().feed(size + b"\r\nabcde\r\n")


@pytest.mark.parametrize("piece", [b"5" * 5000, b"0\r\n" + b"x" * 5000])
def test_a_line_without_an_end_is_an_error(piece: bytes) -> None:
    with pytest.raises(HTTPException):
        _Chunks().feed(piece)
