"""Dialects of the Responses API on other servers than OpenAI's: the client gets the contract alone."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import UpstreamBroken
from app.formats import responses
from tests.formats.responses.transcripts import Recording, events, framed, read, recording, recordings, summed
from tests.response_contract import check_stream
from tests.test_sse import split

ALL = recordings()
STREAMS = [one for one in ALL if one.streamed]


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_a_recorded_answer_becomes_what_is_expected_of_it(one: Recording) -> None:
    if one.streamed:
        out, decoder = read([one.body], one.turn)
        assert decoder.answer is not None
        came = [*events(out), summed(decoder.answer)]
    else:
        came = [summed(responses.decode(one.body, one.turn))]
    assert came == [orjson.loads(line) for line in one.expected.splitlines()]


@pytest.mark.parametrize("one", STREAMS, ids=lambda one: one.name)
def test_a_recorded_stream_keeps_the_contract(one: Recording) -> None:
    out, decoder = read([one.body], one.turn)
    assert decoder.path == "repaired"
    check_stream(framed(out, decoder, one.turn))


@pytest.mark.parametrize("one", STREAMS, ids=lambda one: one.name)
@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 10_000), max_size=60))
def test_any_split_gives_the_same_bytes_and_the_same_answer(one: Recording, cuts: list[int]) -> None:
    whole, first = read([one.body], one.turn)
    out, second = read(split(one.body, cuts), one.turn)
    assert out == whole
    assert second.answer == first.answer
    assert second.sequence == first.sequence


@pytest.mark.parametrize("one", STREAMS, ids=lambda one: one.name)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_stream_that_breaks_anywhere_keeps_the_events_before(one: Recording, data: st.DataObject) -> None:
    decoder = responses.decoder(one.turn, 2)
    out = decoder.feed(one.body[: data.draw(st.integers(0, len(one.body) - 1))])
    try:
        out += decoder.finish()
    except UpstreamBroken:
        assert not decoder.started
        assert out == b""
        return
    assert decoder.answer is not None
    check_stream(framed(out, decoder, one.turn))
    deltas = "".join(event["delta"] for event in events(out) if event["type"] == "response.output_text.delta")
    messages = [item for item in decoder.answer.output if item["type"] == "message"]
    assert "".join(part["text"] for item in messages for part in item["content"]) == deltas


def test_an_answer_as_long_as_it_may_be_is_the_same_streamed_and_unstreamed() -> None:
    streamed, unstreamed = recording("llamacpp-cut-at-the-limit"), recording("llamacpp-cut-at-the-limit-whole")
    _, decoder = read([streamed.body], streamed.turn)
    whole = responses.decode(unstreamed.body, unstreamed.turn)
    assert decoder.answer is not None
    assert decoder.answer.output == whole.output
    assert (decoder.answer.status, decoder.answer.incomplete_details) == (whole.status, whole.incomplete_details)
    assert whole.output[-1]["status"] == whole.status == "completed"
