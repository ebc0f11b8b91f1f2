"""Passthrough of chat completions: no byte changes, the usage chunk is withheld, and the summary is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import sse
from app.contract.usage import Usage
from app.errors import UpstreamBroken, UpstreamError, UpstreamFailed, UpstreamLimited, UpstreamRefused
from app.formats.chat_completions.passthrough import CompletionDecoder, as_stream, decode_error, encode, read_whole
from tests.test_sse import split

JSON = dict[str, Any]
QUIET: JSON = {"stream": True}
CURIOUS: JSON = {"stream": True, "stream_options": {"include_usage": True}}
COUNTED = {"prompt_tokens": 12, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
USAGE = Usage(input_tokens=12, cached_tokens=4, output_tokens=5)
RECORDINGS = sorted((Path(__file__).parent / "recordings").glob("*.sse"))
WITH_AN_ERROR = {"vllm-error-in-the-middle"}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def event(chunk: object) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(chunk)


def chunk(delta: JSON | None = None, reason: str | None = None, index: int = 0, **keys: Any) -> bytes:
    choice = {"index": index, "delta": delta or {}, "finish_reason": reason}
    return event({"id": "chatcmpl_up", "model": "big", "choices": [choice], **keys})


ROLE, HELLO, STOP = chunk({"role": "assistant", "content": ""}), chunk({"content": "Hellö"}), chunk(reason="stop")
COUNT = event({"id": "chatcmpl_up", "choices": [], "usage": COUNTED})
FILTER = event({"choices": [], "prompt_filter_results": []})
COMMENT = b": ping\n\n"
WHOLE = [COMMENT, FILTER, ROLE, HELLO, COMMENT, STOP, COUNT, sse.DONE]
PASSED_ON = [raw for raw in WHOLE if raw is not COUNT]


def passed(*pieces: bytes, request: JSON = QUIET) -> tuple[bytes, CompletionDecoder]:
    """The bytes for the client of these pieces and of the end after them."""
    passage = CompletionDecoder(request)
    given = [passage.feed(piece) for piece in pieces]
    given.append(passage.finish())
    return b"".join(given) + (passage.ending or b""), passage


# --- the request ------------------------------------------------------------------------------------------------


def test_only_the_models_name_changes() -> None:
    request = {"x": None, "model": "fast", "messages": [{"role": "user", "content": None}], "n": 2}
    sent = encode(request, "Qwen/Qwen3-32B")
    assert sent == orjson.dumps({**request, "model": "Qwen/Qwen3-32B"})


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (None, {"include_usage": True}),
        ({}, {"include_usage": True}),
        ({"include_usage": False, "include_obfuscation": True}, {"include_usage": True, "include_obfuscation": True}),
        ({"include_usage": None}, {"include_usage": True}),
        ({"include_usage": True, "more": 1}, {"include_usage": True, "more": 1}),
    ],
)
def test_the_usage_of_a_stream_is_always_requested(options: JSON | None, sent: JSON) -> None:
    request = {"model": "m", "messages": [], "stream": True, "stream_options": options}
    assert orjson.loads(encode(request, "m"))["stream_options"] == sent
    assert request["stream_options"] is options


@pytest.mark.parametrize("streamed", [False, None])
def test_an_unstreamed_request_is_sent_unchanged(streamed: bool | None) -> None:
    request = {"model": "m", "stream": streamed}
    assert orjson.loads(encode(request, "m")) == request


# --- a stream ---------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2000)), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.booleans(), st.booleans())
def test_the_bytes_leave_as_they_came_however_they_were_split(
    cuts: list[int], ending: bytes, mark: bool, curious: bool
) -> None:
    begin = b"\xef\xbb\xbf" if mark else b""
    data = begin + b"".join(WHOLE).replace(b"\n", ending) + b": too late"
    out, passage = passed(*split(data, cuts), request=CURIOUS if curious else QUIET)
    assert out == begin + b"".join(WHOLE if curious else PASSED_ON).replace(b"\n", ending)
    assert passage.failure is None
    assert (passage.summary.usage, passage.summary.id, passage.summary.status) == (USAGE, "chatcmpl_up", "completed")


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
@given(cuts=st.lists(st.integers(0, 100_000), max_size=8))
def test_recorded_answers_pass_through(recording: Path, cuts: list[int]) -> None:
    data = recording.read_bytes()
    out, passage = passed(*split(data, cuts), request=CURIOUS)
    assert data.rstrip().startswith(out.removesuffix(sse.DONE).rstrip())
    assert (passage.failure is not None) == (recording.stem in WITH_AN_ERROR)
    assert passage.failure is not None or out.endswith(sse.DONE)


@pytest.mark.parametrize("count", [event({"usage": COUNTED}), event({"choices": None, "usage": COUNTED})])
def test_a_chunk_that_only_counts_is_known_in_every_spelling(count: bytes) -> None:
    out, passage = passed(ROLE, STOP, count, sse.DONE)
    assert out == ROLE + STOP + sse.DONE
    assert passage.summary.usage == USAGE


def test_usage_beside_a_choice_is_the_clients_own() -> None:
    last = chunk(reason="stop", usage=COUNTED)
    out, passage = passed(ROLE, last, sse.DONE)
    assert out == ROLE + last + sse.DONE
    assert passage.summary.usage == USAGE


def test_the_newest_count_holds() -> None:
    _, passage = passed(chunk({"content": "a"}, usage={**COUNTED, "completion_tokens": 1}), STOP, COUNT, sse.DONE)
    assert passage.summary.usage == USAGE


def test_a_missing_sentinel_is_supplied_once_a_reason_was_given() -> None:
    out, passage = passed(ROLE, HELLO, STOP, COUNT)
    assert out == ROLE + HELLO + STOP + sse.DONE
    assert passage.failure is None


def test_every_choice_has_to_end() -> None:
    both = [chunk({"content": "a"}, index=0), chunk({"content": "b"}, index=1), chunk(reason="stop", index=1)]
    assert isinstance(passed(*both)[1].failure, UpstreamBroken)
    assert passed(*both, chunk(reason="stop"))[1].failure is None


@pytest.mark.parametrize("last", [b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\r\n", b"data: [DONE]\r"])
def test_a_sentinel_without_its_blank_line_counts(last: bytes) -> None:
    out, passage = passed(ROLE, last)
    assert passage.failure is None
    assert out.startswith(ROLE + b"data: [DONE]")
    assert sse.Cutter().feed(out + b"x")[1:] == [out.removeprefix(ROLE)]


def test_a_last_chunk_without_its_blank_line_counts() -> None:
    assert passed(ROLE, STOP.rstrip())[0] == ROLE + STOP + sse.DONE


def test_half_an_event_at_the_end_is_nothing() -> None:
    assert passed(ROLE, HELLO[:20])[0] == ROLE
    assert passed(ROLE, STOP, COUNT[:20])[0] == ROLE + STOP + sse.DONE


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (event({"error": {"message": "Boom.", "code": 500}}), UpstreamFailed),
        (event({"error": "Boom."}), UpstreamFailed),
        (b'event: error\ndata: {"message":"Boom."}\n\n', UpstreamFailed),
        (event({"error": {"message": "Slow down.", "code": "rate_limit_exceeded"}}), UpstreamLimited),
        (event({"error": {"message": "No.", "type": "invalid_request_error"}}), UpstreamRefused),
        (b"data: {half\n\n", UpstreamBroken),
        (b'data: "x"\n\n', UpstreamBroken),
    ],
)
def test_a_failure_ends_the_stream_behind_what_was_good(bad: bytes, kind: type[UpstreamError]) -> None:
    for pieces in ([ROLE + HELLO + bad + STOP], [ROLE, HELLO, bad, STOP]):
        out, passage = passed(*pieces)
        assert out == ROLE + HELLO
        assert type(passage.failure) is kind
        assert passage.ending is None


@pytest.mark.parametrize(
    "nothing", [b"", b"data: [DONE]\n\n", b"<!doctype html>\n\n", COMMENT * 3, b"x" * 70_000, HELLO[:30]]
)
def test_a_stream_without_a_chunk_is_not_accepted(nothing: bytes) -> None:
    _, passage = passed(nothing)
    assert isinstance(passage.failure, UpstreamBroken)
    assert not passage.accepted


def test_nothing_is_taken_once_it_is_over() -> None:
    assert passed(ROLE, STOP, sse.DONE, HELLO)[0] == ROLE + STOP + sse.DONE


@given(st.lists(JSON_VALUES | st.builds(lambda value: {"choices": [value], "usage": value}, JSON_VALUES), max_size=4))
def test_any_bytes_are_passed_on_or_refused(values: list[object]) -> None:
    out, passage = passed(*map(event, values), request=CURIOUS)
    assert b"".join(map(event, values)).startswith(out.removesuffix(sse.DONE))
    assert (passage.ending is None) != (passage.failure is None)


# --- what the books say -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("stop", "completed"),
        ("tool_calls", "completed"),
        ("length", "incomplete"),
        ("content_filter", "incomplete"),
        ("insufficient_system_resource", "failed"),
    ],
)
def test_the_finish_reason_decides_the_status(reason: str, status: str) -> None:
    assert passed(ROLE, chunk(reason=reason))[1].summary.status == status


def test_the_output_is_counted_and_not_stored() -> None:
    call = {"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "now", "arguments": "{}"}}]}
    deltas = [{"content": "four"}, {"reasoning_content": "five!"}, {"refusal": "no"}, call, {"content": None}]
    summary = passed(*map(chunk, deltas))[1].summary
    assert summary.text_length == len("four" + "five!" + "no" + "now" + "{}")
    assert "four" not in str(vars(summary))


# --- in one piece -----------------------------------------------------------------------------------------------

MESSAGE = {"role": "assistant", "content": "Hello", "tool_calls": [{"id": "c", "function": {"name": "f"}}]}
COMPLETION: JSON = {
    "id": "chatcmpl_up",
    "object": "chat.completion",
    "model": "big",
    "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "length"}],
    "usage": COUNTED,
}


def test_a_whole_answer_is_read_for_the_books() -> None:
    summary = read_whole(orjson.dumps(COMPLETION))
    assert (summary.id, summary.model, summary.usage, summary.status) == ("chatcmpl_up", "big", USAGE, "incomplete")
    assert summary.text_length == len("Hello" + "f")


@pytest.mark.parametrize("body", [b"", b"{half", b"[]", b"{}", b'{"choices":[]}', b'{"choices":[{}]}', HELLO])
def test_another_body_than_a_completion_is_refused(body: bytes) -> None:
    for read in (read_whole, as_stream):
        with pytest.raises(UpstreamBroken):
            read(body)


def test_an_error_in_a_200_is_one() -> None:
    with pytest.raises(UpstreamFailed):
        read_whole(b'{"error":{"message":"Boom."}}')


def test_a_whole_answer_can_become_a_stream() -> None:
    out, passage = passed(as_stream(orjson.dumps(COMPLETION)), request=CURIOUS)
    first, count, done = sse.Cutter().feed(out)
    chunk = orjson.loads(first.removeprefix(b"data: "))
    assert chunk["object"] == "chat.completion.chunk"
    assert chunk["choices"][0]["delta"]["tool_calls"] == [{"index": 0, **MESSAGE["tool_calls"][0]}]
    assert chunk["choices"][0]["finish_reason"] == "length"
    assert orjson.loads(count.removeprefix(b"data: "))["usage"] == COUNTED
    assert done == sse.DONE
    assert (passage.summary.usage, passage.summary.status) == (USAGE, "incomplete")


def test_too_long_a_context_names_the_messages() -> None:
    body = orjson.dumps({"error": {"message": "This model's maximum context length is 8 tokens.", "param": "messages"}})
    error = decode_error(400, {}, body)
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")


# --- what servers really send -----------------------------------------------------------------------------------

KEEP_ALIVES = [
    *[event({"type": "ping"}), b"data: {}\n\n", b"data:\n\n", b"data: null\n\n", b"event: ping\ndata: {}\n\n"],
    *[event({"choices": None}), event({"choices": []}), b"data: ping\n\n", event({"id": "c", "model": "m"})],
]


@pytest.mark.parametrize("raw", KEEP_ALIVES)
def test_a_keep_alive_goes_on_as_it_came_and_starts_nothing(raw: bytes) -> None:
    assert passed(ROLE, raw, HELLO, STOP, sse.DONE)[0] == ROLE + raw + HELLO + STOP + sse.DONE
    passage = CompletionDecoder(QUIET)
    passage.feed(raw)
    assert not passage.accepted
    assert passage.answer is None


@pytest.mark.parametrize(
    "raw", [b'{"choices":[{"index":0,"delta":{"content":"a"}}],"x":NaN}', rb'{"choices":[],"x":"\ud83d"}']
)
def test_loose_json_goes_on_as_it_came(raw: bytes) -> None:
    chunks = ROLE + b"data: %b\n\n" % raw + STOP
    assert passed(chunks, sse.DONE)[0] == chunks + sse.DONE


def test_a_whole_answer_in_loose_json_is_recorded() -> None:
    body = b'{"id":"c","choices":[{"index":0,"message":{"content":"four"},"finish_reason":"length"}],"x":NaN}'
    summary = read_whole(body)
    assert (summary.text_length, summary.status) == (4, "incomplete")


@pytest.mark.parametrize("holder", ["message", "text"])
def test_what_stands_in_the_place_of_a_delta_goes_on_and_is_counted(holder: str) -> None:
    value: Any = {"content": "four"} if holder == "message" else "four"
    raw = event({"choices": [{"index": 0, holder: value, "finish_reason": "stop"}]})
    out, passage = passed(raw, sse.DONE)
    assert out == raw + sse.DONE
    assert (passage.summary.text_length, passage.summary.finished) == (4, True)


def test_content_after_a_reason_goes_on() -> None:
    chunks = chunk({"content": "one "}, "stop") + chunk({"content": "two"}, "stop")
    assert passed(chunks, sse.DONE)[0] == chunks + sse.DONE


def test_an_event_that_is_not_understood_goes_on_later_and_fails_the_first_try() -> None:
    odd = event({"response": "Hello"})
    assert passed(ROLE, odd, STOP, sse.DONE)[0] == ROLE + odd + STOP + sse.DONE
    assert isinstance(passed(odd)[1].failure, UpstreamBroken)


def test_an_error_inside_of_a_choice_is_a_failure() -> None:
    failed = event({"choices": [{"index": 0, "error": {"message": "Boom.", "code": 502}, "delta": {}}]})
    assert isinstance(passed(ROLE, failed)[1].failure, UpstreamFailed)
