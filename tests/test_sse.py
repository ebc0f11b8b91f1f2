from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import sse

EVENTS = [
    b'event: a\ndata: {"text":"caf\xc3\xa9 \xe2\x80\xa8 line"}\n\n',
    b": a comment\n\n",
    b"data: one\ndata: two\n\n",
    b"event: b\ndata:no space\n\n",
]
WHOLE = b"".join(EVENTS)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.lists(st.integers(0, 1000)), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.booleans())
def test_any_split_with_any_line_end_gives_the_same_events(cuts: list[int], ending: bytes, mark: bool) -> None:
    data = (b"\xef\xbb\xbf" if mark else b"") + WHOLE.replace(b"\n", ending)
    splitter = sse.Splitter()
    out = b"".join(splitter.feed(piece) for piece in split(data, cuts))
    assert out == WHOLE
    assert splitter.rest in (b"", b"\n")


def test_an_unfinished_event_is_held_back() -> None:
    splitter = sse.Splitter()
    assert splitter.feed(b"data: 1\n\ndata: 2\n") == b"data: 1\n\n"
    assert splitter.rest == b"data: 2\n"
    assert splitter.feed(b"\n") == b"data: 2\n\n"


def test_an_event_without_an_end_is_refused() -> None:
    splitter = sse.Splitter()
    splitter.feed(b"x" * sse.MAX_EVENT)
    with pytest.raises(sse.EventTooLong):
        splitter.feed(b"x")


def test_parse_gives_name_and_data() -> None:
    assert [sse.parse(event.rstrip(b"\n")) for event in EVENTS] == [
        ("a", '{"text":"café \u2028 line"}'.encode()),
        (None, None),
        (None, b"one\ntwo"),
        ("b", b"no space"),
    ]


def test_encode_names_the_event_by_its_type() -> None:
    assert sse.encode({"type": "x", "n": 1}) == b'event: x\ndata: {"type":"x","n":1}\n\n'


@given(st.lists(st.sampled_from([b"\r\n", b"\n", b"\r", b"data: a", b": b", b"c"])), st.lists(st.integers(0, 1000)))
def test_cutting_changes_no_byte_and_is_the_same_however_the_bytes_were_split(
    spelt: list[bytes], cuts: list[int]
) -> None:
    data = b"".join(spelt)
    whole, pieced = sse.Cutter(), sse.Cutter()
    events = [event for piece in split(data, cuts) for event in pieced.feed(piece)]
    assert b"".join(events) + pieced.rest == data
    assert (events, pieced.rest) == (whole.feed(data), whole.rest)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_events_are_cut_behind_their_blank_line(ending: bytes) -> None:
    events = [event.replace(b"\n", ending) for event in EVENTS]
    assert sse.Cutter().feed(b"".join(events) + b"data: more") == events


def test_an_event_without_an_end_is_not_cut_for_ever() -> None:
    cutter = sse.Cutter()
    cutter.feed(b"x" * sse.MAX_EVENT)
    with pytest.raises(sse.EventTooLong):
        cutter.feed(b"x")
