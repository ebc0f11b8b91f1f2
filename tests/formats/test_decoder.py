"""The contract of a format's decoder, run on every format: the split of the bytes never matters."""

from collections.abc import Iterator

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import formats
from app.contract.channel import Channel
from app.contract.response import Echo
from app.contract.turn import Turn
from app.errors import UpstreamBroken, UpstreamError, UpstreamFailed, UpstreamLimited, UpstreamRefused
from app.formats import responses
from tests.sse_reader import Event, read
from tests.test_sse import split


def events(data: bytes) -> list[Event]:
    found, faults = read(data)
    assert not faults
    return found


ROW = Channel("c", "responses", family="f")
TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}


def turn(text: str = "hello", **request: object) -> Turn:
    body = {
        "model": "demo",
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}],
        "stream": True,
        **request,
    }
    return Turn(
        id="resp_1",
        owner="o",
        created_at=1,
        model="demo",
        request=body,
        input=body["input"],
        echo=Echo.of(body, store=True),
        stream=True,
    )


def answered(request_turn: Turn) -> bytes:
    body = formats.load("demo").encode(request_turn, ROW, "demo")
    return b"".join(formats.serving("demo").serve("/responses", body)[1])


def decoded(
    request_turn: Turn, pieces: Iterator[bytes] | list[bytes], sequence: int = 2
) -> tuple[bytes, formats.Decoder]:
    decoder = responses.decoder(request_turn, sequence)
    out = b"".join(decoder.feed(piece) for piece in pieces)
    return out + decoder.finish(), decoder


TEXT = answered(turn())
CALL = answered(turn("call get_weather", tools=[TOOL]))


@pytest.mark.parametrize("whole", [TEXT, CALL], ids=["text", "call"])
@given(cuts=st.lists(st.integers(0, 10_000), max_size=60))
def test_any_split_gives_the_same_bytes_and_the_same_answer(whole: bytes, cuts: list[int]) -> None:
    expected, one = decoded(turn(), [whole])
    out, other = decoded(turn(), split(whole, cuts))
    assert out == expected
    assert other.answer == one.answer
    assert other.sequence == one.sequence


def test_output_events_are_relayed_as_they_came() -> None:
    out, _ = decoded(turn(), [TEXT])
    assert out in TEXT
    assert b"response.created" not in out
    assert b"response.completed" not in out


@pytest.mark.parametrize("sequence", [0, 7])
def test_a_stream_that_goes_on_elsewhere_is_renumbered_without_gaps(sequence: int) -> None:
    out, decoder = decoded(turn(), [TEXT], sequence)
    numbers = [orjson.loads(event.data)["sequence_number"] for event in events(out)]
    assert numbers == list(range(sequence, sequence + len(numbers)))
    assert decoder.sequence == sequence + len(numbers)


@given(cut=st.integers(1, len(TEXT) - 1))
def test_a_stream_that_breaks_anywhere_keeps_what_came(cut: int) -> None:
    decoder = responses.decoder(turn(), 2)
    out = decoder.feed(TEXT[:cut])
    if not decoder.started:
        with pytest.raises(UpstreamBroken):
            decoder.finish()
        return
    out += decoder.finish()
    assert decoder.answer is not None
    sent = "".join(
        event["delta"]
        for event in (orjson.loads(found.data) for found in events(out))
        if event["type"] == "response.output_text.delta"
    )
    if decoder.answer.status == "failed":
        text = "".join(part["text"] for item in decoder.partial() for part in item["content"])
        assert text == sent
        assert decoder.sequence == 2 + len(events(out))


def lines(*events: dict[str, object]) -> bytes:
    return b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)


CREATED = {"type": "response.created", "sequence_number": 0, "response": {"id": "resp_up"}}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"type": "error", "error": {"code": "server_error", "message": "x"}}, UpstreamFailed),
        ({"type": "error", "code": "rate_limit_exceeded", "message": "x"}, UpstreamLimited),
        ({"type": "error", "error": {"code": "insufficient_quota", "message": "x"}}, UpstreamLimited),
        ({"type": "response.failed", "response": {"error": {"code": "server_error", "message": "x"}}}, UpstreamFailed),
        ({"type": "error", "error": {"code": "context_length_exceeded", "message": "x"}}, UpstreamRefused),
    ],
)
def test_a_failure_before_the_first_output_is_an_error(error: dict[str, object], kind: type[UpstreamError]) -> None:
    with pytest.raises(kind):
        responses.decoder(turn(), 2).feed(lines(CREATED, error))


@pytest.mark.parametrize("data", [b"data: {not json}\n\n", b'data: "x"\n\n', b"data: \xff\xfe\n\n"])
def test_garbage_before_the_first_output_is_an_error_and_later_a_failed_answer(data: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        responses.decoder(turn(), 2).feed(lines(CREATED) + data)
    decoder = responses.decoder(turn(), 2)
    half = TEXT[: TEXT.index(b"event: response.output_text.done")]
    out = decoder.feed(half + data)
    assert out
    assert decoder.answer is not None
    assert decoder.answer.status == "failed"


def test_html_is_no_event_stream() -> None:
    decoder = responses.decoder(turn(), 2)
    decoder.feed(b"<html>" * 1000)
    with pytest.raises(UpstreamBroken):
        decoder.feed(b"<html>" * 100_000)


def test_long_call_ids_are_shortened_the_same_way_everywhere() -> None:
    long = "call_" + "x" * 90
    short_call = next(item for item in decoded(turn(), [CALL])[1].answer.output)  # type: ignore[union-attr]
    out, decoder = decoded(turn(), [CALL.replace(short_call["call_id"].encode(), long.encode())])
    assert decoder.answer is not None
    call_id = decoder.answer.output[0]["call_id"]
    assert len(call_id) <= 64
    assert long.encode() not in out
    assert out.count(call_id.encode()) == 2


def test_nothing_after_the_end_is_read() -> None:
    _, decoder = decoded(turn(), [TEXT + b"data: {not json}\n\n"])
    assert decoder.answer is not None
    assert decoder.answer.status == "completed"


def test_a_decoder_says_which_path_its_events_took() -> None:
    assert responses.decoder(turn(), 2).path == ""
    assert decoded(turn(), [TEXT])[1].path == "bytes"
    assert decoded(turn(), [TEXT.replace(b',"output_index":0', b"")])[1].path == "repaired"
    assert formats.load("chat_completions").decoder(turn(), 2).path == "translated"
    assert formats.replay(responses.decode(b'{"output":[]}', turn()), turn(), 2).path == "translated"
