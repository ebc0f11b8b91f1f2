"""Properties of all formats that translate, on recordings of their upstreams."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import formats
from app.contract.turn import Turn
from app.errors import UpstreamBroken, UpstreamError
from tests.formats.conversations import TRANSLATING, Recording, events, framed, read, recordings, summed
from tests.response_contract import check_stream
from tests.test_sse import split

ALL = [one for format_ in TRANSLATING for one in recordings(format_)]
STREAMS = [one for one in ALL if one.streamed]
PROTOCOL = ("amended", "decode", "decode_error", "decoder", "dropped", "encode", "headers", "path")

every_recording = pytest.mark.parametrize("one", ALL, ids=str)
every_stream = pytest.mark.parametrize("one", STREAMS, ids=str)


@pytest.mark.parametrize("name", sorted(formats.names()))
def test_a_format_has_every_required_name(name: str) -> None:
    assert all(hasattr(formats.load(name), member) for member in PROTOCOL)


@every_recording
def test_a_recorded_answer_becomes_what_is_expected_of_it(one: Recording) -> None:
    if one.streamed:
        out, decoder = read(one.format, [one.body], one.turn)
        assert decoder.answer is not None
        came = [*events(out), summed(decoder.answer)]
    else:
        came = [summed(formats.load(one.format).decode(one.body, one.turn))]
    assert came == [orjson.loads(line) for line in one.expected.splitlines()]


@every_stream
def test_a_recorded_stream_keeps_the_contract(one: Recording) -> None:
    out, decoder = read(one.format, [one.body], one.turn)
    check_stream(framed(out, decoder, one.turn))


@every_stream
@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 10_000), max_size=60))
def test_any_split_gives_the_same_bytes_and_the_same_answer(one: Recording, cuts: list[int]) -> None:
    whole, first = read(one.format, [one.body], one.turn)
    out, second = read(one.format, split(one.body, cuts), one.turn)
    assert out == whole
    assert second.answer == first.answer
    assert second.sequence == first.sequence


@every_stream
@settings(max_examples=20)
@given(data=st.data())
def test_a_stream_that_breaks_anywhere_keeps_the_events_before(one: Recording, data: st.DataObject) -> None:
    decoder = formats.load(one.format).decoder(one.turn, 2)
    out = decoder.feed(one.body[: data.draw(st.integers(0, len(one.body) - 1))])
    try:
        out += decoder.finish()
    except UpstreamError:
        assert not decoder.started
        assert out == b""
        return
    assert decoder.answer is not None
    check_stream(framed(out, decoder, one.turn))


JUNK = st.sampled_from([None, True, 1, -1.5, "", "x", [], ["x"], {}, {"x": 1}])


def damaged(body: bytes, draw: st.DrawFn) -> bytes:
    """The stream with one value of one event replaced by a value of another type."""
    whole = [raw for raw in body.split(b"\n\n") if b"data: {" in raw]
    at = draw(st.integers(0, len(whole) - 1))
    head, _, data = whole[at].partition(b"data: ")
    event = orjson.loads(data)
    holder, place = draw(st.sampled_from(list(places(event))))
    holder[place] = draw(JUNK)
    whole[at] = head + b"data: " + orjson.dumps(event)
    return b"\n\n".join([*whole, b"data: [DONE]\n\n"])


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for place, member in members:
        yield value, place
        yield from places(member)


@every_stream
@settings(max_examples=25)
@given(data=st.data())
def test_any_bytes_of_an_upstream_are_an_answer_or_a_failure_of_the_upstream(
    one: Recording, data: st.DataObject
) -> None:
    try:
        out, decoder = read(one.format, [data.draw(st.composite(lambda draw: damaged(one.body, draw))())], one.turn)
    except UpstreamError:
        return
    check_stream(framed(out, decoder, one.turn))


@every_stream
def test_every_item_that_is_begun_is_done_and_is_in_the_answer(one: Recording) -> None:
    out, decoder = read(one.format, [one.body], one.turn)
    assert decoder.answer is not None
    items = [(event["type"], event["output_index"], event["item"]["id"]) for event in events(out) if "item" in event]
    done = [item["id"] for item in decoder.answer.output]
    begun = [("response.output_item.added", at, name) for at, name in enumerate(done)]
    ended = [("response.output_item.done", at, name) for at, name in enumerate(done)]
    assert [one for one in items if one[0].endswith("added")] == begun
    assert [one for one in items if one[0].endswith("done")] == ended[
        : len(ended) - (decoder.answer.status == "failed")
    ]


@every_stream
def test_items_of_ours_and_a_later_start_move_every_number(one: Recording) -> None:
    shifted = Turn(**{name: getattr(one.turn, name) for name in Turn.__slots__} | {"leading_items": ({}, {})})
    out, decoder = read(one.format, [one.body], shifted, sequence=6)
    sent = events(out)
    assert [event["sequence_number"] for event in sent] == list(range(6, decoder.sequence))
    plain = events(read(one.format, [one.body], one.turn)[0])
    assert [event["output_index"] for event in sent] == [event["output_index"] + 2 for event in plain]


@every_stream
def test_nothing_after_the_end_is_read(one: Recording) -> None:
    decoder = formats.load(one.format).decoder(one.turn, 2)
    decoder.feed(one.body)
    if decoder.answer is None:
        # Some upstreams send no terminal event.
        decoder.finish()
    ended = decoder.answer
    assert decoder.feed(one.body + b"data: {\n\n") == b""
    decoder.finish()
    assert decoder.answer is ended


@pytest.mark.parametrize("format_", TRANSLATING)
@pytest.mark.parametrize("page", [b"<html>" * 20_000, b"<p>\n\n" * 40_000, b"<p>\r\n" * 20_000])
def test_html_is_no_event_stream(format_: str, page: bytes) -> None:
    with pytest.raises(UpstreamError, match="not an event stream"):
        formats.load(format_).decoder(STREAMS[0].turn, 2).feed(page)


@pytest.mark.parametrize("name", [name for name in sorted(formats.names()) if formats.counting(name)])
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"input_tokens":"9"}', b'{"input_tokens":-1}'])
def test_only_a_number_is_a_count(name: str, body: bytes) -> None:
    counting = formats.counting(name)
    assert counting is not None
    assert counting.decode_count(b'{"input_tokens":9,"object":"any"}') == 9
    with pytest.raises(UpstreamBroken):
        counting.decode_count(body)
