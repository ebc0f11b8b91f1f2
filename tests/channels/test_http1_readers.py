"""The gateway's reader of HTTP/1 answers, compared with h11 and http.client: on generated answers, on broken ones, and
in a table of all differences that are known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.channels.http1_readers import Reading, by_h11, by_library, ours

HEAD = b"HTTP/1.1 200 OK\r\n"


def cut(wire: bytes, places: Sequence[int]) -> list[bytes]:
    """The pieces between these places, without empty ones."""
    return [wire[start:end] for start, end in pairwise([0, *sorted(places), len(wire)]) if start < end]


def every_cut(wire: bytes) -> list[list[bytes]]:
    """Whole, cut in two at each place, and byte by byte."""
    return [cut(wire, [place]) for place in range(len(wire))] + [cut(wire, range(len(wire)))]


# --- answers that all readers understand ------------------------------------------------------------------------

FIELD_NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]{0,8}", fullmatch=True).filter(
    lambda name: name.lower() not in ("content-length", "transfer-encoding", "connection", "keep-alive")
)
WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f\x85\xa0"), max_size=6)
BLANKS = st.sampled_from(["", " ", "\t", "  ", " \t "])
STATUSES = st.sampled_from([200, 201, 206, 204, 304, 400, 408, 429, 500, 503, 599])
REASONS = st.sampled_from(["", " ", " OK", " Too  Many Requests", " \xe4"])
CONNECTIONS = st.sampled_from([None, "close", "Close", "keep-alive", "x, close", "upgrade , CLOSE"])
PAYLOADS = st.binary(max_size=40) | st.sampled_from([b"\r\n0\r\n\r\n", b"5\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"\n"])
EXTENSIONS = st.sampled_from([b"", b" ", b";a=b", b';a="q;r"', b";x", b";a = b "])


@st.composite
def fields(draw: st.DrawFn, name: st.SearchStrategy[str] = FIELD_NAMES) -> str:
    """A header: blanks around its value, which may be folded, be empty, or come with no blank at all."""
    words = draw(st.lists(WORDS, min_size=1, max_size=3))
    folds = [draw(st.sampled_from([" ", "  ", "\r\n ", "\r\n\t", " \r\n  "])) for _ in words[1:]]
    value = words[0] + "".join(fold + (word or "x") for fold, word in zip(folds, words[1:], strict=True))
    return f"{draw(name)}:{draw(BLANKS)}{value}{draw(BLANKS)}\r\n"


@st.composite
def chunked(draw: st.DrawFn, payloads: Sequence[bytes]) -> bytes:
    form = draw(st.sampled_from([b"%x", b"%X", b"00%x"]))
    chunks = [form % len(payload) + draw(EXTENSIONS) + b"\r\n" + payload + b"\r\n" for payload in payloads if payload]
    trailer = draw(st.sampled_from([b"", b"X-Checksum: 1\r\n", b"A:\r\nB: 2 \r\n"]))
    return b"".join(chunks) + draw(st.sampled_from([b"0", b"000"])) + draw(EXTENSIONS) + b"\r\n" + trailer + b"\r\n"


@st.composite
def answers(draw: st.DrawFn, statuses: st.SearchStrategy[int] = STATUSES) -> bytes:
    """An answer, framed in one of the three ways, perhaps with interim ones before it. Where a body has no place, there
    is none, but the headers may speak of one, as after a HEAD request.
    """
    status, ending = draw(statuses), draw(st.sampled_from([b"\r\n", b"\n"]))
    without_body = status in (204, 304)
    headers = draw(st.lists(fields(), max_size=4))
    payloads = draw(st.lists(PAYLOADS, max_size=3))
    framing = draw(st.sampled_from(["length", "close"] if without_body else ["length", "chunked", "close"]))
    body = b"".join(payloads)
    if framing == "length":
        name = draw(st.sampled_from(["Content-Length", "content-length", "CONTENT-LENGTH"]))
        headers.append(f"{name}:{draw(BLANKS)}{len(body)}{draw(BLANKS)}\r\n")
    elif framing == "chunked":
        name = draw(st.sampled_from(["Transfer-Encoding", "transfer-encoding", "TRANSFER-ENCODING"]))
        headers.append(f"{name}:{draw(BLANKS)}{draw(st.sampled_from(['chunked', 'Chunked', 'CHUNKED']))}\r\n")
        body = draw(chunked(payloads))
    version, connection = draw(st.sampled_from(["1.1", "1.1", "1.0"])), draw(CONNECTIONS)
    if connection is not None and (version, connection) != ("1.0", "keep-alive"):
        headers.append(f"{draw(st.sampled_from(['Connection', 'connection']))}: {connection}\r\n")
    interim = "".join(
        f"HTTP/1.1 100 Continue\r\n{''.join(draw(st.lists(fields(), max_size=2)))}\r\n"
        for _ in range(draw(st.integers(0, 2)))
    )
    first = f"HTTP/{version} {status}{draw(REASONS)}\r\n"
    head = interim + first + "".join(draw(st.permutations(headers))) + "\r\n"
    return head.encode("latin-1").replace(b"\r\n", ending) + (b"" if without_body else body)


@given(wire=answers(), behind=st.sampled_from([b"", b"", b"\r\n", HEAD + b"\r\n"]), data=st.data())
@settings(deadline=None)
def test_every_reader_takes_the_same_from_an_answer(wire: bytes, behind: bytes, data: st.DataObject) -> None:
    wire += behind
    pieces = cut(wire, data.draw(st.lists(st.integers(0, len(wire)), max_size=12)))
    expected = by_library([wire])
    assert expected is not None
    assert ours(pieces) == expected
    assert by_h11(pieces) == expected
    assert ours(cut(wire, range(len(wire)))) == expected


# --- broken answers ---------------------------------------------------------------------------------------------

NOISE = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b" ", b"\t", b"\0", b":", b";", b",", b"0", b"5", b"f", b"-", b"+", b"x", b"\xff"]
)
#: The differences of the table that noise can bring about, where the gateway refuses what h11 reads.
STRICTER = re.compile(
    rb"^HTTP/[^1]|\nHTTP/[^1]"  # another version
    rb"|;[^\n]*\r(?!\n)"  # a carriage return in an extension
    rb"|[0-9A-Fa-f]{16}"  # a size of many digits
    rb"|0[^\n]*\r\n(?:[^\n]*\n)*?[^\n]*(?<!\r)\n"  # a line feed after the last chunk
)


@st.composite
def noisy(draw: st.DrawFn, statuses: st.SearchStrategy[int]) -> bytes:
    """An answer of which a few bytes were added, lost, changed or repeated, or that ends early."""
    wire = draw(answers(statuses))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(wire)))
        end = draw(st.integers(start, min(len(wire), start + 8)))
        middle = draw(st.sampled_from([b"", wire[start:end] * 2]) | NOISE)
        wire = wire[:start] + middle + wire[end:]
    return wire if draw(st.integers(0, 3)) else wire[: draw(st.integers(0, len(wire)))]


# A fixed seed: a new difference belongs into the table, not into a run that fails by chance.
@given(wire=noisy(st.sampled_from([200, 429, 503])), data=st.data())
@settings(deadline=None, derandomize=True, max_examples=400)
def test_a_broken_answer_is_never_taken_for_another_one(wire: bytes, data: st.DataObject) -> None:
    """What the gateway reads, h11 reads in the same way, or refuses; then the connection is used no more."""
    reading, theirs = ours([wire]), by_h11([wire])
    assert ours(cut(wire, data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))) == reading
    assert ours(cut(wire, range(len(wire)))) == reading
    if reading is None:
        assert theirs is None or STRICTER.search(wire)
    elif theirs is not None:
        assert replace(reading, reusable=False) == replace(theirs, reusable=False)
        assert theirs.reusable or not reading.reusable or b"HTTP/1.0" in wire
    else:
        assert not reading.reusable


# --- where the readers differ -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taken:
    """The part of a reading that the table states."""

    body: bytes = b"{}"
    reusable: bool = True
    status: int = 200


@dataclass(frozen=True, slots=True)
class Difference:
    """An answer that the readers read differently; None where a reader refuses it."""

    wire: bytes
    ours: Taken | None
    h11: Taken | None
    library: Taken | None
    reason: str
    """Why the gateway reads it as it does."""


WHOLE, CLOSES, REFUSED = Taken(), Taken(reusable=False), None
SIZED = b"Content-Length: 2\r\n\r\n{}"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
BODY = b"2\r\n{}\r\n0\r\n\r\n"
RAW = Taken(BODY, reusable=False)

DIFFERENCES = {
    # The status line
    "two blanks before the status": Difference(
        b"HTTP/1.1  200 OK\r\n" + SIZED, WHOLE, REFUSED, WHOLE, "RFC 9112 lets a client split the line at any blanks"
    ),
    "a tab after the status": Difference(
        b"HTTP/1.1 200\tOK\r\n" + SIZED, REFUSED, REFUSED, WHOLE, "no server is known to send it"
    ),
    "another major version": Difference(
        b"HTTP/2.0 200 OK\r\n" + SIZED, REFUSED, WHOLE, REFUSED, "its framing is not known"
    ),
    "a switch of protocols": Difference(
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + HEAD + SIZED,
        REFUSED,
        REFUSED,
        Taken(b"", False, 101),
        "the request did not offer one, so what follows is not HTTP",
    ),
    "early hints": Difference(
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + HEAD + SIZED,
        WHOLE,
        WHOLE,
        Taken(b"", False, 103),
        "every answer below 200 precedes the final one",
    ),
    "an end within the head": Difference(
        HEAD + b"Content-Length: 0\r\n", REFUSED, REFUSED, Taken(b""), "headers may be missing"
    ),
    # Headers
    "a line without a colon": Difference(
        HEAD + b"no colon\r\n" + SIZED, REFUSED, REFUSED, CLOSES, "the framing may be in what cannot be read"
    ),
    "a blank before the colon": Difference(
        HEAD + SIZED.replace(b":", b" :"), REFUSED, REFUSED, CLOSES, "another parser may see a framing here, or none"
    ),
    "a header without a name": Difference(HEAD + b": x\r\n" + SIZED, REFUSED, REFUSED, WHOLE, "as above"),
    "a fold before the first header": Difference(HEAD + b" a: b\r\n" + SIZED, REFUSED, REFUSED, WHOLE, "as above"),
    "a carriage return alone": Difference(
        HEAD + b"A: b\rC: d\r\n" + SIZED, REFUSED, REFUSED, WHOLE, "to some parsers it ends the line"
    ),
    "a carriage return too many": Difference(
        HEAD + SIZED.replace(b"2\r", b"2\r\r"), REFUSED, REFUSED, WHOLE, "as above"
    ),
    "a zero byte": Difference(
        HEAD + b"A: \0\r\n" + SIZED, REFUSED, REFUSED, WHOLE, "to some parsers it ends the value"
    ),
    "a form feed": Difference(
        HEAD + b"A: b\x0cc\r\n" + SIZED, WHOLE, REFUSED, WHOLE, "RFC 9110 lets a client keep it; it has no meaning here"
    ),
    "more than a hundred headers": Difference(
        HEAD + b"A: b\r\n" * 101 + SIZED, WHOLE, WHOLE, REFUSED, "the size of the head is limited, not their number"
    ),
    "a very long head": Difference(
        HEAD + (b"A: " + b"b" * 20000 + b"\r\n") * 4 + SIZED, REFUSED, WHOLE, WHOLE, "64 KiB are enough for a head"
    ),
    # Whether the connection serves again
    "keep-alive in HTTP/1.0": Difference(
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + SIZED, WHOLE, CLOSES, WHOLE, "old servers mean it"
    ),
    "only a Keep-Alive header in HTTP/1.0": Difference(
        b"HTTP/1.0 200 OK\r\nKeep-Alive: timeout=5\r\n" + SIZED, CLOSES, CLOSES, WHOLE, "Connection alone decides"
    ),
    "close within another word": Difference(
        HEAD + b"Connection: enclosed\r\n" + SIZED, CLOSES, WHOLE, CLOSES, "in doubt a new connection is opened"
    ),
    "two framings": Difference(
        HEAD + b"Content-Length: 12\r\n" + CHUNKED + BODY, CLOSES, WHOLE, WHOLE, "two parsers may see two ends"
    ),
    "chunks in HTTP/1.0": Difference(
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + CHUNKED + BODY, CLOSES, CLOSES, WHOLE, "as above"
    ),
    # Which framing it is
    "a repeated coding": Difference(
        HEAD + b"Transfer-Encoding: chunked\r\n" + CHUNKED + BODY,
        WHOLE,
        REFUSED,
        WHOLE,
        "two layers of one server set the header, and one of them the chunks",
    ),
    "a coding twice in one header": Difference(
        HEAD + CHUNKED.replace(b"chunked", b"chunked, chunked") + BODY,
        WHOLE,
        REFUSED,
        RAW,
        "a proxy has joined two headers",
    ),
    "a blank after the coding": Difference(
        HEAD + CHUNKED.replace(b"chunked", b"chunked ") + BODY, WHOLE, WHOLE, RAW, "blanks around a value mean nothing"
    ),
    "the coding identity": Difference(
        HEAD + b"Transfer-Encoding: identity\r\n" + SIZED, CLOSES, REFUSED, WHOLE, "RFC 2616 had it; it is no coding"
    ),
    "a coding besides chunks": Difference(
        HEAD + CHUNKED.replace(b"chunked", b"gzip, chunked") + BODY, REFUSED, REFUSED, RAW, "nothing undoes it"
    ),
    "a list of equal lengths": Difference(
        HEAD + b"Content-Length: 2, 2\r\n\r\n{}", WHOLE, WHOLE, CLOSES, "a proxy has joined two headers"
    ),
    "two lengths": Difference(
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", REFUSED, REFUSED, WHOLE, "two parsers see two ends"
    ),
    "a length with a sign": Difference(
        HEAD + b"Content-Length: +2\r\n\r\n{}", REFUSED, REFUSED, WHOLE, "other parsers read no number here"
    ),
    "a negative length": Difference(
        HEAD + b"Content-Length: -2\r\n\r\n{}", REFUSED, REFUSED, CLOSES, "it has no meaning"
    ),
    "an empty length": Difference(HEAD + b"Content-Length:\r\n\r\n{}", REFUSED, REFUSED, CLOSES, "it has no meaning"),
    "a length of thousands of digits": Difference(
        HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}", REFUSED, REFUSED, CLOSES, "no such body exists"
    ),
    "chunks where there is no body": Difference(
        b"HTTP/1.1 204 No Content\r\n" + CHUNKED,
        Taken(b"", True, 204),
        Taken(b"", True, 204),
        REFUSED,
        "204 has no body",
    ),
    "a wrong length where there is no body": Difference(
        b"HTTP/1.1 204 No Content\r\nContent-Length: x\r\n\r\n",
        Taken(b"", True, 204),
        REFUSED,
        Taken(b"", True, 204),
        "204 has no body",
    ),
    # Chunks
    "a blank before an extension": Difference(
        HEAD + CHUNKED + BODY.replace(b"2\r", b"2 ;a\r"), WHOLE, REFUSED, WHOLE, "RFC 9112 allows it"
    ),
    "a very long extension": Difference(
        HEAD + CHUNKED + b"2;" + b"a" * 5000 + BODY[1:], REFUSED, WHOLE, WHOLE, "4,000 bytes of it are enough"
    ),
    "a carriage return in an extension": Difference(
        HEAD + CHUNKED + BODY.replace(b"2\r", b"2;\ra\r"), REFUSED, WHOLE, WHOLE, "to some parsers it ends the line"
    ),
    "a size with a sign": Difference(
        HEAD + CHUNKED + b"+" + BODY, REFUSED, REFUSED, WHOLE, "other parsers see no number"
    ),
    "a size with a prefix": Difference(HEAD + CHUNKED + b"0x" + BODY, REFUSED, REFUSED, WHOLE, "as above"),
    "a size with an underscore": Difference(HEAD + CHUNKED + b"0_" + BODY, REFUSED, REFUSED, WHOLE, "as above"),
    "a size of many digits": Difference(
        HEAD + CHUNKED + b"0" * 15 + BODY,
        REFUSED,
        WHOLE,
        WHOLE,
        "a few digits more overflow the number of some parsers",
    ),
    "a chunk longer than its size": Difference(
        HEAD + CHUNKED + b"2\r\n{}xx0\r\n\r\n", REFUSED, REFUSED, WHOLE, "one of the two is wrong"
    ),
    "a line feed after the last chunk": Difference(
        HEAD + CHUNKED + BODY[:-2] + b"\n", REFUSED, WHOLE, WHOLE, "within chunks a line has one kind of end"
    ),
    "an end after the last size": Difference(
        HEAD + CHUNKED + BODY[:-2], REFUSED, REFUSED, WHOLE, "the end of the answer has not come"
    ),
    "a trailer that is no header": Difference(
        HEAD + CHUNKED + BODY[:-2] + b"no colon\r\n\r\n",
        CLOSES,
        REFUSED,
        WHOLE,
        "the answer is whole, and its end may be elsewhere",
    ),
}


def taken(reading: Reading | None) -> Taken | None:
    return None if reading is None else Taken(reading.body, reading.reusable, reading.status)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_the_readers_differ_as_stated(name: str) -> None:
    difference = DIFFERENCES[name]
    assert len({difference.ours, difference.h11, difference.library}) > 1
    assert taken(by_h11([difference.wire])) == difference.h11
    assert taken(by_library([difference.wire])) == difference.library
    for pieces in every_cut(difference.wire) if len(difference.wire) < 1000 else halves(difference.wire):
        assert taken(ours(pieces)) == difference.ours


def halves(wire: bytes) -> list[list[bytes]]:
    return [[wire], cut(wire, [len(wire) // 2])]


#: Answers that every reader refuses.
BROKEN = {
    "nothing": b"",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "radio": b"ICY 200 OK\r\n" + SIZED,
    "small letters": b"http/1.1 200 OK\r\n" + SIZED,
    "an empty line first": b"\r\n" + HEAD + SIZED,
    "a short status": b"HTTP/1.1 20 OK\r\n" + SIZED,
    "a status below 100": b"HTTP/1.1 099 OK\r\n" + SIZED,
    "a long status": b"HTTP/1.1 2000 OK\r\n" + SIZED,
    "a status that goes on": b"HTTP/1.1 200OK\r\n" + SIZED,
    "only an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n",
    "a body that is too short": HEAD + SIZED[:-1],
    "a negative size": HEAD + CHUNKED + b"-" + BODY,
    "a size that is no number": HEAD + CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    "line feeds around chunks": HEAD + CHUNKED + BODY.replace(b"\r\n", b"\n"),
    "an end within a chunk": HEAD + CHUNKED + b"3\r\n{}",
    "an end between chunks": HEAD + CHUNKED + b"2\r\n{}\r\n",
}


@pytest.mark.parametrize("reader", [ours, by_h11, by_library])
@pytest.mark.parametrize("name", BROKEN)
def test_every_reader_refuses_a_broken_answer(name: str, reader: Callable[[Sequence[bytes]], Reading | None]) -> None:
    assert all(reader(pieces) is None for pieces in every_cut(BROKEN[name]))
