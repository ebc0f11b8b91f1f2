"""Dialects of the Responses API on other servers than OpenAI's: the client gets the contract alone."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.contract.records import Chain
from app.contract.turn import Answer
from app.errors import UpstreamBroken
from app.formats import responses
from tests.formats.responses.test_stream import exact
from tests.formats.responses.transcripts import (
    Recording,
    events,
    framed,
    link,
    read,
    recording,
    recordings,
    sent,
    stream_of,
    summed,
    turn,
)
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


# --- calls without arguments ------------------------------------------------------------------------------------

LOOK = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look", "status": "completed"}


def lines(*told: dict[str, Any]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (one["type"].encode(), orjson.dumps(one)) for one in told)


def call_events(end: str, *, with_done: bool, **response: Any) -> bytes:
    """A stream of one call without arguments."""
    done = [{"type": "response.function_call_arguments.done", "item_id": "fc_1", "output_index": 0, "arguments": ""}]
    item = {**LOOK, "arguments": ""}
    told: list[dict[str, Any]] = [
        {"type": "response.created", "response": {"id": "r"}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "status": "in_progress"}},
        *(done if with_done else []),
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": f"response.{end}", "response": {"id": "r", "status": end, "output": [item], **response}},
    ]
    return lines(*({**one, "sequence_number": number} for number, one in enumerate(told)))


@pytest.mark.parametrize("with_done", [False, True])
def test_a_streamed_call_without_arguments_has_an_empty_object(with_done: bool) -> None:
    out, decoder = read([call_events("completed", with_done=with_done)], turn())
    check_stream(framed(out, decoder, turn()))
    assert decoder.answer is not None
    assert [item["arguments"] for item in decoder.answer.output] == ["{}"]
    deltas = [event["delta"] for event in events(out) if event["type"].endswith("arguments.delta")]
    assert deltas == ["{}"]


@pytest.mark.parametrize("with_done", [False, True])
def test_a_call_that_was_cut_off_before_its_arguments_has_none(with_done: bool) -> None:
    details = {"reason": "max_output_tokens"}
    out, decoder = read([call_events("incomplete", with_done=with_done, incomplete_details=details)], turn())
    check_stream(framed(out, decoder, turn()))
    assert decoder.answer is not None
    assert [(item["arguments"], item["status"]) for item in decoder.answer.output] == [("", "incomplete")]


@pytest.mark.parametrize("arguments", ["", " ", None, {}])
def test_a_call_without_arguments_has_an_empty_object(arguments: Any) -> None:
    body = {"id": "r", "status": "completed", "output": [{**LOOK, "arguments": arguments}]}
    assert [item["arguments"] for item in responses.decode(orjson.dumps(body), turn()).output] == ["{}"]


@pytest.mark.parametrize("stored", [False, True])
def test_a_call_without_arguments_goes_upstream_with_an_empty_object(stored: bool) -> None:
    """Also one that an older version stored, or that a client brings."""
    call = {**LOOK, "arguments": ""}
    output = {"type": "function_call_output", "call_id": "call_1", "output": "x"}
    history = turn(output, chain=Chain((link(call),))) if stored else turn(call, output)
    assert [item["arguments"] for item in sent(history) if "arguments" in item] == ["{}"]


# --- the end ----------------------------------------------------------------------------------------------------

SAID = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": []}


def ended(response: dict[str, Any], kind: str = "completed") -> list[Answer]:
    """The answer as JSON and as a stream that ends with this response."""
    stream = lines(
        {"type": "response.created", "response": {"id": "r"}},
        {"type": "response.output_text.delta", "delta": "Hi"},
        {"type": f"response.{kind}", "response": {"output": [], **response}},
    )
    out, decoder = read([stream], turn())
    assert decoder.answer is not None
    check_stream(framed(out, decoder, turn()))
    body = {"id": "r", "output": [{**SAID, "content": "Hi"}], **response}
    return [responses.decode(orjson.dumps(body), turn()), decoder.answer]


@pytest.mark.parametrize(
    ("response", "status", "reason"),
    [
        ({"status": "incomplete", "incomplete_details": {"reason": "length"}}, "incomplete", "max_output_tokens"),
        ({"status": "incomplete", "incomplete_details": {"reason": "SAFETY"}}, "incomplete", "content_filter"),
        ({"status": "completed", "incomplete_details": {"reason": "max_tokens"}}, "incomplete", "max_output_tokens"),
        ({"status": "completed", "incomplete_details": None}, "completed", None),
        ({"status": "completed", "error": {"message": "it broke"}}, "failed", None),
        ({"status": "cancelled"}, "failed", None),
        ({"status": "in_progress"}, "completed", None),
    ],
)
@pytest.mark.parametrize("kind", ["completed", "done"])
def test_the_end_is_what_the_response_says(
    response: dict[str, Any], status: str, reason: str | None, kind: str
) -> None:
    for answer in ended(response, kind):
        assert answer.status == status
        assert (answer.incomplete_details or {}).get("reason") == reason


@pytest.mark.parametrize("kind", ["response.cancelled", "response.error", "error"])
def test_other_events_that_end_a_stream_are_failures(kind: str) -> None:
    end = {"type": kind, "error": {"message": "it broke"}, "response": {"status": "cancelled", "output": []}}
    _, decoder = read([lines({"type": "response.output_text.delta", "delta": "Hi"}, end)], turn())
    assert decoder.answer is not None
    assert decoder.answer.status == "failed"


def test_the_end_may_be_the_response_itself() -> None:
    told = lines(
        {"type": "response.output_text.delta", "delta": "Hi"},
        {"type": "response.completed", "id": "r", "status": "completed", "output": []},
    )
    _, decoder = read([told], turn())
    assert decoder.answer is not None
    assert (decoder.answer.status, decoder.answer.upstream_id) == ("completed", "r")


@pytest.mark.parametrize("item", ["Hi", {"type": "message", "text": "Hi"}, {"content": [{"text": "Hi"}]}])
def test_text_of_an_item_is_read_in_every_form(item: Any) -> None:
    answer = responses.decode(orjson.dumps({"status": "completed", "output": [item]}), turn())
    assert answer.output[0]["content"][0]["text"] == "Hi"


# --- what leaves ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"NaN", b"[-Infinity]", b'"\xed\xa0\xbd"', b'"\\ud83d"'])
@pytest.mark.parametrize("later", [0, 1])
def test_loose_json_leaves_as_strict_json(value: bytes, later: int) -> None:
    """In the first delta of an item, and in one that would go on unparsed."""
    told = exact([{**SAID, "content": [{"type": "output_text", "text": "One two", "annotations": [], "logprobs": []}]}])
    raws = stream_of(*told).split(b"\n\n")
    at = next(number for number, raw in enumerate(raws) if b"output_text.delta" in raw) + later
    raws[at] = raws[at][:-1] + b',"obfuscation":%b}' % value
    asked = turn(include=["message.output_text.logprobs"])
    out, decoder = read([b"\n\n".join(raws)], asked)
    # The reader of these events is strict.
    check_stream(framed(out, decoder, asked))
    assert decoder.answer is not None
    assert decoder.answer.output[0]["content"][0]["text"] == "One two"


def test_events_of_other_apis_do_not_reach_the_client() -> None:
    told = exact([{**SAID, "content": [{"type": "output_text", "text": "One two", "annotations": [], "logprobs": []}]}])
    limits = {"type": "codex.rate_limits", "rate_limits": {"allowed": True}}
    out, decoder = read([stream_of(*told[:5], {"type": "keepalive"}, limits, *told[5:])], turn())
    assert out == stream_of(*told[2:-1])
    assert decoder.path == "bytes"


def test_deltas_of_an_unknown_type_alone_are_no_completed_answer() -> None:
    told = lines(
        {"type": "response.created", "response": {"id": "r"}},
        {"type": "response.words.delta", "delta": "Hi"},
        {"type": "response.completed", "response": {"status": "completed", "output": []}},
    )
    _, decoder = read([told], turn())
    assert decoder.answer is not None
    assert decoder.answer.status == "failed"


@pytest.mark.parametrize("kind", ["compaction_summary", "context_compaction"])
@pytest.mark.parametrize("streamed", [True, False])
def test_a_compaction_has_the_name_that_the_contract_gives_it(streamed: bool, kind: str) -> None:
    item = {"type": kind, "id": "cmp_1", "encrypted_content": "gAAA"}
    response = {"id": "resp_up", "object": "response", "status": "completed", "output": [item]}
    if not streamed:
        answer = responses.decode(orjson.dumps(response), turn())
    else:
        told = [
            {"type": "response.created", "response": {**response, "status": "in_progress", "output": []}},
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": response},
        ]
        out, decoder = read([stream_of(*({**event, "sequence_number": at} for at, event in enumerate(told)))], turn())
        check_stream(framed(out, decoder, turn()))
        assert decoder.answer is not None
        answer = decoder.answer
    assert answer.output == [{**item, "type": "compaction"}]


@pytest.mark.parametrize("value", [[], {}, [{}], 1])
def test_a_status_or_a_type_that_is_no_word_counts_as_none(value: Any) -> None:
    part = {"type": value, "text": "Hi."}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": value, "content": [part]}
    answer = responses.decode(orjson.dumps({"id": "r", "status": "completed", "output": [item]}), turn())
    assert answer.output[0]["status"] == "completed"
    assert answer.output[0]["content"][0]["text"] == "Hi."
