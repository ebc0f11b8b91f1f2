"""Recorded streams, deviated as servers deviate: the answer keeps its meaning. What is not understood is left out or an
error: no answer is `completed` with less content."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import formats
from app.contract.turn import Answer, Turn
from app.errors import UpstreamError
from app.formats import Decoder
from tests.formats.conversations import TRANSLATING, framed, read, recordings, without_ids
from tests.formats.responses import transcripts
from tests.formats.responses.test_stream import exact
from tests.response_contract import check_stream
from tests.test_sse import split

JSON = dict[str, Any]
Event = tuple[str | None, JSON]
"""Name and data."""


class Stream:
    """A recorded stream, cut into its events."""

    def __init__(self, format_: str, name: str, body: bytes, turn: Turn) -> None:
        self.format = format_
        self.name = name
        self.turn = turn
        self.events = [event for raw in body.split(b"\n\n") if (event := parsed(raw)) is not None]
        self.is_done = b"[DONE]" in body
        self.meaning = meaning(self.decoded([body])[1])

    def decoded(self, pieces: list[bytes]) -> tuple[bytes, Decoder]:
        return read(self.format, pieces, self.turn)

    def written(self, events: Iterable[Event]) -> list[bytes]:
        """The events as bytes, each without its blank line."""
        done = [b"data: [DONE]"] if self.is_done else []
        return [*(b"%bdata: %b" % (named(name), dumped(data)) for name, data in events), *done]

    def check(self, raws: list[bytes], cuts: Iterable[int] = ()) -> None:
        """The stream of these events means the same and keeps the contract."""
        body = b"\n\n".join(raws) + b"\n\n"
        out, decoder = self.decoded(split(body, list(cuts)))
        assert meaning(decoder) == self.meaning
        check_stream(framed(out, decoder, self.turn))

    def __str__(self) -> str:
        return f"{self.format}-{self.name}"


def parsed(raw: bytes) -> Event | None:
    found = re.fullmatch(rb"(?:event: (.*)\n)?data: (\{.*\})\n?", raw.strip(b"\n"), re.DOTALL)
    return (found[1].decode() if found[1] else None, orjson.loads(found[2])) if found else None


def named(name: str | None) -> bytes:
    return b"event: %b\n" % name.encode() if name else b""


def dumped(data: JSON) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


def meaning(decoder: Decoder) -> JSON:
    answer = decoder.answer
    assert answer is not None
    return {
        "status": answer.status,
        "incomplete": (answer.incomplete_details or {}).get("reason"),
        "usage": answer.usage,
        "output": [plain(item) for item in without_ids(answer.output)],
    }


def plain(item: JSON) -> JSON:
    return {**item, "status": item["status"] if item["type"] == "function_call" else None}


def text_of(answer: Answer) -> str:
    parts = [part for item in answer.output for part in item.get("content") or ()]
    return "".join(part.get("text") or part.get("refusal") or "" for part in parts)


def exact_stream() -> Stream:
    content = [{"type": "output_text", "text": "One two three four", "annotations": [], "logprobs": []}]
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": '{"a":1}'}
    usage = {"input_tokens": 5, "output_tokens": 16, "total_tokens": 21}
    body = transcripts.stream_of(*exact([message, {**call, "status": "completed"}], usage))
    return Stream("responses", "exact", body, transcripts.turn(stream=True))


STREAMS = [
    *(Stream(name, one.name, one.body, one.turn) for name in TRANSLATING for one in recordings(name) if one.streamed),
    *(Stream("responses", one.name, one.body, one.turn) for one in transcripts.recordings() if one.streamed),
    exact_stream(),
]
#: Those that do not fail: a failure may come at another event when the events differ.
WHOLE = [one for one in STREAMS if one.meaning["status"] != "failed"]
OF = {format_: [one for one in WHOLE if one.format == format_] for format_ in (*TRANSLATING, "responses")}

every_stream = pytest.mark.parametrize("stream", WHOLE, ids=str)
few = settings(max_examples=8)


# --- bytes ------------------------------------------------------------------------------------------------------

KEEP_ALIVES = [
    *[b": ping", b":", b"data:", b"data: ", b"event: ping", b"event: keepalive\ndata:", b"id: 1", b"retry: 1000"],
    *[b"data: {}", b"data: null", b"data: []", b"data: 1", b'data: ""', b"data: ping", b'data: "keep-alive"'],
    *[b"data: : OPENROUTER PROCESSING", b"data: [ping]", b"event: heartbeat\ndata: alive"],
    *[b'data: {"type":"ping"}', b'event: ping\ndata: {"type": "ping"}', b'data:{"type":"keepalive"}'],
    *[b'data: {"type":"keepalive","sequence_number":0}', b'data: {"event":"heartbeat","at":1}'],
    *[b'data: {"type":"response.keep_alive"}', b'event: ping\ndata: {"message":"still here"}'],
    *[b'data: {"choices":null}', b'data: {"choices":[]}', b'data: {"status":"processing","message":"position 3"}'],
    b'data: {"id":"c","object":"chat.completion.chunk","model":"m"}',
    b'data: {"choices":[],"prompt_filter_results":[{"prompt_index":0}]}',
    b'event: codex.rate_limits\ndata: {"type":"codex.rate_limits","rate_limits":{"allowed":true}}',
]


@every_stream
@few
@given(data=st.data())
def test_keep_alives_change_nothing_wherever_they_come(stream: Stream, data: st.DataObject) -> None:
    raws = stream.written(stream.events)
    for raw in data.draw(st.lists(st.sampled_from(KEEP_ALIVES), min_size=1, max_size=6)):
        raws.insert(data.draw(st.integers(0, len(raws))), raw)
    stream.check(raws, data.draw(st.lists(st.integers(0, 10_000), max_size=20)))


@pytest.mark.parametrize("format_", OF)
@pytest.mark.parametrize("raw", KEEP_ALIVES)
def test_a_keep_alive_neither_starts_a_stream_nor_ends_failover(format_: str, raw: bytes) -> None:
    stream = OF[format_][0]
    decoder = formats.load(format_).decoder(stream.turn, 2)
    assert decoder.feed(raw + b"\n\n") == b""
    assert not decoder.accepted
    assert not decoder.started
    with pytest.raises(UpstreamError):
        decoder.feed(b'event: error\ndata: {"error":{"message":"boom","code":"server_error"}}\n\n')


@every_stream
@few
@given(
    cuts=st.lists(st.integers(0, 10_000), max_size=40),
    line_end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    mark=st.booleans(),
    spaced=st.booleans(),
    tail=st.sampled_from([b"", b"\n", b"\n\n", b"\n\ndata: {", b"\n\n: bye"]),
)
def test_any_line_ends_and_splits_mean_the_same(
    stream: Stream, cuts: list[int], line_end: bytes, mark: bool, spaced: bool, tail: bytes
) -> None:
    raws = stream.written(stream.events)
    if not spaced:
        raws = [re.sub(rb"(?m)^(data|event): ", rb"\1:", raw) for raw in raws]
    body = (b"\xef\xbb\xbf" if mark else b"") + (b"\n\n".join(raws) + tail).replace(b"\n", line_end)
    out, decoder = stream.decoded(split(body, cuts))
    assert meaning(decoder) == stream.meaning
    check_stream(framed(out, decoder, stream.turn))


@every_stream
@few
@given(data=st.data())
def test_loose_json_and_other_names_of_events_mean_the_same(stream: Stream, data: st.DataObject) -> None:
    """The type of an event counts, where it has one, and not its name."""
    names = st.sampled_from([None, "message", "data"])
    events = [(data.draw(names) if "type" in event else name, event) for name, event in stream.events]
    loose = st.sampled_from([None, float("nan"), [float("inf"), -float("inf")], "\ud83d", "\x00"])
    # The contract knows this member, and clients may ignore it.
    told = [(name, {**event, "obfuscation": data.draw(loose)}) for name, event in events]
    stream.check(stream.written(told))


# --- reasons ----------------------------------------------------------------------------------------------------


def reason_of(stream: Stream) -> str | None:
    choices = [choice for _, event in stream.events for choice in event.get("choices") or ()]
    return next((choice["finish_reason"] for choice in choices if choice.get("finish_reason")), None)


SPELLINGS: list[Callable[[str], Any]] = [
    str,
    str.upper,
    lambda reason: f"FINISH_REASON_{reason.upper()}",
    lambda reason: {"type": reason},
]


@pytest.mark.parametrize("stream", [one for one in OF["chat_completions"] if reason_of(one)], ids=str)
@few
@given(data=st.data())
def test_a_reason_on_any_chunk_means_the_same(stream: Stream, data: st.DataObject) -> None:
    reason, member = reason_of(stream), data.draw(st.sampled_from(["finish_reason", "finishReason"]))
    assert reason is not None
    spelt = data.draw(st.sampled_from(SPELLINGS))(reason)
    early = data.draw(st.sampled_from(["always", "sometimes", "never"]))
    events = []
    for name, event in stream.events:
        choices = []
        for choice in event.get("choices") or ():
            given_reason = choice.pop("finish_reason", None) if (choice := dict(choice)) else None
            told = early == "always" or (early == "sometimes" and data.draw(st.booleans()))
            choices.append({**choice, member: spelt if given_reason or told else None})
        events.append((name, {**event, "choices": choices}))
    stream.check(stream.written(events))


@pytest.mark.parametrize("stream", OF["messages"], ids=str)
@few
@given(data=st.data())
def test_a_stop_reason_before_later_blocks_means_the_same(stream: Stream, data: st.DataObject) -> None:
    events, ends = list(stream.events), [event for _, event in stream.events if event["type"] == "message_delta"]
    early = ("message_delta", {**ends[-1], "usage": None})
    for at in data.draw(st.lists(st.integers(1, len(events) - 1), max_size=3)):
        events.insert(at, early)
    stream.check(stream.written(events))


# --- members ----------------------------------------------------------------------------------------------------


def in_parts(text: str, kind: str) -> list[JSON]:
    return [{"type": kind, kind if kind == "thinking" else "text": text}]


def content_as_parts(delta: JSON) -> JSON:
    text = delta.get("content")
    return {**delta, "content": in_parts(text, "text")} if isinstance(text, str) and text else delta


def content_as_object(delta: JSON) -> JSON:
    text = delta.get("content")
    return {**delta, "content": {"role": "model", "parts": [{"text": text}]}} if isinstance(text, str) else delta


def reasoning_as(name: str) -> Callable[[JSON], JSON]:
    def renamed(delta: JSON) -> JSON:
        known = [key for key in ("reasoning_content", "reasoning") if delta.get(key)]
        rest = {key: value for key, value in delta.items() if key not in ("reasoning_content", "reasoning")}
        return {**rest, name: delta[known[0]]} if known else delta

    return renamed


def reasoning_as_part(delta: JSON) -> JSON:
    renamed = reasoning_as("content")(delta)
    return {**renamed, "content": in_parts(renamed["content"], "thinking")} if renamed is not delta else delta


def calls_flat(delta: JSON) -> JSON:
    calls = [call for call in delta.get("tool_calls") or () if isinstance(call, dict)]
    flat = [{**{key: call[key] for key in call if key != "function"}, **(call.get("function") or {})} for call in calls]
    return {**delta, "tool_calls": flat} if calls else delta


MEMBERS = [
    content_as_parts,
    content_as_object,
    *map(reasoning_as, ("reasoning", "reasoning_content", "reasoning_text", "thinking")),
    reasoning_as_part,
    calls_flat,
]


def redone(event: JSON, change: Callable[[JSON], JSON], holder: str = "delta") -> JSON:
    choices = [
        {**{key: choice[key] for key in choice if key != "delta"}, holder: change(choice["delta"])}
        if isinstance(choice.get("delta"), dict)
        else choice
        for choice in event.get("choices") or ()
    ]
    return {**event, "choices": choices}


@pytest.mark.parametrize("stream", OF["chat_completions"], ids=str)
@few
@given(change=st.sampled_from(MEMBERS))
def test_content_in_another_member_is_the_same_content(stream: Stream, change: Callable[[JSON], JSON]) -> None:
    stream.check(stream.written((name, redone(event, change)) for name, event in stream.events))


def is_plain(stream: Stream) -> bool:
    """Whether messages can replace the deltas: calls in pieces have an index, and several choices repeat words."""
    return "choices" not in stream.name and all("call" not in item["type"] for item in stream.meaning["output"])


@pytest.mark.parametrize("stream", [one for one in OF["chat_completions"] if is_plain(one)], ids=str)
@pytest.mark.parametrize("adds_up", [False, True])
def test_messages_in_place_of_deltas_are_the_same_content(stream: Stream, adds_up: bool) -> None:
    """Each message has the next piece of the text, or all text so far."""
    so_far: dict[str, str] = {}

    def added(delta: JSON) -> JSON:
        texts = {name: value for name, value in delta.items() if isinstance(value, str) and name != "role"}
        so_far.update({name: so_far.get(name, "") + value for name, value in texts.items()})
        return {**delta, **so_far}

    change = added if adds_up else dict
    stream.check(stream.written((name, redone(event, change, "message")) for name, event in stream.events))


@pytest.mark.parametrize("stream", OF["messages"], ids=str)
@few
@given(data=st.data())
def test_blocks_that_never_begin_or_end_too_early_lose_no_text(stream: Stream, data: st.DataObject) -> None:
    events = list(stream.events)
    for at in data.draw(st.lists(st.integers(1, len(events) - 1), max_size=3)):
        name, event = events[at]
        delta = event.get("delta") or {}
        if delta.get("type") == "text_delta":
            # Some servers lose count of their blocks.
            events[at] = (name, {**event, "index": 99})
    _, decoder = stream.decoded([b"\n\n".join(stream.written(events)) + b"\n\n"])
    assert decoder.answer is not None
    kinds = [item["type"] for item in decoder.answer.output]
    assert kinds.count("function_call") == [one["type"] for one in stream.meaning["output"]].count("function_call")
    assert len(text_of(decoder.answer)) == sum(len(text) for text in texts(stream.meaning["output"]))


def texts(items: list[JSON]) -> list[str]:
    parts = [part for item in items for part in item.get("content") or ()]
    return [part.get("text") or part.get("refusal") or "" for part in parts]


FAMILIES = {
    "response.output_text": "response.text",
    "response.reasoning_text": "response.reasoning",
    "response.reasoning_summary_text": "response.reasoning_summary",
}


@pytest.mark.parametrize("stream", OF["responses"], ids=str)
@few
@given(data=st.data())
def test_events_under_other_names_mean_the_same(stream: Stream, data: st.DataObject) -> None:
    renamed = data.draw(st.booleans())
    lost = data.draw(st.sets(st.sampled_from(["sequence_number", "logprobs", "obfuscation"])))
    member = data.draw(st.sampled_from(["delta", "text", "object"]))
    events = []
    for name, given_event in stream.events:
        event = {key: value for key, value in given_event.items() if key not in lost}
        family, _, step = str(event.get("type", name)).rpartition(".")
        if step == "delta" and family in FAMILIES and member != "delta":
            delta = event.pop("delta")
            event = {**event, "text": delta} if member == "text" else {**event, "delta": {"text": delta}}
        if renamed:
            event["type"] = f"{FAMILIES.get(family, family)}.{step}".lstrip(".")
        events.append((None if renamed else name, event))
    body = b"\n\n".join(stream.written(events)) + b"\n\n"
    _, decoder = stream.decoded([body])
    assert {**meaning(decoder), "output": None} == {**stream.meaning, "output": None}
    assert [(item["type"], texts([item])) for item in meaning(decoder)["output"]] == [
        (item["type"], texts([item])) for item in stream.meaning["output"]
    ]


# --- characters -------------------------------------------------------------------------------------------------

WORDS = st.text(st.sampled_from("a é漢😀🎼\n"), min_size=1, max_size=12)


def halves(text: str, cuts: Iterable[int]) -> list[str]:
    """The text cut between any two units of UTF-16."""
    units = text.encode("utf-16-le")
    edges = [0, *sorted(cut % (len(units) // 2 + 1) for cut in cuts), len(units) // 2]
    return [units[2 * begin : 2 * end].decode("utf-16-le", "surrogatepass") for begin, end in pairwise(edges)]


def chat_of(pieces: list[str], member: str = "content") -> list[JSON]:
    chunks = [{"choices": [{"index": 0, "delta": {member: piece}, "finish_reason": None}]} for piece in pieces]
    return [*chunks, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]


def messages_of(pieces: list[str]) -> list[JSON]:
    return [
        {"type": "message_start", "message": {"id": "m", "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": one}} for one in pieces),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ]


def responses_of(pieces: list[str]) -> list[JSON]:
    text = "".join(pieces)
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}
    events = exact([{**message, "content": [{**content[0], "text": "x"}]}])
    at = next(at for at, event in enumerate(events) if event["type"].endswith("text.delta"))
    told = [*events[:at], *({**events[at], "delta": piece} for piece in pieces), *events[at + 1 :]]
    for event in told[at + len(pieces) :]:
        event |= {"text": text} if "text" in event else {}
        event |= {"part": content[0]} if "part" in event else {}
        event |= {"item": message} if "item" in event else {}
        event |= {"response": {**event["response"], "output": [message]}} if "response" in event else {}
    return [{**event, "sequence_number": number} for number, event in enumerate(told)]


SAYING: Mapping[str, Callable[[list[str]], list[JSON]]] = {
    "chat_completions": chat_of,
    "messages": messages_of,
    "responses": responses_of,
}


@pytest.mark.parametrize("format_", SAYING)
@settings(max_examples=40)
@given(
    text=WORDS,
    cuts=st.lists(st.integers(0, 30), max_size=6),
    raw=st.booleans(),
    alive=st.booleans(),
    bytes_cut=st.lists(st.integers(0, 10_000), max_size=6),
)
def test_a_character_that_was_cut_in_two_is_whole_again(
    format_: str, text: str, cuts: list[int], raw: bool, alive: bool, bytes_cut: list[int]
) -> None:
    """Escaped or as bytes, next to each other or with a keep-alive in between."""
    events = [json.dumps(event, ensure_ascii=not raw) for event in SAYING[format_](halves(text, cuts))]
    body = "".join(f"data: {event}\n\n" + ("data: {}\n\n" if alive else "") for event in events)
    asked = transcripts.turn(stream=True)
    out, decoder = read(format_, split(body.encode("utf-8", "surrogatepass"), bytes_cut), asked)
    assert decoder.answer is not None
    assert text_of(decoder.answer) == text
    check_stream(framed(out, decoder, asked))


@pytest.mark.parametrize("format_", SAYING)
@settings(max_examples=40)
@given(pieces=st.lists(st.text(st.sampled_from("a😀\ud83d\ude00"), min_size=1, max_size=4), min_size=1, max_size=4))
def test_what_is_left_of_half_a_character_is_the_same_in_deltas_and_text(format_: str, pieces: list[str]) -> None:
    body = b"".join(b"data: %b\n\n" % dumped(event) for event in SAYING[format_](pieces))
    asked = transcripts.turn(stream=True)
    out, decoder = read(format_, [body], asked)
    check_stream(framed(out, decoder, asked))
    assert decoder.answer is not None
    whole = [unit for unit in "".join(pieces) if unit == "a"]
    assert [unit for unit in text_of(decoder.answer) if unit == "a"] == whole


# --- what is not understood -------------------------------------------------------------------------------------

UNKNOWN = st.sampled_from(["content_text", "body", "answer", "output", "generated_text", "x"])


@every_stream
@settings(max_examples=12)
@given(data=st.data())
def test_an_answer_that_lost_content_is_never_completed(stream: Stream, data: st.DataObject) -> None:
    """Events in shapes of no known dialect are left out if they have no content, else the answer fails."""
    events = list(stream.events)
    at = data.draw(st.integers(0, len(events) - 1))
    _, event = events[at]
    wrapped: list[JSON] = [
        {"data": event},
        {"output": event},
        {"response": "Hello"},
        {"token": {"text": "Hello"}},
        {"outputs": [{"content": {"parts": [{"text": "Hello"}]}}]},
        {"type": "unheard_of", "payload": {"text": "Hello"}},
        {"message": "no", "code": 500},
        {"detail": "no"},
    ]
    events[at] = (None, data.draw(st.sampled_from(wrapped)))
    try:
        _, decoder = stream.decoded([b"\n\n".join(stream.written(events)) + b"\n\n"])
    except UpstreamError:
        return
    assert decoder.answer is not None
    if decoder.answer.status == "completed":
        assert texts(decoder.answer.output) == texts(stream.meaning["output"])


@pytest.mark.parametrize("member", ["body", "answer", "output", "generated_text", "tool_plan"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_message_in_an_unknown_member_is_an_error(member: str, whole: bool) -> None:
    asked, format_ = transcripts.turn(stream=True), formats.load("chat_completions")
    choice = {"index": 0, "message": {"role": "assistant", member: "Hello"}, "finish_reason": "stop"}
    chunks = [choice] if whole else [event["choices"][0] for event in chat_of(["Hello"], member)]
    bodies = [orjson.dumps({"choices": [one]}) for one in chunks]
    with pytest.raises(UpstreamError, match="does not understand"):
        format_.decode(bodies[0], asked) if whole else format_.decoder(asked, 2).feed(b"data: %b\n\n" % bodies[0])
